//! `splitmix64-v1`: weights from names, so that no large file is needed.

use rayon::prelude::*;

/// Values of the parameter `name` with `shape`, row-major: uniform with variance 1/fan_in for 2 and more dimensions, about 1 for
/// the scale of a norm, about 0 for every other vector. Computed in float64 and rounded once.
pub fn parameter(name: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in = shape.iter().skip(1).product::<usize>().max(1) as f64;
    match shape.len() {
        2.. => values(name, shape, |c| c * (3.0 / fan_in).sqrt()),
        1 if name.ends_with("weight") => values(name, shape, |c| 1.0 + 0.1 * c),
        _ => values(name, shape, |c| 0.1 * c),
    }
}

/// Values of a batch norm's `running_mean` (`0.1 c`) or `running_var` (`1 + 0.1 c`); nothing for any other name.
pub fn batch_norm_statistic(name: &str, shape: &[usize]) -> Option<Vec<f32>> {
    if name.ends_with("running_mean") {
        Some(values(name, shape, |c| 0.1 * c))
    } else if name.ends_with("running_var") {
        Some(values(name, shape, |c| 1.0 + 0.1 * c))
    } else {
        None
    }
}

fn values(name: &str, shape: &[usize], f: impl Fn(f64) -> f64 + Sync) -> Vec<f32> {
    let hash = fnv1a(name);
    let n = shape.iter().product::<usize>();
    (0..n).into_par_iter().with_min_len(1 << 14).map(|i| f(2.0 * unit(hash, i) - 1.0) as f32).collect()
}

/// Element `i` of the stream: in [0, 1), a multiple of 2^-24.
fn unit(hash: u64, i: usize) -> f64 {
    let mut z = hash.wrapping_add((i as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 40) as f64 / f64::from(1u32 << 24)
}

fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(14_695_981_039_346_656_037, |h, byte| (h ^ u64::from(byte)).wrapping_mul(1_099_511_628_211))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits computed by an independent implementation of the rule.
    #[test]
    fn golden_fill_is_the_published_rule() {
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(
            bits(parameter("embedding.weight", &[2, 3])),
            [0x3f1c_e342, 0x3f41_9f22, 0xbf46_8dee, 0x3e9a_af2c, 0xbdfb_7100, 0xbf72_e586]
        );
        assert_eq!(bits(parameter("norm.weight", &[2])), [0x3f73_dce8, 0x3f67_c72d]);
        assert_eq!(bits(parameter("norm.bias", &[2])), [0x3d8e_2b95, 0x3d06_a07d]);
    }

    #[test]
    fn golden_fill_of_batch_norm_statistics() {
        let mean = batch_norm_statistic("bn.running_mean", &[4]).unwrap_or_default();
        let var = batch_norm_statistic("bn.running_var", &[4]).unwrap_or_default();
        assert!(mean.len() == 4 && mean.iter().all(|v| v.abs() <= 0.1));
        assert!(var.len() == 4 && var.iter().all(|v| (v - 1.0).abs() <= 0.1));
        assert_eq!(batch_norm_statistic("bn.weight", &[4]), None);
    }
}
