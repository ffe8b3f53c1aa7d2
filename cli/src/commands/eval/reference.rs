//! What samples are compared with: statistics from a file, or a data set whose statistics are computed once.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use strata_datasets::DatasetOptions;
use strata_diffusion::evaluation::{
    Features,
    collect::{Collected, Keep},
    extractor::{Extractor, Identity},
    moments::{Moments, Statistics},
};
use strata_training::sha256_bytes;

use super::{
    source::Source,
    stats_file::{self, Stored},
    warnings,
};
use crate::{args, args::Metric, context::Context, hint::hinted};

/// What is said where there is none.
pub const MISSING: &str = "--reference: name the data or statistics to compare with";

/// Which reference, and how it is read.
pub struct Asked<'a> {
    /// Its name.
    pub against: &'a args::Against,
    /// How its images are described.
    pub network: &'a args::Network,
    /// How they are read.
    pub reading: &'a args::Reading,
}

/// The reference.
pub struct Reference {
    /// Means and covariances.
    pub stored: Stored,
    /// All features, where a measure looks at them.
    pub features: Option<Features>,
    source: String,
    /// Of the statistics' file, or of the images.
    pub sha256: String,
}

impl Reference {
    /// What `--reference` names, with what is to be kept of it.
    ///
    /// # Errors
    /// If it cannot be read, is of another network, or has statistics alone where features are needed.
    pub fn load(asked: &Asked<'_>, network: &dyn Extractor, keep: Keep, context: &Context) -> anyhow::Result<Self> {
        let source = asked.against.reference.clone().context(MISSING)?;
        let path = Path::new(&source);
        if !stats_file::is_statistics(path) {
            return Self::of_images(source, asked, network, keep, context);
        }
        if keep.features {
            let message = format!("{source}: holds a mean and a covariance, and KID, precision and recall look at every image");
            return Err(hinted(message, "give the images themselves with --reference"));
        }
        let stored = stats_file::read(path)?;
        let expected = network.identity().features;
        let got = stored.features.dim();
        ensure!(got == expected, "{source}: expected statistics of {expected} features, got {got}");
        if let (true, got) = (keep.spatial, stored.spatial.as_ref().map_or(0, Statistics::dim)) {
            let expected = network.spatial();
            ensure!(got == expected, "{source}: expected `mu_s` and `sigma_s` of {expected} spatial features, got {got}");
        }
        let sha256 = strata_training::sha256_file(path)?;
        Ok(Self { stored, features: None, source, sha256 })
    }

    fn of_images(
        name: String,
        asked: &Asked<'_>,
        network: &dyn Extractor,
        keep: Keep,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let options = DatasetOptions { layout: None, split: asked.against.reference_split.clone(), ..asked.reading.options() };
        let source = Source::open(&name, &options, None, context)?;
        let sha256 = source.sha256()?;
        let cached = cache_file(&sha256, network.identity());
        if let Some(file) = cached.as_deref().filter(|file| !keep.features && file.is_file()) {
            match stats_file::read(file) {
                Ok(stored) if stored.spatial.is_some() || !keep.spatial => {
                    return Ok(Self { stored, features: None, source: name, sha256 });
                }
                Ok(_) => {}
                Err(error) => context.say(format!("computed anew: {error:#}")),
            }
        }
        let seen = source.read(network, keep, (asked.network.batch, asked.against.max_bad), context)?;
        if !seen.bad.is_empty() || seen.flat > 0 {
            warnings::tell(&seen, 0, &[Metric::Fid], context);
        }
        let stored = stored(&seen)?;
        // Unreadable images may be readable another time.
        if let Some(file) = cached.filter(|_| seen.bad.is_empty()) {
            remember(&file, &stored, context);
        }
        Ok(Self { stored, features: keep.features.then_some(seen.features), source: name, sha256 })
    }

    /// For the answer.
    pub fn describe(&self) -> Value {
        json!({ "source": self.source, "sha256": self.sha256, "count": self.stored.features.count })
    }
}

/// The statistics of what was seen.
///
/// # Errors
/// If it was fewer than two images.
pub fn stored(seen: &Collected) -> anyhow::Result<Stored> {
    let spatial = seen.spatial.as_ref().map(Moments::statistics).transpose()?;
    Ok(Stored { features: seen.moments.statistics()?, spatial })
}

/// A cache that cannot be written costs time, not the result.
fn remember(file: &Path, stored: &Stored, context: &Context) {
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder).map_err(anyhow::Error::from).and_then(|()| stats_file::write(file, stored));
    if let Err(error) = written {
        context.say(format!("the reference's statistics are not kept for the next time: {error:#}"));
    }
}

/// Where statistics of these images under this network are kept: in the user's cache folder, if there is one.
fn cache_file(data_sha256: &str, identity: &Identity) -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")))?;
    let key = sha256_bytes(format!("{data_sha256} {identity:?} 1").as_bytes());
    Some(folder.join("strata").join("statistics").join(format!("{key}.npz")))
}
