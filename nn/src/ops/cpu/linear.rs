//! The affine map and its gradients; the weight `[n_out, n_in]` is used where it lies.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    bias::Bias,
    few,
    gather::Gather,
    gemm::{Matrix, Packed},
    kernel::Kernel,
    reduce::{column_sums, sum_spans},
    scratch::{fresh, row_distance, with_scratch},
};

/// Rows of x that one product of the weight's gradient takes.
const DEPTH: usize = 256;

/// Rows, inputs and outputs of one affine map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub rows: usize,
    pub n_in: usize,
    pub n_out: usize,
}

impl Sizes {
    /// The rows as windows of one tap.
    const fn windows(&self) -> Gather {
        Gather { source: [1, 1, self.rows, self.n_in], grid: [1, self.rows], stride: 1, taps: [1, 1], origin: [0, 0] }
    }
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
        forward(self.sizes, x, w, Some(Bias::new(b, self.sizes.n_out, self.sizes.rows)))
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
pub(crate) fn forward(s: Sizes, x: &[f32], weight: &[f32], bias: Option<Bias<'_>>) -> Vec<f32> {
    let gather = s.windows();
    if few::applies(&gather, s.n_out) {
        return few::forward(&gather, x, weight, bias);
    }
    let matrix = Packed::new(&[Matrix::rows(weight, s.n_in).t()], s.n_in, s.n_out);
    product(x, s.n_in, &matrix, s.n_out, bias)
}

/// Gradient of x, `[rows, n_in]`.
pub(crate) fn input_gradient(s: Sizes, dy: &[f32], weight: &[f32]) -> Vec<f32> {
    let gather = s.windows();
    if few::applies(&gather, s.n_out) {
        return few::input_gradient(&gather, dy, weight);
    }
    let matrix = Packed::new(&[Matrix::rows(weight, s.n_in)], s.n_out, s.n_in);
    product(dy, s.n_out, &matrix, s.n_in, None)
}

/// Gradient of the weight, `[n_out, n_in]`: blocks of its rows, and spans of x's rows that are summed afterwards.
pub(crate) fn weight_gradient(s: Sizes, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let gather = s.windows();
    if few::applies(&gather, s.n_out) {
        return few::weight_gradient(&gather, x, dy);
    }
    let Sizes { rows, n_in, n_out } = s;
    let packed = Packed::new(&[Matrix::rows(x, n_in)], rows, n_in);
    let blocks = n_out.div_ceil(168).next_power_of_two();
    let block = n_out.div_ceil(blocks);
    let blocks = n_out.div_ceil(block);
    let spans = 8usize.div_ceil(blocks).clamp(1, rows.div_ceil(512));
    let mut partial = fresh(spans * n_out * n_in);
    let tasks: Vec<(usize, &mut [f32])> =
        partial.chunks_mut(n_out * n_in).flat_map(|span| span.chunks_mut(block * n_in)).enumerate().collect();
    tasks.into_par_iter().for_each(|(i, out)| {
        let (span, first) = (i / blocks, (i % blocks) * block);
        weight_block(s, &packed, dy, span * rows / spans..(span + 1) * rows / spans, first, out);
    });
    sum_spans(partial, n_out * n_in)
}

/// `dy[span, first..]ᵀ · x[span]` for as many outputs as `out` has rows.
fn weight_block(s: Sizes, x: &Packed, dy: &[f32], span: Range<usize>, first: usize, out: &mut [f32]) {
    let count = out.len() / s.n_in;
    for begin in span.clone().step_by(DEPTH) {
        let end = span.end.min(begin + DEPTH);
        with_scratch((end - begin) * count, |left| {
            for (left, dy) in left.chunks_exact_mut(count).zip(dy[begin * s.n_out..].chunks_exact(s.n_out)) {
                left.copy_from_slice(&dy[first..first + count]);
            }
            x.product_part(begin..end, out, begin > span.start, Matrix::rows(left, count).t());
        });
    }
}

/// Rows of x (each `k` wide) times `matrix` (`[k, n]`), plus bias.
fn product(x: &[f32], k: usize, matrix: &Packed, n: usize, bias: Option<Bias<'_>>) -> Vec<f32> {
    let rows = x.len() / k;
    // As many pieces for each of up to eight threads, of up to 252 rows, so that none waits for another.
    let pieces = rows.div_ceil(252).next_multiple_of(8);
    let tile = rows.div_ceil(pieces).max(14);
    let mut y = fresh(rows * n);
    y.par_chunks_mut(tile * n).zip(x.par_chunks(tile * k)).enumerate().for_each(|(i, (y, x))| {
        if let Some(bias) = bias {
            bias.fill(i * tile, y);
        }
        let distance = row_distance(k);
        if distance == k {
            return matrix.product(y, bias.is_some(), Matrix::rows(x, k));
        }
        with_scratch(x.len() / k * distance, |apart| {
            for (to, from) in apart.chunks_exact_mut(distance).zip(x.chunks_exact(k)) {
                to[..k].copy_from_slice(from);
            }
            matrix.product(y, bias.is_some(), Matrix::rows(apart, distance));
        });
    });
    y
}
