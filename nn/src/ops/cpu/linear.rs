//! The affine map and its gradients; the weight `[n_out, n_in]` is used where it lies.

use rayon::prelude::*;

use super::{
    gemm::{Matrix, gemm},
    kernel::Kernel,
    reduce::{column_sums, sum_spans},
};

/// Rows, inputs and outputs of one affine map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub rows: usize,
    pub n_in: usize,
    pub n_out: usize,
}

/// `x Wᵀ (+ b)`, answered in `shape`.
pub(crate) struct Linear {
    pub sizes: Sizes,
    pub shape: Vec<usize>,
}

impl Kernel<2> for Linear {
    const NAME: &'static str = "linear";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, [x, w]: [&[f32]; 2]) -> Vec<f32> {
        forward(self.sizes, x, w, None)
    }

    fn backward(&self, [x, w]: [&[f32]; 2], wanted: [bool; 2], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 2] {
        [wanted[0].then(|| input_gradient(self.sizes, dy, w)), wanted[1].then(|| weight_gradient(self.sizes, x, dy))]
    }
}

impl Kernel<3> for Linear {
    const NAME: &'static str = "linear";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, [x, w, b]: [&[f32]; 3]) -> Vec<f32> {
        forward(self.sizes, x, w, Some(b))
    }

    fn backward(&self, [x, w, _]: [&[f32]; 3], wanted: [bool; 3], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 3] {
        [
            wanted[0].then(|| input_gradient(self.sizes, dy, w)),
            wanted[1].then(|| weight_gradient(self.sizes, x, dy)),
            wanted[2].then(|| column_sums(dy, self.sizes.n_out)),
        ]
    }
}

/// `[rows, n_out]`.
pub(crate) fn forward(s: Sizes, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    product(x, s.n_in, Matrix::rows(weight, s.n_in).t(), s.n_out, bias)
}

/// Gradient of x, `[rows, n_in]`.
pub(crate) fn input_gradient(s: Sizes, dy: &[f32], weight: &[f32]) -> Vec<f32> {
    product(dy, s.n_out, Matrix::rows(weight, s.n_in), s.n_in, None)
}

/// Gradient of the weight, `[n_out, n_in]`.
pub(crate) fn weight_gradient(s: Sizes, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let Sizes { rows, n_in, n_out } = s;
    let block = n_out.div_ceil(n_out.div_ceil(128));
    let blocks = n_out.div_ceil(block);
    let spans = 16usize.div_ceil(blocks).clamp(1, rows.div_ceil(512));
    let mut partial = vec![0.0; spans * n_out * n_in];
    let tasks: Vec<(usize, &mut [f32])> =
        partial.chunks_mut(n_out * n_in).flat_map(|span| span.chunks_mut(block * n_in)).enumerate().collect();
    tasks.into_par_iter().for_each(|(i, out)| {
        let (span, first) = (i / blocks, (i % blocks) * block);
        let (begin, end) = (span * rows / spans, (span + 1) * rows / spans);
        let count = out.len() / n_in;
        let dy = Matrix::rows(&dy[begin * n_out + first..], n_out);
        gemm([count, n_in, end - begin], (out, n_in), false, 1.0, dy.t(), Matrix::rows(&x[begin * n_in..], n_in));
    });
    sum_spans(partial, n_out * n_in)
}

/// Rows of x (each `k` wide) times `matrix` (`[k, n]`), plus bias.
fn product(x: &[f32], k: usize, matrix: Matrix<'_>, n: usize, bias: Option<&[f32]>) -> Vec<f32> {
    let rows = x.len() / k;
    let tile = rows.div_ceil(8).clamp(16, 256);
    let mut y = vec![0.0; rows * n];
    y.par_chunks_mut(tile * n).zip(x.par_chunks(tile * k)).for_each(|(y, x)| {
        if let Some(bias) = bias {
            y.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias));
        }
        gemm([y.len() / n, n, k], (y, n), bias.is_some(), 1.0, Matrix::rows(x, k), matrix);
    });
    y
}
