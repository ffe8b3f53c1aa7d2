//! Exponentials that vectorize: no branch, no call.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// e^x to about 2 units in the last place; inputs are limited to [-87, 88], where the result is a normal number.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    // The Taylor polynomial of degree 7 on |r| <= ln(2)/2: below half a unit in the last place.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let power = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    p * f32::from_bits(power)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Distribution function and density of N(0, 1), to 1e-7 (Abramowitz & Stegun 1964, 7.1.26).
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    let z = (x * FRAC_1_SQRT_2).abs();
    let e = exp(-z * z);
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4 * t - 1.453_152;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_74;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, FRAC_1_SQRT_2PI * e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 4e-7, "exp({x}) = {}, not {exact}", exp(x));
        }
    }

    #[test]
    fn sigmoid_and_normal_of_extremes() {
        assert_eq!((sigmoid(1e4), normal(1e4).0), (1.0, 1.0));
        assert!(sigmoid(-1e4) < 1e-30 && normal(-1e4).0 < 1e-30 && normal(1e30).1 < 1e-30);
        assert_eq!(sigmoid(0.0), 0.5);
        assert!((normal(0.0).0 - 0.5).abs() < 1e-6);
    }
}
