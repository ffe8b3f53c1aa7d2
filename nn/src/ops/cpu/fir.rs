//! Resampling of images by a separable filter.

use rayon::prelude::*;

use super::{kernel::Kernel, scratch::with_scratch, simd::vectorized};
use crate::ops::FirConfig;

/// Rows of an image are taken in pieces of this many, by size alone.
const ROWS: usize = 4;

pub(crate) struct Resample {
    filter: Filter,
    /// Batch, height, width, channels of what comes in.
    input: [usize; 4],
    /// Height and width of what comes out.
    output: [usize; 2],
}

/// `y[i] = sum_k taps[k] u[down i + k - before]` where `u[up j] = x[j]` and all else is zero.
struct Filter {
    taps: Vec<f32>,
    up: usize,
    down: usize,
    before: isize,
}

impl Resample {
    pub(crate) fn new(taps: &[f32], config: FirConfig, input: [usize; 4], output: [usize; 2]) -> Self {
        let FirConfig { up, down, before, .. } = config;
        Self { filter: Filter { taps: taps.to_vec(), up, down, before: before as isize }, input, output }
    }
}

impl Kernel<1> for Resample {
    const NAME: &'static str = "fir_resample";

    fn shape(&self) -> Vec<usize> {
        vec![self.input[0], self.output[0], self.output[1], self.input[3]]
    }

    fn forward(&self, [x]: [&[f32]; 1]) -> Vec<f32> {
        self.filter.run(x, self.input, self.output)
    }

    fn backward(&self, _: [&[f32]; 1], _: [bool; 1], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 1] {
        let [b, h, w, c] = self.input;
        let [h_out, w_out] = self.output;
        [Some(self.filter.adjoint().run(dy, [b, h_out, w_out, c], [h, w]))]
    }
}

impl Filter {
    /// `x[j] = sum_i taps[up j + before - down i] y[i]`: the same form with the taps backwards, `up` and `down` exchanged.
    fn adjoint(&self) -> Self {
        let last = self.taps.len() as isize - 1;
        Self { taps: self.taps.iter().rev().copied().collect(), up: self.down, down: self.up, before: last - self.before }
    }

    /// The taps that meet a sample in result `i` of a line of `size` samples, with that sample.
    fn terms(&self, i: usize, size: usize) -> impl Iterator<Item = (f32, usize)> {
        let (first, up) = ((self.down * i) as isize - self.before, self.up as isize);
        self.taps.iter().enumerate().filter_map(move |(k, &tap)| {
            let place = first + k as isize;
            let meets = place >= 0 && place % up == 0 && place / up < size as isize;
            meets.then(|| (tap, (place / up) as usize))
        })
    }

    /// Each line of the result: the input's lines weighted into one, then that line resampled.
    fn run(&self, x: &[f32], [b, h, w, c]: [usize; 4], [h_out, w_out]: [usize; 2]) -> Vec<f32> {
        let mut y = vec![0.0; b * h_out * w_out * c];
        y.par_chunks_mut(w_out * c).enumerate().with_min_len(ROWS).for_each(|(row, y)| {
            let image = &x[row / h_out * h * w * c..][..h * w * c];
            with_scratch(w * c, |line| {
                line.fill(0.0);
                for (tap, i) in self.terms(row % h_out, h) {
                    add_scaled(line, tap, &image[i * w * c..][..w * c]);
                }
                for (j, y) in y.chunks_exact_mut(c).enumerate() {
                    for (tap, i) in self.terms(j, w) {
                        add_scaled(y, tap, &line[i * c..][..c]);
                    }
                }
            });
        });
        y
    }
}

vectorized! {
    fn add_scaled(y: &mut [f32], factor: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += factor * x;
        }
    }
}
