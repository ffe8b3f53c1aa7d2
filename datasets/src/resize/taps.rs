//! The weights of one axis.

use std::f64::consts::PI;

use super::Filter;

/// Fractional bits of a quantised weight: 8 bits of value and 2 of headroom are left in 32.
const BITS: u32 = 32 - 8 - 2;
/// What rounds a quantised sum.
pub(super) const HALF: i32 = 1 << (BITS - 1);

/// A sum of quantised weights times values, that began at [`HALF`], as 8 bits.
#[inline(always)]
pub(super) fn to_8_bits(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// For each output of an axis: the first input it reads, and the weights of the inputs from there.
pub(super) struct Taps {
    first: Vec<usize>,
    start: Vec<usize>,
    weights: Vec<f64>,
    quantised: Vec<i32>,
}

impl Taps {
    /// For `outputs` from the range [a, b) of `inputs`.
    pub(super) fn new(filter: Filter, a: f64, b: f64, outputs: usize, inputs: usize) -> Self {
        let scale = (b - a) / outputs as f64;
        let widened = scale.max(1.0);
        let support = support(filter) * widened;
        let mut taps = Self { first: Vec::new(), start: vec![0], weights: Vec::new(), quantised: Vec::new() };
        for o in 0..outputs {
            let centre = a + (o as f64 + 0.5) * scale;
            // Conversions truncate toward zero, and negative values become 0.
            let low = (centre - support + 0.5) as usize;
            let high = ((centre + support + 0.5) as usize).min(inputs);
            let row: Vec<f64> = (low..high).map(|i| weight(filter, (i as f64 - centre + 0.5) * (1.0 / widened))).collect();
            let sum: f64 = row.iter().sum();
            taps.first.push(low);
            taps.weights.extend(row.iter().map(|&w| if sum == 0.0 { w } else { w / sum }));
            taps.start.push(taps.weights.len());
        }
        taps.quantised = taps.weights.iter().map(|w| (w * f64::from(1 << BITS)).round() as i32).collect();
        taps
    }

    pub(super) fn outputs(&self) -> usize {
        self.first.len()
    }

    #[inline(always)]
    pub(super) fn quantised(&self, output: usize) -> (usize, &[i32]) {
        (self.first[output], &self.quantised[self.start[output]..self.start[output + 1]])
    }

    pub(super) fn exact(&self, output: usize) -> (usize, &[f64]) {
        (self.first[output], &self.weights[self.start[output]..self.start[output + 1]])
    }
}

fn support(filter: Filter) -> f64 {
    match filter {
        Filter::Nearest | Filter::Box => 0.5,
        Filter::Bilinear | Filter::Hamming => 1.0,
        Filter::Bicubic => 2.0,
        Filter::Lanczos => 3.0,
    }
}

fn weight(filter: Filter, x: f64) -> f64 {
    match filter {
        Filter::Nearest | Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
        Filter::Bilinear => (1.0 - x.abs()).max(0.0),
        Filter::Hamming if x.abs() < 1.0 => sinc(x) * (0.54 + 0.46 * (PI * x).cos()),
        Filter::Bicubic => cubic(x.abs()),
        Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
        _ => 0.0,
    }
}

/// Keys' cubic convolution with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}
