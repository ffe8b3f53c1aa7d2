//! What samples are compared with: statistics from a file, or a data set whose statistics are computed once.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use strata_datasets::{Dataset, DatasetOptions};
use strata_diffusion::evaluation::{
    Features,
    collect::Keep,
    extractor::{Extractor, Identity},
    moments::Statistics,
};
use strata_training::sha256_bytes;

use super::{samples, stats_file, warnings};
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
    /// Mean and covariance.
    pub statistics: Statistics,
    /// All features, where a measure looks at them.
    pub features: Option<Features>,
    source: String,
    /// Of the statistics' file, or of the images.
    pub sha256: String,
}

impl Reference {
    /// What `--reference` names.
    ///
    /// # Errors
    /// If it cannot be read, is of another network, or has statistics alone where features are needed.
    pub fn load(asked: &Asked<'_>, network: &dyn Extractor, with_features: bool, context: &Context) -> anyhow::Result<Self> {
        let source = asked.against.reference.clone().context(MISSING)?;
        let path = Path::new(&source);
        if !stats_file::is_statistics(path) {
            return Self::of_data(source, asked, network, with_features, context);
        }
        if with_features {
            let message = format!("{source}: holds a mean and a covariance, and KID, precision and recall look at every image");
            return Err(hinted(message, "give the images themselves with --reference"));
        }
        let statistics = stats_file::read(path)?;
        let expected = network.identity().features;
        ensure!(statistics.dim() == expected, "{source}: expected statistics of {expected} features, got {}", statistics.dim());
        let sha256 = strata_training::sha256_file(path)?;
        Ok(Self { statistics, features: None, source, sha256 })
    }

    fn of_data(
        source: String,
        asked: &Asked<'_>,
        network: &dyn Extractor,
        with_features: bool,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let options = DatasetOptions { layout: None, split: asked.against.reference_split.clone(), ..asked.reading.options() };
        let data = Dataset::open(&source, &options)?;
        let indices = samples::first(&data, None)?;
        let sha256 = data.content_sha256(&indices)?;
        let cached = cache_file(&sha256, network.identity());
        if let Some(file) = cached.as_deref().filter(|file| !with_features && file.is_file()) {
            match stats_file::read(file) {
                Ok(statistics) => return Ok(Self { statistics, features: None, source, sha256 }),
                Err(error) => context.say(format!("computed anew: {error:#}")),
            }
        }
        let keep = Keep { features: with_features, logits: false };
        let reading = samples::reading(&data, &indices, asked.network, asked.against.max_bad);
        let seen = samples::read(&reading, network, keep, context)?;
        if !seen.bad.is_empty() || seen.flat > 0 {
            warnings::tell(&seen, 0, &[Metric::Fid], context);
        }
        let statistics = seen.moments.statistics()?;
        // Unreadable images may be readable another time.
        if let Some(file) = cached.filter(|_| seen.bad.is_empty()) {
            remember(&file, &statistics, context);
        }
        Ok(Self { statistics, features: with_features.then_some(seen.features), source, sha256 })
    }

    /// For the answer.
    pub fn describe(&self) -> Value {
        json!({ "source": self.source, "sha256": self.sha256, "count": self.statistics.count })
    }
}

/// A cache that cannot be written costs time, not the result.
fn remember(file: &Path, statistics: &Statistics, context: &Context) {
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder).map_err(anyhow::Error::from).and_then(|()| stats_file::write(file, statistics));
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
