//! What a library tells its caller while it works, and how the caller stops it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Receives the progress of a long computation: a bar, plain lines, or nothing.
pub trait Progress: Send + Sync {
    /// A task begins: `what` is done `total` times, counted in `unit` (for example `"images"`).
    fn start(&self, what: &str, total: u64, unit: &str);
    /// `done` of the total are done (absolute, not since the last call); `message` is a few words, for example the loss.
    fn advance(&self, done: u64, message: &str);
    /// The task ends, whether or not the total was reached.
    fn finish(&self);
    /// A line that stays, about what is done.
    fn note(&self, _text: &str) {}
}

/// Progress that nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _what: &str, _total: u64, _unit: &str) {}
    fn advance(&self, _done: u64, _message: &str) {}
    fn finish(&self) {}
}

/// A request to stop: a training loop finishes its step, saves and returns. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Not triggered.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the stop; safe in a signal handler.
    pub fn trigger(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether a stop was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_of_an_interrupt_share_it() {
        let interrupt = Interrupt::new();
        let clone = interrupt.clone();
        assert!(!clone.is_set());
        interrupt.trigger();
        assert!(clone.is_set());
    }
}
