//! Large sets: batches decoded by background workers, a bounded number ahead.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

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
    workers: Vec<JoinHandle<()>>,
    next: u64,
}

struct Shared {
    dataset: Dataset,
    indices: Vec<usize>,
    transform: Transform,
    options: LoaderOptions,
    order: Order,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    claimed: u64,
    taken: u64,
    ready: BTreeMap<u64, Result<ImageBatch>>,
    bad: HashMap<usize, String>,
    stopped: bool,
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
        let workers = options.workers.max(1);
        let shared = Shared {
            dataset: dataset.clone(),
            indices,
            transform,
            options,
            order,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        let shared = Arc::new(shared);
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.work())
        };
        Ok(Self { workers: (0..workers).map(spawn).collect(), shared, next: 0 })
    }

    /// The next batch; waits for it. Errors once more pictures than tolerated were unusable.
    #[allow(clippy::should_implement_trait)] // without end, and each answer may be an error
    pub fn next(&mut self) -> Result<ImageBatch> {
        let mut state = self.shared.lock();
        loop {
            if let Some(batch) = state.ready.remove(&self.next) {
                self.next += 1;
                state.taken = self.next;
                self.shared.changed.notify_all();
                return batch;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The unusable pictures met so far: key and reason.
    pub fn bad(&self) -> Vec<(String, String)> {
        let state = self.shared.lock();
        let mut bad: Vec<_> =
            state.bad.iter().map(|(&i, why)| (self.shared.dataset.key(i).unwrap_or_default(), why.clone())).collect();
        bad.sort_unstable();
        bad
    }
}

impl Drop for ImageLoader {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has nothing left to hand over.
            drop(worker.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(number) = self.claim() {
            let batch = self.batch(number);
            let mut state = self.lock();
            state.ready.insert(number, batch);
            self.changed.notify_all();
        }
    }

    /// The number of the next batch to make, as soon as there is room for it.
    fn claim(&self) -> Option<u64> {
        let mut state = self.lock();
        while !state.stopped && state.claimed >= state.taken + self.options.prefetch.max(1) as u64 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return None;
        }
        state.claimed += 1;
        Some(state.claimed - 1)
    }

    fn batch(&self, number: u64) -> Result<ImageBatch> {
        let LoaderOptions { batch, ranks, rank, start, .. } = self.options;
        let first = start + number * (batch * ranks) as u64;
        let mut out = ImageBatch { pixels: Vec::new(), labels: Vec::new(), indices: Vec::new(), position: first };
        for k in 0..batch {
            let position = first + (k * ranks + rank) as u64;
            let (index, image) = self.usable(self.order.at(position))?;
            let flip = self.options.flip && mix(self.options.seed ^ mix(position) ^ 0x666C_6970) & 1 == 1;
            out.pixels.extend(if flip { image.flipped().pixels } else { image.pixels });
            out.labels.push(self.dataset.label(index)?);
            out.indices.push(index);
        }
        Ok(out)
    }

    /// The picture at `at` of the list, or the next one that can be used.
    fn usable(&self, at: usize) -> Result<(usize, crate::RgbImage)> {
        let n = self.indices.len();
        for step in 0..n {
            let index = self.indices[(at + step) % n];
            match self.dataset.load(index).and_then(|image| self.transform.apply(&image)) {
                Ok(image) => return Ok((index, image)),
                Err(error) => self.note(index, error.reason())?,
            }
        }
        Err(Error::argument("pictures to load", "at least one that can be used", 0))
    }

    fn note(&self, index: usize, why: String) -> Result<()> {
        let allowed = tolerated(self.indices.len(), self.options.max_bad);
        let mut state = self.lock();
        if let std::collections::hash_map::Entry::Vacant(e) = state.bad.entry(index) {
            tracing::warn!(key = %self.dataset.key(index)?, %why, "picture left out");
            e.insert(why);
        }
        if state.bad.len() <= allowed {
            return Ok(());
        }
        let named = state.bad.iter().map(|(&i, why)| Ok((self.dataset.key(i)?, why.clone()))).collect::<Result<Vec<_>>>()?;
        Err(Error::TooManyBad { bad: named, total: self.indices.len(), allowed })
    }
}
