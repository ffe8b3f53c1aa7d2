//! Layer norm over rows; the backward pass takes the moments anew, from a row that is in the cache anyway.

use rayon::prelude::*;

use super::{
    kernel::Kernel,
    reduce::{add, sum, sum_pairs},
    scratch::fresh,
    simd::vectorized,
};

/// Numbers of x that one piece of work takes.
const PIECE: usize = 1 << 15;

/// Arguments x `[..., width]`, weight and bias `[width]`.
pub(crate) struct LayerNorm {
    pub shape: Vec<usize>,
    pub width: usize,
    pub eps: f32,
}

impl LayerNorm {
    fn piece(&self) -> usize {
        (PIECE / self.width).max(1) * self.width
    }
}

impl Kernel<3> for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, [x, weight, bias]: [&[f32]; 3]) -> Vec<f32> {
        let (n, eps) = (self.piece(), self.eps);
        let mut y = fresh(x.len());
        y.par_chunks_mut(n).zip(x.par_chunks(n)).for_each(|(y, x)| rows(x, weight, bias, eps, y));
        y
    }

    fn backward(&self, [x, weight, _]: [&[f32]; 3], wanted: [bool; 3], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 3] {
        let (n, width, eps) = (self.piece(), self.width, self.eps);
        let mut dx = fresh(x.len());
        let partial: Vec<Vec<f32>> = dx
            .par_chunks_mut(n)
            .zip(x.par_chunks(n))
            .zip(dy.par_chunks(n))
            .map(|((dx, x), dy)| {
                let mut sums = vec![0.0; 2 * width];
                let (dw, db) = sums.split_at_mut(width);
                gradients(x, weight, dy, eps, dx, dw, db);
                sums
            })
            .collect();
        let mut sums = vec![0.0; 2 * width];
        partial.iter().for_each(|p| add(&mut sums, p));
        let db = sums.split_off(width);
        [wanted[0].then_some(dx), wanted[1].then_some(sums), wanted[2].then_some(db)]
    }
}

vectorized! {
    fn rows(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let c = weight.len();
        for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
            let (mean, inverse) = moments(x, eps);
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = (x - mean) * inverse * w + b;
            }
        }
    }

    fn gradients(x: &[f32], weight: &[f32], dy: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32], db: &mut [f32]) {
        let c = weight.len();
        let (dw, db) = (&mut dw[..c], &mut db[..c]);
        for ((x, dy), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
            let (mean, inverse) = moments(x, eps);
            let (x, dy, dx) = (&x[..c], &dy[..c], &mut dx[..c]);
            for i in 0..c {
                let xhat = (x[i] - mean) * inverse;
                dw[i] += dy[i] * xhat;
                db[i] += dy[i];
                dx[i] = dy[i] * weight[i];
            }
            let m0 = sum(dx, |v| v) / c as f32;
            let m1 = sum_pairs(dx, x, |v, x| v * (x - mean) * inverse) / c as f32;
            for i in 0..c {
                dx[i] = inverse * (dx[i] - m0 - (x[i] - mean) * inverse * m1);
            }
        }
    }
}

/// Mean and 1/deviation, in two passes.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x, |v| v) / n;
    let variance = sum(x, |v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}
