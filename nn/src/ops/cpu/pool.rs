//! Largest values of windows, channels last.

use std::ops::Range;

use rayon::prelude::*;

use super::{kernel::Kernel, scratch::fresh, simd::vectorized};

/// Shapes of one pooling, all known to agree.
pub(crate) struct MaxPool {
    /// Batch, height, width and channels of the input.
    pub input: [usize; 4],
    /// Rows and columns of the result.
    pub output: [usize; 2],
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl MaxPool {
    /// Pixels of a side of `n` that window `i` covers.
    fn span(&self, i: usize, n: usize) -> Range<usize> {
        let first = i * self.stride;
        first.saturating_sub(self.padding)..(first + self.kernel).saturating_sub(self.padding).min(n)
    }

    /// Where the pixels of the window begin in an image.
    fn window(&self, row: usize, column: usize) -> impl Iterator<Item = usize> {
        let [_, h, w, c] = self.input;
        let columns = self.span(column, w);
        self.span(row, h).flat_map(move |y| columns.clone().map(move |x| (y * w + x) * c))
    }

    /// One row of the result.
    fn row(&self, image: &[f32], row: usize, y: &mut [f32]) {
        let c = self.input[3];
        for (column, y) in y.chunks_exact_mut(c).enumerate() {
            y.fill(f32::NEG_INFINITY);
            self.window(row, column).for_each(|at| keep_larger(&image[at..at + c], y));
        }
    }

    /// Adds the gradients of an image's results to the pixels that they are from.
    fn scatter(&self, image: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let [columns, c] = [self.output[1], self.input[3]];
        let mut left = vec![0.0; c];
        for (i, (y, dy)) in y.chunks_exact(c).zip(dy.chunks_exact(c)).enumerate() {
            left.copy_from_slice(dy);
            for at in self.window(i / columns, i % columns) {
                give(&image[at..at + c], y, &mut left, &mut dx[at..at + c]);
            }
        }
    }
}

vectorized! {
    /// NaN counts as larger, so that it is not lost.
    fn keep_larger(x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = if (*x > *y) | x.is_nan() { *x } else { *y };
        }
    }

    /// Gives what is left of the gradients of y to the pixel where it is from.
    fn give(x: &[f32], y: &[f32], left: &mut [f32], dx: &mut [f32]) {
        for (((x, y), left), dx) in x.iter().zip(y).zip(left).zip(dx) {
            let here = (*x == *y) | (x.is_nan() & y.is_nan());
            *dx += if here { *left } else { 0.0 };
            *left = if here { 0.0 } else { *left };
        }
    }
}

impl Kernel<1> for MaxPool {
    const NAME: &'static str = "max_pool2d";

    fn shape(&self) -> Vec<usize> {
        vec![self.input[0], self.output[0], self.output[1], self.input[3]]
    }

    fn forward(&self, [x]: [&[f32]; 1]) -> Vec<f32> {
        let [b, h, w, c] = self.input;
        let [rows, columns] = self.output;
        let mut y = fresh(b * rows * columns * c);
        y.par_chunks_mut(columns * c).enumerate().for_each(|(i, y)| {
            self.row(&x[i / rows * (h * w * c)..][..h * w * c], i % rows, y);
        });
        y
    }

    fn backward(&self, [x]: [&[f32]; 1], _: [bool; 1], y: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 1] {
        let [_, h, w, c] = self.input;
        let mut dx = vec![0.0; x.len()];
        let (image, result) = (h * w * c, self.output[0] * self.output[1] * c);
        let images = dx.par_chunks_mut(image).zip(x.par_chunks(image)).zip(y.par_chunks(result)).zip(dy.par_chunks(result));
        images.for_each(|(((dx, x), y), dy)| self.scatter(x, y, dy, dx));
        [Some(dx)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_values_the_first_gets_the_gradient() {
        let pool = MaxPool { input: [1, 2, 4, 1], output: [1, 2], kernel: 2, stride: 2, padding: 0 };
        let x = [1.0; 8];
        let y = pool.forward([&x]);
        let [dx] = pool.backward([&x], [true], &y, &[2.0, 3.0]);
        assert_eq!(dx.as_deref(), Some(&[2., 0., 3., 0., 0., 0., 0., 0.][..]));
    }
}
