//! Doubling, halving and joining of images.

use rayon::prelude::*;

use super::{kernel::Kernel, scratch::fresh, simd::vectorized};

/// 2×2 blocks of one source pixel. The size of the small image: batch, height, width, channels.
pub(crate) struct Upsample2x(pub [usize; 4]);

/// The mean of 2×2 blocks. The size of the small image.
pub(crate) struct Average2x(pub [usize; 4]);

impl Kernel<1> for Upsample2x {
    const NAME: &'static str = "upsample_nearest2x";

    fn shape(&self) -> Vec<usize> {
        let [b, h, w, c] = self.0;
        vec![b, 2 * h, 2 * w, c]
    }

    fn forward(&self, [x]: [&[f32]; 1]) -> Vec<f32> {
        spread(x, self.0, 1.0)
    }

    fn backward(&self, _: [&[f32]; 1], _: [bool; 1], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 1] {
        [Some(collect(dy, self.0, 1.0))]
    }
}

impl Kernel<1> for Average2x {
    const NAME: &'static str = "average_pool2x";

    fn shape(&self) -> Vec<usize> {
        self.0.to_vec()
    }

    fn forward(&self, [x]: [&[f32]; 1]) -> Vec<f32> {
        collect(x, self.0, 0.25)
    }

    fn backward(&self, _: [&[f32]; 1], _: [bool; 1], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 1] {
        [Some(spread(dy, self.0, 0.25))]
    }
}

/// Each pixel times `factor` to its four places.
fn spread(x: &[f32], [_, _, w, c]: [usize; 4], factor: f32) -> Vec<f32> {
    let mut y = fresh(4 * x.len());
    y.par_chunks_mut(4 * w * c).zip(x.par_chunks(w * c)).with_min_len(4).for_each(|(y, x)| {
        let (upper, lower) = y.split_at_mut(2 * w * c);
        for (y, x) in upper.chunks_exact_mut(2 * c).zip(x.chunks_exact(c)) {
            let (left, right) = y.split_at_mut(c);
            scaled(x, factor, left);
            right.copy_from_slice(left);
        }
        lower.copy_from_slice(upper);
    });
    y
}

/// The sum of four places times `factor`.
fn collect(x: &[f32], [b, h, w, c]: [usize; 4], factor: f32) -> Vec<f32> {
    let mut y = fresh(b * h * w * c);
    y.par_chunks_mut(w * c).zip(x.par_chunks(4 * w * c)).with_min_len(4).for_each(|(y, x)| {
        let (upper, lower) = x.split_at(2 * w * c);
        for ((y, upper), lower) in y.chunks_exact_mut(c).zip(upper.chunks_exact(2 * c)).zip(lower.chunks_exact(2 * c)) {
            four(upper, lower, factor, y);
        }
    });
    y
}

vectorized! {
    fn scaled(x: &[f32], factor: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = factor * x;
        }
    }

    fn four(upper: &[f32], lower: &[f32], factor: f32, y: &mut [f32]) {
        let c = y.len();
        let ((a, b), (d, e)) = (upper.split_at(c), lower.split_at(c));
        for ((((y, a), b), d), e) in y.iter_mut().zip(a).zip(b).zip(d).zip(e) {
            *y = factor * ((a + b) + (d + e));
        }
    }
}

/// Two tensors side by side in the last dimension, `[..., a]` and `[..., b]`.
pub(crate) struct Join {
    pub shape: Vec<usize>,
    pub widths: [usize; 2],
}

impl Kernel<2> for Join {
    const NAME: &'static str = "concat_channels";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, [a, b]: [&[f32]; 2]) -> Vec<f32> {
        let [wa, wb] = self.widths;
        let mut y = fresh(a.len() + b.len());
        let rows = y.par_chunks_exact_mut(wa + wb).zip(a.par_chunks_exact(wa)).zip(b.par_chunks_exact(wb));
        rows.with_min_len(64).for_each(|((y, a), b)| {
            y[..wa].copy_from_slice(a);
            y[wa..].copy_from_slice(b);
        });
        y
    }

    fn backward(&self, [a, b]: [&[f32]; 2], wanted: [bool; 2], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 2] {
        let [wa, wb] = self.widths;
        let part = |n: usize, first: usize, width: usize| {
            let mut out = fresh(n);
            let rows = out.par_chunks_exact_mut(width).zip(dy.par_chunks_exact(wa + wb));
            rows.with_min_len(64).for_each(|(out, dy)| out.copy_from_slice(&dy[first..first + width]));
            out
        };
        [wanted[0].then(|| part(a.len(), 0, wa)), wanted[1].then(|| part(b.len(), wa, wb))]
    }
}
