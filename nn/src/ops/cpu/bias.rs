//! What is added to every row of a result, or to every row of a sample.

use super::reduce::column_sums;

/// One bias of `n` numbers for every `rows` rows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bias<'a> {
    data: &'a [f32],
    n: usize,
    rows: usize,
}

impl<'a> Bias<'a> {
    /// `[n]` for all of `rows` rows, or `[samples, n]` for as many parts of them.
    pub(crate) fn new(data: &'a [f32], n: usize, rows: usize) -> Self {
        Self { data, n, rows: rows / (data.len() / n) }
    }

    /// The bias of a row.
    pub(crate) fn of(&self, row: usize) -> &'a [f32] {
        let sample = row / self.rows;
        &self.data[sample * self.n..(sample + 1) * self.n]
    }

    /// Fills rows from `first` on.
    pub(crate) fn fill(&self, first: usize, y: &mut [f32]) {
        for (i, row) in y.chunks_exact_mut(self.n).enumerate() {
            row.copy_from_slice(self.of(first + i));
        }
    }
}

/// Gradient of a bias of `len` numbers, from that of the rows `[_, n]`.
pub(crate) fn gradient(dy: &[f32], n: usize, len: usize) -> Vec<f32> {
    let sample = dy.len() / (len / n);
    dy.chunks(sample).flat_map(|dy| column_sums(dy, n)).collect()
}
