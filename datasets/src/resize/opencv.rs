//! Resizing by OpenCV's rules, for data sets whose published preparation uses them. Results agree within one level.

use serde::{Deserialize, Serialize};

use super::Pixels;
use crate::{Error, Result};

/// OpenCV's interpolations. None but `Area` is antialiased.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The pixel at floor(o n / m).
    Nearest,
    /// Linear between the two neighbours.
    Bilinear,
    /// Cubic through four neighbours, a = -0.75.
    Bicubic,
    /// The exact mean over the source area; where a side grows, a form of linear interpolation.
    Area,
}

/// Resizes to `width` x `height`. Errors if a side is zero or the buffer's length does not fit.
pub fn resize_opencv(image: &Pixels, width: usize, height: usize, interpolation: Interpolation) -> Result<Pixels> {
    image.check()?;
    if width == 0 || height == 0 {
        return Err(Error::argument("target size", "at least 1x1", format!("{width}x{height}")));
    }
    if (width, height) == (image.width, image.height) {
        return Ok(image.clone());
    }
    let grows = width > image.width || height > image.height;
    let taps = |outputs, inputs| -> Vec<Vec<(usize, f64)>> {
        (0..outputs).map(|o| taps_of(interpolation, grows, o, outputs, inputs)).collect()
    };
    let (across, down) = (taps(width, image.width), taps(height, image.height));
    let c = image.channels;
    let source: Vec<f64> = image.data.iter().map(|&v| f64::from(v)).collect();
    let narrow: Vec<f64> = source.chunks_exact(image.width * c).flat_map(|row| pass(row, &across, c)).collect();
    let data = pass(&narrow, &down, width * c).iter().map(|v| v.round_ties_even().clamp(0.0, 255.0) as u8).collect();
    Ok(Pixels { width, height, channels: c, data })
}

fn pass(data: &[f64], taps: &[Vec<(usize, f64)>], run: usize) -> Vec<f64> {
    let mut out = vec![0.0; taps.len() * run];
    for (sums, taps) in out.chunks_exact_mut(run).zip(taps) {
        for &(index, weight) in taps {
            let values = &data[index * run..(index + 1) * run];
            sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v * weight);
        }
    }
    out
}

/// Inputs and weights of output `o`.
fn taps_of(interpolation: Interpolation, grows: bool, o: usize, outputs: usize, inputs: usize) -> Vec<(usize, f64)> {
    let scale = inputs as f64 / outputs as f64;
    let clamp = |i: f64| i.clamp(0.0, (inputs - 1) as f64) as usize;
    match interpolation {
        Interpolation::Nearest => vec![(clamp((o as f64 * scale).floor()), 1.0)],
        Interpolation::Bilinear => {
            let at = (o as f64 + 0.5) * scale - 0.5;
            let f = at - at.floor();
            vec![(clamp(at.floor()), 1.0 - f), (clamp(at.floor() + 1.0), f)]
        }
        Interpolation::Bicubic => {
            let at = (o as f64 + 0.5) * scale - 0.5;
            let (i, f) = (at.floor(), at - at.floor());
            (-1..=2).map(|d| (clamp(i + f64::from(d)), cubic((f - f64::from(d)).abs()))).collect()
        }
        Interpolation::Area if grows => {
            let i = (o as f64 * scale).floor();
            let f = (o + 1) as f64 - (i + 1.0) / scale;
            let f = if f <= 0.0 { 0.0 } else { f - f.floor() };
            vec![(clamp(i), 1.0 - f), (clamp(i + 1.0), f)]
        }
        Interpolation::Area => area(o as f64 * scale, (o + 1) as f64 * scale, inputs),
    }
}

/// The mean over [a, b), with the shares of the pixels at both ends.
fn area(a: f64, b: f64, inputs: usize) -> Vec<(usize, f64)> {
    let b = b.min(inputs as f64);
    (a as usize..inputs.min(b.ceil() as usize))
        .map(|i| (i, (b.min((i + 1) as f64) - a.max(i as f64)) / (b - a)))
        .filter(|&(_, w)| w > 1e-9)
        .collect()
}

/// Cubic convolution with a = -0.75.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}
