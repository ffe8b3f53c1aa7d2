//! Sums in a fixed order.

use rayon::prelude::*;

use super::simd::vectorized;

/// Numbers that one piece of work sums.
const PIECE: usize = 1 << 16;

/// Sum over the rows of `x`, each `width` wide.
pub(crate) fn column_sums(x: &[f32], width: usize) -> Vec<f32> {
    let rows = (PIECE / width).max(1);
    let partial: Vec<Vec<f32>> = x.par_chunks(rows * width).map(|chunk| rows_sum(chunk, width)).collect();
    let mut total = vec![0.0; width];
    partial.iter().for_each(|p| add(&mut total, p));
    total
}

/// Sum of the parts of `spans`, each `n` long.
pub(crate) fn sum_spans(mut spans: Vec<f32>, n: usize) -> Vec<f32> {
    let (total, others) = spans.split_at_mut(n);
    if !others.is_empty() {
        total.par_chunks_mut(1 << 14).enumerate().for_each(|(i, total)| {
            for other in others.chunks_exact(n) {
                add(total, &other[i << 14..(i << 14) + total.len()]);
            }
        });
    }
    spans.truncate(n);
    spans
}

vectorized! {
    fn rows_sum(x: &[f32], width: usize) -> Vec<f32> {
        let mut total = vec![0.0f32; width];
        for row in x.chunks_exact(width) {
            for (a, b) in total.iter_mut().zip(row) {
                *a += b;
            }
        }
        total
    }

    /// `a += b`.
    pub(crate) fn add(a: &mut [f32], b: &[f32]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
    }
}

/// Sum of `f(x)` in sixteen interleaved parts, the same bits on every machine.
#[inline(always)]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0.0f32; 16];
    let whole = x.chunks_exact(16);
    for (p, v) in parts.iter_mut().zip(whole.remainder()) {
        *p += f(*v);
    }
    for x in whole {
        for j in 0..16 {
            parts[j] += f(x[j]);
        }
    }
    fold(parts)
}

/// Sum of `f(a, b)` over two slices of one length, as [`sum`].
#[inline(always)]
pub(crate) fn sum_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut parts = [0.0f32; 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    for ((p, a), b) in parts.iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *p += f(*a, *b);
    }
    for (a, b) in a.zip(b) {
        for j in 0..16 {
            parts[j] += f(a[j], b[j]);
        }
    }
    fold(parts)
}

/// The sum of the parts, in the order of [`sum`].
#[inline(always)]
pub(crate) fn fold(mut parts: [f32; 16]) -> f32 {
    for width in [8, 4, 2, 1] {
        for j in 0..width {
            parts[j] += parts[j + width];
        }
    }
    parts[0]
}
