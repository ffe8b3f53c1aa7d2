//! Convolutions of stride 1 to few channels: one product of every source pixel with all taps at once, whose parts are then added
//! up. As products of windows they would leave most lanes of the vectors empty, and the windows are many times the source.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    bias::Bias,
    gather::Gather,
    gemm::{Matrix, Packed},
    reduce::add,
    scratch::{fresh, with_scratch},
    simd::vectorized,
};

/// Channels of the result up to which this way pays: half a vector.
const NARROW: usize = 8;
/// Pixels that one piece of work answers, about.
const PIXELS: usize = 1024;

/// Whether this way is open and pays for `n` outputs.
pub(crate) fn applies(gather: &Gather, n: usize) -> bool {
    n <= NARROW && gather.taps != [1, 1] && gather.stride == 1 && gather.source[3] >= 16
}

/// Windows times the matrices of their taps (`[channels, n]` each), plus bias: `[pixels, n]`.
pub(crate) fn product(gather: &Gather, source: &[f32], taps: &[Matrix<'_>], n: usize, bias: Option<Bias<'_>>) -> Vec<f32> {
    let [height, width] = gather.grid;
    let matrix = side_by_side(taps, gather.source[3], n);
    let rows = (PIXELS / width).clamp(1, height);
    let mut y = fresh(gather.pixels() * n);
    let bands = y
        .par_chunks_mut(height * width * n)
        .enumerate()
        .flat_map(|(image, y)| y.par_chunks_mut(rows * width * n).enumerate().map(move |(i, y)| (image, i * rows, y)));
    bands.for_each(|(image, first, y)| {
        match bias {
            Some(bias) => bias.fill((image * height + first) * width, y),
            None => y.fill(0.0),
        }
        band(gather, source, &matrix, n, [image, first], y);
    });
    y
}

/// Adds what is to be rows `first..` of an image.
fn band(gather: &Gather, source: &[f32], matrix: &Packed, n: usize, [image, first]: [usize; 2], y: &mut [f32]) {
    let ([_, h, w, c], [kh, kw], columns) = (gather.source, gather.taps, gather.grid[1]);
    let row = |y: usize| (y as isize + gather.origin[0]).clamp(0, h as isize) as usize;
    let (top, bottom) = (row(first), row(first + y.len() / (columns * n) + kh - 1));
    let width = kh * kw * n;
    with_scratch((bottom - top) * w * width, |products| {
        let pixels = &source[(image * h + top) * w * c..(image * h + bottom) * w * c];
        matrix.product(products, false, Matrix::rows(pixels, c));
        for (i, y) in y.chunks_exact_mut(columns * n).enumerate() {
            for tap in 0..kh * kw {
                let Some(from) = within(first + i, gather.origin[0] + (tap / kw) as isize, h) else { continue };
                let shift = gather.origin[1] + (tap % kw) as isize;
                let here = overlap(columns, shift, w);
                if !here.is_empty() {
                    let at = (from - top) * w + (here.start as isize + shift) as usize;
                    collect(&mut y[here.start * n..here.end * n], &products[at * width + tap * n..], n, width);
                }
            }
        }
    });
}

/// `i + shift`, if that is below `n`.
fn within(i: usize, shift: isize, n: usize) -> Option<usize> {
    i.checked_add_signed(shift).filter(|i| *i < n)
}

/// The part of `0..columns` whose shifted places are in `0..w`.
fn overlap(columns: usize, shift: isize, w: usize) -> Range<usize> {
    let end = (w as isize - shift).clamp(0, columns as isize) as usize;
    ((-shift).max(0) as usize).min(end)..end
}

/// `[channels, taps · n]`.
fn side_by_side(taps: &[Matrix<'_>], c: usize, n: usize) -> Packed {
    let mut dense = fresh(c * taps.len() * n);
    for (i, row) in dense.chunks_exact_mut(taps.len() * n).enumerate() {
        for (tap, row) in taps.iter().zip(row.chunks_exact_mut(n)) {
            row.iter_mut().enumerate().for_each(|(j, v)| *v = tap.at(i, j));
        }
    }
    Packed::new(&[Matrix::rows(&dense, taps.len() * n)], c, taps.len() * n)
}

vectorized! {
    /// Adds `n` numbers of every row of `from`, `width` apart, to the next `n` of y.
    fn collect(y: &mut [f32], from: &[f32], n: usize, width: usize) {
        match n {
            1 => collect_of::<1>(y, from, width),
            2 => collect_of::<2>(y, from, width),
            3 => collect_of::<3>(y, from, width),
            4 => collect_of::<4>(y, from, width),
            _ => y.chunks_exact_mut(n).zip(from.chunks(width)).for_each(|(y, from)| add(y, &from[..n])),
        }
    }
}

#[inline(always)]
fn collect_of<const N: usize>(y: &mut [f32], from: &[f32], width: usize) {
    for (y, from) in y.chunks_exact_mut(N).zip(from.chunks(width)) {
        for j in 0..N {
            y[j] += from[j];
        }
    }
}
