//! Sums over rows.

use rayon::prelude::*;

/// Rows that one piece of work sums.
const CHUNK: usize = 512;

/// Sum over the rows of `x`, each `width` wide.
pub(crate) fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    let partial: Vec<Vec<f32>> = x.par_chunks(CHUNK * width).map(|chunk| rows(chunk, width)).collect();
    let mut total = vec![0.0; width];
    for p in &partial {
        add(&mut total, p);
    }
    total
}

fn rows(x: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for row in x.chunks_exact(width) {
        add(&mut total, row);
    }
    total
}

/// `a += b`.
pub(crate) fn add(a: &mut [f32], b: &[f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
}
