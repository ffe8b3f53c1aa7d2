//! Memory that a thread keeps between calls, so that windows and scores are neither allocated anew nor held in the graph.

use std::cell::RefCell;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on `n` floats of this thread's scratch memory, of any content. Calls may nest.
pub(crate) fn with_scratch<R>(n: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = BUFFERS.with(|s| s.borrow_mut().pop()).unwrap_or_default();
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    let result = f(&mut buffer[..n]);
    BUFFERS.with(|s| s.borrow_mut().push(buffer));
    result
}
