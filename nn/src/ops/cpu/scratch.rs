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

/// `n` floats of any content, for a kernel that writes each of them before it reads it: a large result is spared a pass of zeros.
#[allow(clippy::uninit_vec)]
pub(crate) fn fresh(n: usize) -> Vec<f32> {
    let mut data = Vec::with_capacity(n);
    // SAFETY: the capacity is n, every bit pattern is a float, and every element is written before it is read; the guard tests
    // compare all of them.
    unsafe { data.set_len(n) };
    data
}

/// Memory that begins at a cache line.
pub(crate) struct Aligned {
    data: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` floats of any content: as [`fresh`].
    pub(crate) fn fresh(len: usize) -> Self {
        let data = fresh(len + LINE);
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
