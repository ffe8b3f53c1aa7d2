//! Dense float64 matrices of the measures.

use faer::{Accum, Mat, MatMut, MatRef, Par, linalg::matmul::matmul};

/// All threads of the pool.
pub(super) fn threads() -> Par {
    Par::rayon(0)
}

/// Rows of float32 as a matrix, `[rows, dim]`, less `shift` where there is one.
pub(super) fn widened(rows: &[f32], dim: usize, shift: Option<&[f64]>) -> Mat<f64> {
    let at = |i: usize, j: usize| f64::from(rows[i * dim + j]);
    match shift {
        Some(shift) => Mat::from_fn(rows.len() / dim, dim, |i, j| at(i, j) - shift[j]),
        None => Mat::from_fn(rows.len() / dim, dim, at),
    }
}

/// out = a · b, on all threads.
pub(super) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    accumulate(out.as_mut(), Accum::Replace, a, b);
    out
}

/// out = a · b, or out += a · b.
pub(super) fn accumulate(out: MatMut<'_, f64>, how: Accum, a: MatRef<'_, f64>, b: MatRef<'_, f64>) {
    matmul(out, how, a, b, 1.0, threads());
}
