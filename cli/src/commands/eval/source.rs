//! Pictures to describe that lie on disk: a data set, or latents, which are decoded on the way.

use std::{ops::Range, path::Path};

use anyhow::ensure;
use serde_json::{Value, json};
use strata_autoencoder::LoadedAutoencoder;
use strata_datasets::{Dataset, DatasetOptions, LatentSet};
use strata_diffusion::{
    Error,
    evaluation::{
        collect::{self, Collected, Collector, Keep, Reading},
        extractor::Extractor,
    },
};
use strata_training::{Ranks, sha256_bytes, sha256_file};

use crate::{commands::decode, context::Context};

/// Pictures on disk.
pub enum Source {
    /// Images of a data set, and which of them.
    Files(Dataset, Vec<usize>),
    /// Latents.
    Latents(Box<Latents>),
}

/// Latents, what decodes them, and which of them.
pub struct Latents {
    name: String,
    set: LatentSet,
    autoencoder: LoadedAutoencoder,
    rows: Range<usize>,
}

impl Source {
    /// The first `num` pictures of what is at `name`, or all: a folder that `strata encode` wrote, with the autoencoder in it, or a
    /// data set.
    ///
    /// # Errors
    /// If it cannot be opened, or holds fewer.
    pub fn open(name: &str, options: &DatasetOptions, num: Option<usize>, context: &Context) -> anyhow::Result<Self> {
        let path = Path::new(name);
        if path.join("manifest.json").is_file() {
            let (set, autoencoder) = decode::open(path, None, context)?;
            let num = first(name, set.len(), num)?;
            return Ok(Self::Latents(Box::new(Latents { name: name.to_string(), set, autoencoder, rows: 0..num })));
        }
        let data = Dataset::open(name, options)?;
        let num = first(name, data.len(), num)?;
        Ok(Self::Files(data, (0..num).collect()))
    }

    /// What one of several processes takes of it.
    pub fn part(self, ranks: Ranks) -> Self {
        match self {
            Self::Files(data, indices) => {
                let own = indices[ranks.part(indices.len())].to_vec();
                Self::Files(data, own)
            }
            Self::Latents(latents) => {
                let rows = ranks.part(latents.rows.len());
                Self::Latents(Box::new(Latents { rows, ..*latents }))
            }
        }
    }

    /// Describes all of them.
    ///
    /// # Errors
    /// As the libraries'.
    pub fn read(
        &self,
        network: &dyn Extractor,
        keep: Keep,
        (batch, max_bad): (usize, f64),
        context: &Context,
    ) -> anyhow::Result<Collected> {
        let mut collector = Collector::new(network, keep);
        let (progress, interrupt) = (context.progress.as_ref(), &context.interrupt);
        match self {
            Self::Files(data, indices) => {
                let reading = Reading { data, indices, batch, max_bad };
                collect::read(&mut collector, &reading, progress, interrupt)?;
            }
            Self::Latents(latents) => {
                progress.start("decoding and describing", latents.rows.len() as u64, "images");
                for start in latents.rows.clone().step_by(batch.max(1)) {
                    if interrupt.is_set() {
                        return Err(Error::Interrupted.into());
                    }
                    let rows = start..(start + batch.max(1)).min(latents.rows.end);
                    collector.add(&decode::pictures(&latents.autoencoder, &latents.set, rows, None, context)?)?;
                    progress.advance(collector.count(), "");
                }
                progress.finish();
            }
        }
        Ok(collector.finish())
    }

    /// Of the pictures' bytes, or of the latents' manifest, which holds the hashes of latents and autoencoder.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn sha256(&self) -> anyhow::Result<String> {
        Ok(match self {
            Self::Files(data, indices) => data.content_sha256(indices)?,
            Self::Latents(latents) => {
                let manifest = sha256_file(Path::new(&latents.name).join("manifest.json"))?;
                sha256_bytes(format!("{manifest} {}", latents.rows.end).as_bytes())
            }
        })
    }

    /// For the answer.
    pub fn describe(&self) -> Value {
        match self {
            Self::Files(data, indices) => json!({ "source": data.spec(), "asked": indices.len() }),
            Self::Latents(latents) => {
                let autoencoder = &latents.set.manifest().autoencoder_sha256;
                json!({ "source": latents.name, "asked": latents.rows.len(), "autoencoder_sha256": autoencoder })
            }
        }
    }
}

/// How many of `len` pictures are meant.
///
/// # Errors
/// If there are fewer.
pub fn first(name: &str, len: usize, num: Option<usize>) -> anyhow::Result<usize> {
    let n = num.unwrap_or(len);
    ensure!(n > 0 && n <= len, "{name}: expected {n} images (at least 1), got {len}");
    Ok(n)
}
