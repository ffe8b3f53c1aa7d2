//! Memory that a thread keeps between calls, so that windows and scores are neither allocated anew nor held in the graph.

use std::cell::RefCell;

/// Floats of a cache line; scratch memory begins at one, so that no vector straddles two.
const LINE: usize = 16;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on `n` floats of this thread's scratch memory, of any content. Calls may nest.
pub(crate) fn with_scratch<R>(n: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = BUFFERS.with(|s| s.borrow_mut().pop()).unwrap_or_default();
    if buffer.len() < n + LINE {
        buffer.resize(n + LINE, 0.0);
    }
    let start = line_offset(&buffer);
    let result = f(&mut buffer[start..start + n]);
    BUFFERS.with(|s| s.borrow_mut().push(buffer));
    result
}

/// Memory that begins at a cache line.
pub(crate) struct Aligned {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let data = vec![0.0; len + LINE];
        Self { start: line_offset(&data), data, len }
    }

    pub(crate) fn get(&self) -> &[f32] {
        &self.data[self.start..self.start + self.len]
    }

    pub(crate) fn get_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.start..self.start + self.len]
    }
}

fn line_offset(data: &[f32]) -> usize {
    data.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE)
}

/// A distance of rows of `n` numbers at which several rows do not fall into the same set of the first-level cache.
pub(crate) const fn row_distance(n: usize) -> usize {
    if n.is_multiple_of(1024) { n + LINE } else { n }
}
