//! Pictures of any source to statistics and features, a batch at a time.

use std::collections::BTreeMap;

use strata_datasets::{Ahead, Dataset, RgbImage, tolerated};
use strata_training::{Interrupt, Progress};

use super::{Features, extractor::Extractor, moments::Moments};
use crate::{Error, Result};

/// Batches that are decoded ahead of the network.
const AHEAD: usize = 3;
/// Sizes of pictures that are told apart.
const MAX_SIZES: usize = 100;

/// What is kept beside the moments of the features; features and logits grow with the number of pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Every picture's features.
    pub features: bool,
    /// Every picture's logits.
    pub logits: bool,
    /// The moments of the spatial features, for sFID.
    pub spatial: bool,
}

/// What was seen of a set of pictures.
#[derive(Clone, Debug)]
pub struct Collected {
    /// Mean and scatter of the features.
    pub moments: Moments,
    /// The same of the spatial features, where they were to be kept.
    pub spatial: Option<Moments>,
    /// All features, where they were to be kept.
    pub features: Features,
    /// All logits, where they were to be kept.
    pub logits: Vec<f32>,
    /// Pictures of each size (width, height).
    pub sizes: BTreeMap<(usize, usize), u64>,
    /// Pictures whose pixels are all of one colour.
    pub flat: u64,
    /// Pictures that could not be used: key and reason.
    pub bad: Vec<(String, String)>,
}

/// Describes pictures as they come.
pub struct Collector<'a> {
    extractor: &'a dyn Extractor,
    keep: Keep,
    seen: Collected,
}

impl<'a> Collector<'a> {
    /// With nothing seen.
    pub fn new(extractor: &'a dyn Extractor, keep: Keep) -> Self {
        let dim = extractor.identity().features;
        let seen = Collected {
            moments: Moments::new(dim),
            spatial: keep.spatial.then(|| Moments::new(extractor.spatial())),
            features: Features::new(dim),
            logits: Vec::new(),
            sizes: BTreeMap::new(),
            flat: 0,
            bad: Vec::new(),
        };
        Self { extractor, keep, seen }
    }

    /// Takes in some pictures; of none, does nothing.
    ///
    /// # Errors
    /// If the network cannot describe them, or answers what is not finite.
    pub fn add(&mut self, images: &[RgbImage]) -> Result<()> {
        if images.is_empty() {
            return Ok(());
        }
        for image in images {
            let size = (image.width, image.height);
            if self.seen.sizes.len() < MAX_SIZES || self.seen.sizes.contains_key(&size) {
                *self.seen.sizes.entry(size).or_default() += 1;
            }
            self.seen.flat += u64::from(image.pixels.chunks_exact(3).all(|p| p == &image.pixels[..3]));
        }
        let rows = self.extractor.describe(images)?;
        self.seen.moments.add(&rows.features)?;
        if let Some(spatial) = &mut self.seen.spatial {
            spatial.add(&rows.spatial)?;
        }
        if self.keep.features {
            self.seen.features.extend(&rows.features)?;
        }
        if self.keep.logits {
            self.seen.logits.extend(rows.logits);
        }
        Ok(())
    }

    /// Pictures taken in.
    pub fn count(&self) -> u64 {
        self.seen.moments.count()
    }

    /// What was seen.
    pub fn finish(self) -> Collected {
        self.seen
    }
}

/// What to read of a data set, and how.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    /// The set.
    pub data: &'a Dataset,
    /// Which of its pictures.
    pub indices: &'a [usize],
    /// Pictures at a time.
    pub batch: usize,
    /// Share of unusable pictures above which it fails.
    pub max_bad: f64,
}

/// Reads pictures of a data set into `collector`, decoded ahead by threads of their own.
///
/// # Errors
/// If more pictures than tolerated are unusable, the network fails, or it is interrupted.
pub fn read(collector: &mut Collector<'_>, reading: &Reading<'_>, progress: &dyn Progress, interrupt: &Interrupt) -> Result<()> {
    let (data, indices, batch) = (reading.data.clone(), reading.indices.to_vec(), reading.batch.max(1));
    let (total, batches) = (indices.len(), indices.len().div_ceil(batch) as u64);
    let load = move |n: u64| {
        let first = n as usize * batch;
        let part = &indices[first..(first + batch).min(indices.len())];
        part.iter().map(|i| (*i, data.load(*i))).collect::<Vec<_>>()
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut ahead = Ahead::new(workers.min(AHEAD), AHEAD, batches, load);
    let allowed = tolerated(total, reading.max_bad);
    progress.start("describing", total as u64, "images");
    while let Some(loaded) = ahead.next() {
        if interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        let mut images = Vec::with_capacity(loaded.len());
        for (i, image) in loaded {
            match image {
                Ok(image) => images.push(image),
                Err(error) => collector.seen.bad.push((reading.data.key(i)?, error.to_string())),
            }
        }
        let bad = &collector.seen.bad;
        if bad.len() > allowed || bad.len() == total {
            return Err(strata_datasets::Error::TooManyBad { bad: bad.clone(), total, allowed }.into());
        }
        collector.add(&images)?;
        progress.advance(collector.count(), "");
    }
    progress.finish();
    Ok(())
}
