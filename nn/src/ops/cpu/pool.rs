//! Largest values of windows, channels last.

use std::{ops::Range, sync::OnceLock};

use rayon::prelude::*;

use super::kernel::Kernel;

/// Shapes of one pooling, all known to agree.
pub(crate) struct MaxPool {
    /// Batch, height, width and channels of the input.
    pub input: [usize; 4],
    /// Rows and columns of the result.
    pub output: [usize; 2],
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    /// Pixel of the image that each value of the result is from, kept for the backward pass.
    pub places: OnceLock<Vec<u32>>,
}

impl MaxPool {
    /// Pixels of a side of `n` that window `i` covers.
    fn span(&self, i: usize, n: usize) -> Range<usize> {
        let first = i * self.stride;
        first.saturating_sub(self.padding)..(first + self.kernel).saturating_sub(self.padding).min(n)
    }

    /// One row of the result and where it is from.
    fn row(&self, image: &[f32], row: usize, y: &mut [f32], places: &mut [u32]) {
        let [_, h, w, c] = self.input;
        for (column, (y, places)) in y.chunks_exact_mut(c).zip(places.chunks_exact_mut(c)).enumerate() {
            y.fill(f32::NEG_INFINITY);
            for iy in self.span(row, h) {
                for ix in self.span(column, w) {
                    let pixel = iy * w + ix;
                    keep_larger(&image[pixel * c..][..c], pixel as u32, y, places);
                }
            }
        }
    }
}

/// NaN counts as larger, so that it is not lost.
fn keep_larger(x: &[f32], pixel: u32, y: &mut [f32], places: &mut [u32]) {
    for ((x, y), place) in x.iter().zip(y).zip(places) {
        if *x > *y || x.is_nan() {
            (*y, *place) = (*x, pixel);
        }
    }
}

impl Kernel<1> for MaxPool {
    const NAME: &'static str = "max_pool2d";

    fn shape(&self) -> Vec<usize> {
        vec![self.input[0], self.output[0], self.output[1], self.input[3]]
    }

    fn forward(&self, [x]: [&[f32]; 1]) -> Vec<f32> {
        let [_, h, w, c] = self.input;
        let [rows, columns] = self.output;
        let n = self.input[0] * rows * columns * c;
        let (mut y, mut places) = (vec![0.0; n], vec![0; n]);
        y.par_chunks_mut(columns * c).zip(places.par_chunks_mut(columns * c)).enumerate().for_each(|(i, (y, places))| {
            self.row(&x[i / rows * (h * w * c)..][..h * w * c], i % rows, y, places);
        });
        let _ = self.places.set(places);
        y
    }

    fn backward(&self, [x]: [&[f32]; 1], _: [bool; 1], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 1] {
        let [_, h, w, c] = self.input;
        let mut dx = vec![0.0; x.len()];
        let per_image = self.output[0] * self.output[1] * c;
        let Some(places) = self.places.get() else { return [None] };
        let images = dx.par_chunks_mut(h * w * c).zip(dy.par_chunks(per_image)).zip(places.par_chunks(per_image));
        images.for_each(|((dx, dy), places)| {
            for (i, (dy, place)) in dy.iter().zip(places).enumerate() {
                dx[*place as usize * c + i % c] += dy;
            }
        });
        [Some(dx)]
    }
}
