//! Work done ahead of whoever needs it: results in order, made by background threads, a bounded number of them waiting.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The results of `make(0)`, `make(1)`, ... in their order, whichever thread made them.
pub struct Ahead<T> {
    shared: Arc<Shared<T>>,
    workers: Vec<JoinHandle<()>>,
    next: u64,
    waited: Duration,
}

struct Shared<T> {
    make: Box<dyn Fn(u64) -> T + Send + Sync>,
    end: u64,
    room: u64,
    state: Mutex<State<T>>,
    changed: Condvar,
}

type Made<T> = Result<T, Box<dyn Any + Send>>;

struct State<T> {
    claimed: u64,
    taken: u64,
    ready: BTreeMap<u64, Made<T>>,
    stopped: bool,
}

impl<T: Send + 'static> Ahead<T> {
    /// Starts `workers` threads (at least one) that make the results of 0 up to `end`, at most `room` of them ahead of
    /// [`Ahead::next`].
    pub fn new(workers: usize, room: usize, end: u64, make: impl Fn(u64) -> T + Send + Sync + 'static) -> Self {
        let state = State { claimed: 0, taken: 0, ready: BTreeMap::new(), stopped: false };
        let room = room.max(1) as u64;
        let shared = Shared { make: Box::new(make), end, room, state: Mutex::new(state), changed: Condvar::new() };
        let shared = Arc::new(shared);
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.work())
        };
        Self { workers: (0..workers.max(1)).map(spawn).collect(), shared, next: 0, waited: Duration::ZERO }
    }

    /// The next result, waited for; none after the last. A panic of `make` goes on here.
    #[allow(clippy::should_implement_trait)] // an iterator would hide that this waits
    pub fn next(&mut self) -> Option<T> {
        if self.next == self.shared.end {
            return None;
        }
        let began = Instant::now();
        let made = self.shared.take(self.next);
        self.waited += began.elapsed();
        self.next += 1;
        Some(made.unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// How long [`Ahead::next`] has waited for results, in all.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for worker in self.workers.drain(..) {
            // A worker does not panic: what it makes is caught.
            drop(worker.join());
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(number) = self.claim() {
            let made = catch_unwind(AssertUnwindSafe(|| (self.make)(number)));
            self.lock().ready.insert(number, made);
            self.changed.notify_all();
        }
    }

    /// The number of the next result to make, as soon as there is room for it.
    fn claim(&self) -> Option<u64> {
        let mut state = self.lock();
        while !state.stopped && state.claimed < self.end && state.claimed >= state.taken + self.room {
            state = self.wait(state);
        }
        if state.stopped || state.claimed == self.end {
            return None;
        }
        state.claimed += 1;
        Some(state.claimed - 1)
    }

    fn take(&self, number: u64) -> Made<T> {
        let mut state = self.lock();
        loop {
            if let Some(made) = state.ready.remove(&number) {
                state.taken = number + 1;
                self.changed.notify_all();
                return made;
            }
            state = self.wait(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn results_come_in_order_and_end() {
        for (workers, room) in [(1, 1), (4, 2), (3, 9)] {
            let mut ahead = Ahead::new(workers, room, 50, |n| n * n);
            let all: Vec<u64> = std::iter::from_fn(|| ahead.next()).collect();
            assert!(all.into_iter().eq((0..50).map(|n| n * n)));
            assert!(ahead.next().is_none());
        }
    }

    #[test]
    fn no_more_than_the_room_is_made_ahead() {
        let made = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&made);
        let mut ahead = Ahead::new(4, 3, u64::MAX, move |n| {
            counter.fetch_max(n + 1, Ordering::SeqCst);
            n
        });
        for taken in 0..40 {
            assert_eq!(ahead.next(), Some(taken));
            assert!(made.load(Ordering::SeqCst) <= taken + 1 + 3);
        }
    }

    #[test]
    fn a_panic_reaches_whoever_waits() {
        let mut ahead = Ahead::new(2, 2, 10, |n| if n == 3 { resume_unwind(Box::new("three")) } else { n });
        for n in 0..3 {
            assert_eq!(ahead.next(), Some(n));
        }
        assert!(catch_unwind(AssertUnwindSafe(|| ahead.next())).is_err());
    }
}
