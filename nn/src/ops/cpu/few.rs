//! Products of few pixels (or rows) with a large weight, which is used where it lies: packing it would take as long as the product.
//!
//! Windows are gathered in the order of the weight on disk, channel by channel, and it is they that are packed.

use std::borrow::Cow;

use rayon::prelude::*;

use super::{
    bias::Bias,
    gather::Gather,
    gemm::{Matrix, Packed, gemm},
    reduce::add,
    scratch::{fresh, with_scratch},
    simd::vectorized,
};

/// Pixels below which this way is the faster one.
const FEW_PIXELS: usize = 384;
/// Numbers of a weight from which it is large.
const LARGE: usize = 1 << 12;
/// Channels of the input's gradient that one piece of work takes.
const CHANNELS: usize = 16;

/// Whether this way pays for `n` outputs.
pub(crate) fn applies(gather: &Gather, n: usize) -> bool {
    gather.pixels() < FEW_PIXELS && n * gather.window() >= LARGE
}

/// Windows times weight `[n, channels, taps]` transposed, plus bias: `[pixels, n]`.
pub(crate) fn forward(gather: &Gather, source: &[f32], weight: &[f32], bias: Option<Bias<'_>>) -> Vec<f32> {
    let (pixels, q) = (gather.pixels(), gather.window());
    let n = weight.len() / q;
    let windows = windows(gather, source);
    let packed = Packed::new(&[Matrix::rows(&windows, q).t()], q, pixels);
    let mut turned = fresh(n * pixels);
    let rows = outputs_at_once(n);
    turned.par_chunks_mut(rows * pixels).zip(weight.par_chunks(rows * q)).for_each(|(y, w)| {
        packed.product(y, false, Matrix::rows(w, q));
    });
    let mut y = fresh(pixels * n);
    y.par_chunks_mut(n * 8).enumerate().for_each(|(i, y)| {
        for (j, y) in y.chunks_exact_mut(n).enumerate() {
            for (y, column) in y.iter_mut().zip(turned[8 * i + j..].iter().step_by(pixels)) {
                *y = *column;
            }
            if let Some(bias) = bias {
                add(y, bias.of(8 * i + j));
            }
        }
    });
    y
}

/// Gradient of the weight, `[n, channels, taps]`.
pub(crate) fn weight_gradient(gather: &Gather, source: &[f32], dy: &[f32]) -> Vec<f32> {
    let (pixels, q) = (gather.pixels(), gather.window());
    let n = dy.len() / pixels;
    let windows = windows(gather, source);
    let packed = Packed::new(&[Matrix::rows(&windows, q)], pixels, q);
    let mut dw = fresh(n * q);
    let rows = outputs_at_once(n);
    dw.par_chunks_mut(rows * q).enumerate().for_each(|(i, dw)| {
        packed.product(dw, false, Matrix::rows(&dy[i * rows..], n).t());
    });
    dw
}

/// Gradient of the source.
pub(crate) fn input_gradient(gather: &Gather, dy: &[f32], weight: &[f32]) -> Vec<f32> {
    let (c, area) = (gather.source[3], gather.taps[0] * gather.taps[1]);
    let (pixels, q) = (gather.pixels(), c * area);
    let n = dy.len() / pixels;
    let places: usize = gather.source[..3].iter().product();
    let parts: Vec<Vec<f32>> = (0..c.div_ceil(CHANNELS))
        .into_par_iter()
        .map(|i| {
            let channels = CHANNELS.min(c - i * CHANNELS);
            let mut dx = vec![0.0; places * channels];
            with_scratch(pixels * channels * area, |windows| {
                let right = Matrix::rows(&weight[i * CHANNELS * area..], q);
                let width = channels * area;
                gemm([pixels, width, n], (windows, width), false, 1.0, Matrix::rows(dy, n), right);
                scatter(gather, windows, channels, &mut dx);
            });
            dx
        })
        .collect();
    let mut dx = fresh(places * c);
    dx.par_chunks_mut(c * 8).enumerate().for_each(|(i, dx)| {
        for (j, dx) in dx.chunks_exact_mut(c).enumerate() {
            for (dx, part) in dx.chunks_mut(CHANNELS).zip(&parts) {
                dx.copy_from_slice(&part[(8 * i + j) * dx.len()..][..dx.len()]);
            }
        }
    });
    dx
}

/// Outputs that one piece of work takes.
fn outputs_at_once(n: usize) -> usize {
    n.div_ceil(16).next_multiple_of(6)
}

/// `[pixels, channels, taps]`.
fn windows<'a>(gather: &Gather, source: &'a [f32]) -> Cow<'a, [f32]> {
    if gather.is_identity() {
        return Cow::Borrowed(source);
    }
    let (q, c) = (gather.window(), gather.source[3]);
    let mut out = vec![0.0; gather.pixels() * q];
    out.par_chunks_mut(q).enumerate().with_min_len(4).for_each(|(pixel, out)| {
        for (tap, from) in gather.sources(pixel).enumerate() {
            if let Some(from) = from {
                spread(&source[from..from + c], tap, out);
            }
        }
    });
    Cow::Owned(out)
}

/// Adds the windows `[pixels, channels, taps]` of some channels to the pixels that they are from, `[places, channels]`.
fn scatter(gather: &Gather, windows: &[f32], channels: usize, dx: &mut [f32]) {
    let area = gather.taps[0] * gather.taps[1];
    if gather.is_identity() {
        return dx.copy_from_slice(windows);
    }
    let c = gather.source[3];
    for (pixel, window) in windows.chunks_exact(channels * area).enumerate() {
        for (tap, place) in gather.sources(pixel).enumerate() {
            if let Some(place) = place {
                let at = place / c * channels;
                collect(window, tap, &mut dx[at..at + channels]);
            }
        }
    }
}

vectorized! {
    /// Channels to every `out.len() / x.len()`-th place from `tap` on.
    fn spread(x: &[f32], tap: usize, out: &mut [f32]) {
        let area = out.len() / x.len();
        for (x, out) in x.iter().zip(out.chunks_exact_mut(area)) {
            out[tap] = *x;
        }
    }

    /// Adds what [`spread`] would have put there.
    fn collect(window: &[f32], tap: usize, dx: &mut [f32]) {
        let area = window.len() / dx.len();
        for (dx, window) in dx.iter_mut().zip(window.chunks_exact(area)) {
            *dx += window[tap];
        }
    }
}
