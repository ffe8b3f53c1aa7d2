//! Large sets: batches decoded by background workers, a bounded number ahead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ahead::Ahead;
use crate::dataset::Dataset;
use crate::order::{Order, mix};
use crate::prepare::tolerated;
use crate::transform::Transform;
use crate::{Error, Result};

/// How a loader reads.
#[derive(Clone, Debug, PartialEq)]
pub struct LoaderOptions {
    /// Pictures in a batch.
    pub batch: usize,
    /// Seed of the order and of the flips.
    pub seed: u64,
    /// Decoding threads.
    pub workers: usize,
    /// Batches held ready at most.
    pub prefetch: usize,
    /// Mirror each picture with probability one half.
    pub flip: bool,
    /// Position in pictures at which to begin: what a resumed run has seen already.
    pub start: u64,
    /// This process's number, below `ranks`.
    pub rank: usize,
    /// Processes that share the order; their pictures do not overlap.
    pub ranks: usize,
    /// Share of unusable pictures above which the loader errors.
    pub max_bad: f64,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { batch: 32, seed: 0, workers, prefetch: 4, flip: false, start: 0, rank: 0, ranks: 1, max_bad: 0.01 }
    }
}

/// A batch of pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBatch {
    /// batch x size x size x 3 bytes, row-major RGB.
    pub pixels: Vec<u8>,
    /// One for each picture.
    pub labels: Vec<Option<u32>>,
    /// Where each picture stands in the data set.
    pub indices: Vec<usize>,
    /// Position of the first picture in the order, counted over all ranks.
    pub position: u64,
}

/// Batches in a seeded order without end. What a batch holds is a function of the data set, the options and the position
/// alone: neither the number of workers nor an interruption changes it. A picture that cannot be used is replaced by the
/// next usable one of the set.
pub struct ImageLoader {
    shared: Arc<Shared>,
    batches: Ahead<Result<ImageBatch>>,
}

/// What a position's draws are for.
const FLIP: u64 = 0x666C_6970;
const CROP: u64 = 0x6372_6F70;

/// Whether the picture at a position is mirrored, where half of them are.
pub(crate) fn is_mirrored(seed: u64, position: u64) -> bool {
    mix(seed ^ mix(position) ^ FLIP) & 1 == 1
}

struct Shared {
    dataset: Dataset,
    indices: Vec<usize>,
    transform: Transform,
    options: LoaderOptions,
    order: Order,
    bad: Mutex<HashMap<usize, String>>,
}

impl ImageLoader {
    /// Starts the workers over the pictures at `indices`. Errors if there are none, or a number of the options is 0
    /// where it must not be.
    pub fn new(dataset: &Dataset, indices: Vec<usize>, transform: Transform, options: LoaderOptions) -> Result<Self> {
        if indices.is_empty() {
            return Err(Error::argument("pictures to load", "at least one", 0));
        }
        let sane = options.batch > 0 && options.ranks > 0 && options.rank < options.ranks && transform.size > 0;
        if !sane {
            return Err(Error::argument(
                "loader options",
                "batch, size and ranks above 0, rank below ranks",
                format!("{options:?}"),
            ));
        }
        let order = Order::new(indices.len(), options.seed);
        let (workers, prefetch) = (options.workers, options.prefetch);
        let shared = Shared { dataset: dataset.clone(), indices, transform, options, order, bad: Mutex::default() };
        let shared = Arc::new(shared);
        let maker = Arc::clone(&shared);
        let batches = Ahead::new(workers, prefetch, u64::MAX, move |number| maker.batch(number));
        Ok(Self { shared, batches })
    }

    /// The next batch; waits for it. Errors once more pictures than tolerated were unusable.
    #[allow(clippy::should_implement_trait)] // without end, and each answer may be an error
    pub fn next(&mut self) -> Result<ImageBatch> {
        let ended = || Error::argument("position", "one below 2^64 batches", u64::MAX);
        self.batches.next().unwrap_or_else(|| Err(ended()))
    }

    /// The unusable pictures met so far: key and reason.
    pub fn bad(&self) -> Vec<(String, String)> {
        let named = |(&i, why): (&usize, &String)| (self.shared.dataset.key(i).unwrap_or_default(), why.clone());
        let mut bad: Vec<_> = self.shared.lock().iter().map(named).collect();
        bad.sort_unstable();
        bad
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, String>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn batch(&self, number: u64) -> Result<ImageBatch> {
        let LoaderOptions { batch, ranks, rank, start, .. } = self.options;
        let first = start + number * (batch * ranks) as u64;
        let mut out = ImageBatch { pixels: Vec::new(), labels: Vec::new(), indices: Vec::new(), position: first };
        for k in 0..batch {
            let position = first + (k * ranks + rank) as u64;
            let crop = mix(self.options.seed ^ mix(position) ^ CROP);
            let (index, image) = self.usable(self.order.at(position), crop)?;
            let flip = self.options.flip && is_mirrored(self.options.seed, position);
            out.pixels.extend(if flip { image.flipped().pixels } else { image.pixels });
            out.labels.push(self.dataset.label(index)?);
            out.indices.push(index);
        }
        Ok(out)
    }

    /// The picture at `at` of the list, or the next one that can be used.
    fn usable(&self, at: usize, draw: u64) -> Result<(usize, crate::RgbImage)> {
        let n = self.indices.len();
        for step in 0..n {
            let index = self.indices[(at + step) % n];
            match self.dataset.load(index).and_then(|image| self.transform.apply_drawn(&image, draw)) {
                Ok(image) => return Ok((index, image)),
                Err(error) => self.note(index, error.reason())?,
            }
        }
        Err(Error::argument("pictures to load", "at least one that can be used", 0))
    }

    fn note(&self, index: usize, why: String) -> Result<()> {
        let allowed = tolerated(self.indices.len(), self.options.max_bad);
        let mut bad = self.lock();
        if let std::collections::hash_map::Entry::Vacant(e) = bad.entry(index) {
            tracing::warn!(key = %self.dataset.key(index)?, %why, "picture left out");
            e.insert(why);
        }
        if bad.len() <= allowed {
            return Ok(());
        }
        let named = bad.iter().map(|(&i, why)| Ok((self.dataset.key(i)?, why.clone()))).collect::<Result<Vec<_>>>()?;
        Err(Error::TooManyBad { bad: named, total: self.indices.len(), allowed })
    }
}
