//! The paper's stage division (Zhang et al. 2024, Algorithm 1, Eqs. 6 and 7): three stages from two running means.
//!
//! K samples (y_k, eps_k, t_k); S0_k is the similarity of eps* at t_k and at t_0, the finest noise; S1_k the one at t_k and at
//! t_1, the coarsest. A pair (y, eps) may be looked at in several levels: most of the work is shared, and the means are the same. The first boundary is the largest tau with mean(S0_k : t_k <= tau) >= alpha, the second the smallest
//! tau with mean(S1_k : t_k >= tau) >= alpha. The running means are not monotone, so all candidates are looked at.

use std::collections::HashMap;

use rayon::prelude::*;
use strata_nn::random::{Key, uniform_f64};

use super::optimal::{OptimalDenoiser, Queries};
use super::similarity::Comparison;
use crate::Result;

/// One sample of Algorithm 1. `t` is any ascending coordinate of the noise level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Number of the pair (y, eps) that it was made from; samples of one pair are not independent.
    pub pair: usize,
    /// Where the sample was drawn.
    pub t: f64,
    /// Similarity to the finest noise level, in [0, 1].
    pub to_data: f64,
    /// Similarity to the coarsest noise level, in [0, 1].
    pub to_noise: f64,
}

/// The three noise levels of one sample: its own and the two ends.
#[derive(Clone, Copy, Debug)]
pub struct Levels {
    /// sigma of the finest level, "t = 0".
    pub finest: f64,
    /// sigma of the coarsest level, "t = 1".
    pub coarsest: f64,
}

/// (S0, S1) of pairs (indices `[K]`, noise `[K, n]`) at `sigmas` `[K, R]`, in that order. Errors as [`OptimalDenoiser::shifts`].
pub fn end_similarities(
    optimal: &OptimalDenoiser,
    (indices, noise): (&[usize], &[f32]),
    sigmas: &[f64],
    ends: Levels,
    comparison: Comparison,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<(f64, f64)>> {
    let per_pair = sigmas.len() / indices.len().max(1);
    let levels: Vec<f64> =
        sigmas.chunks(per_pair.max(1)).flat_map(|s| s.iter().copied().chain([ends.finest, ends.coarsest])).collect();
    let shifts = optimal.shifts(&Queries { indices, noise, sigmas: &levels }, stop)?;
    let share = |i: usize, end: usize, sigma: f64| {
        let own = (i % per_pair, sigmas[i]);
        f64::from(comparison.count(&shifts, i / per_pair, own, (per_pair + end, sigma))) / optimal.summary().dim as f64
    };
    Ok((0..sigmas.len()).into_par_iter().map(|i| (share(i, 0, ends.finest), share(i, 1, ends.coarsest))).collect())
}

/// Samples in ascending order of t, and what the algorithm reads off them.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    sorted: Vec<Sample>,
}

impl Samples {
    /// Adds samples in any order.
    pub fn extend(&mut self, samples: impl IntoIterator<Item = Sample>) {
        self.sorted.extend(samples);
        self.sorted.sort_by(|a, b| a.t.total_cmp(&b.t));
    }

    /// All samples, ascending in t.
    pub fn sorted(&self) -> &[Sample] {
        &self.sorted
    }

    /// Mean of S0 over all samples up to and including each, `[K]`.
    pub fn running_to_data(&self) -> Vec<f64> {
        running(self.sorted.iter().map(|s| (s.to_data, 1)))
    }

    /// Mean of S1 over all samples from each on, itself included, `[K]`.
    pub fn running_to_noise(&self) -> Vec<f64> {
        let mut means = running(self.sorted.iter().rev().map(|s| (s.to_noise, 1)));
        means.reverse();
        means
    }

    /// The two boundaries for `alpha`; `None` where no sampled t satisfies the condition.
    pub fn boundaries(&self, alpha: f64) -> [Option<f64>; 2] {
        self.weighted_boundaries(alpha, &vec![1; self.sorted.len()])
    }

    /// Both boundaries on `count` bootstrap resamples (see [`resample`]). A boundary that a resample lacks is its `missing`.
    pub fn bootstrap(&self, alpha: f64, count: usize, key: Key, missing: [f64; 2]) -> [Vec<f64>; 2] {
        let mut found = [Vec::with_capacity(count), Vec::with_capacity(count)];
        let ranks = self.ranks();
        let pairs = ranks.iter().max().map_or(0, |m| m + 1);
        for i in 0..count {
            let times = resample(pairs, STRATUM, key.index(i as u64));
            let of_samples: Vec<u32> = ranks.iter().map(|&r| times[r]).collect();
            let boundaries = self.weighted_boundaries(alpha, &of_samples);
            for ((found, boundary), missing) in found.iter_mut().zip(boundaries).zip(missing) {
                found.push(boundary.unwrap_or(missing));
            }
        }
        found
    }

    /// For every sample the rank of its pair among all pairs, ordered by their finest level.
    fn ranks(&self) -> Vec<usize> {
        let mut ranks = HashMap::new();
        self.sorted
            .iter()
            .map(|s| {
                let next = ranks.len();
                *ranks.entry(s.pair).or_insert(next)
            })
            .collect()
    }

    fn weighted_boundaries(&self, alpha: f64, times: &[u32]) -> [Option<f64>; 2] {
        let to_data = running(self.sorted.iter().map(|s| s.to_data).zip(times.iter().copied()));
        let to_noise = running(self.sorted.iter().map(|s| s.to_noise).zip(times.iter().copied()).rev());
        let n = self.sorted.len();
        // NaN (no sample yet in a resample) compares false.
        let first = to_data.iter().rposition(|&m| m >= alpha).map(|i| self.sorted[i].t);
        let second = to_noise.iter().rposition(|&m| m >= alpha).map(|i| self.sorted[n - 1 - i].t);
        [first, second]
    }
}

/// Running means of (value, times).
fn running(values: impl Iterator<Item = (f64, u32)>) -> Vec<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    values
        .map(|(value, times)| {
            sum += value * f64::from(times);
            count += f64::from(times);
            sum / count
        })
        .collect()
}

/// Neighbouring pairs, by their levels, that a bootstrap resample draws among. Levels are stratified, not independent, so a resample
/// must keep their density; within a stratum this narrow the pairs are independent and alike.
const STRATUM: usize = 20;

/// How often each of `n` ordered samples occurs in one bootstrap resample that draws within runs of `stratum` neighbours.
pub fn resample(n: usize, stratum: usize, key: Key) -> Vec<u32> {
    let mut rng = key.generator();
    let mut times = vec![0; n];
    let strata = (n / stratum.max(1)).max(1);
    for i in 0..strata {
        let (start, end) = (i * n / strata, (i + 1) * n / strata);
        for _ in start..end {
            let drawn = start + (uniform_f64(&mut rng) * (end - start) as f64) as usize;
            times[drawn.min(end - 1)] += 1;
        }
    }
    times
}

/// The central interval that holds `coverage` (for example 0.95) of `values`; (NaN, NaN) if there are none.
pub fn interval(values: &[f64], coverage: f64) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| sorted.get((q * (sorted.len().saturating_sub(1)) as f64).round() as usize).copied().unwrap_or(f64::NAN);
    (at((1.0 - coverage) / 2.0), at(f64::midpoint(1.0, coverage)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[(f64, f64)]) -> Samples {
        let mut samples = Samples::default();
        samples.extend(values.iter().enumerate().map(|(i, &(to_data, to_noise))| Sample {
            pair: i,
            t: i as f64,
            to_data,
            to_noise,
        }));
        samples
    }

    #[test]
    fn the_last_crossing_counts_on_both_sides() {
        // Running means of S0: 1, 0.5, 0.667, 0.75, 0.6; of S1 from the right: 1, 0.5, 0.667, 0.75, 0.6.
        let s = samples(&[(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0)]);
        assert_eq!(s.boundaries(0.7), [Some(3.0), Some(1.0)]);
        assert_eq!(s.boundaries(0.6), [Some(4.0), Some(0.0)]);
        assert_eq!(s.boundaries(1.1), [None, None]);
    }

    #[test]
    fn resamples_keep_the_density_in_t() {
        let times = resample(105, 10, Key::new(0, "resample"));
        assert_eq!(times.iter().sum::<u32>(), 105);
        for i in 0..10 {
            let (start, end) = (i * 105 / 10, (i + 1) * 105 / 10);
            assert_eq!(times[start..end].iter().sum::<u32>() as usize, end - start);
        }
        assert!(times.contains(&0) && times.iter().any(|&t| t > 1));
        assert_ne!(times, resample(105, 10, Key::new(1, "resample")));
        assert_eq!(resample(1, 10, Key::new(1, "resample")), [1]);
    }

    #[test]
    fn the_levels_of_a_pair_are_resampled_together() {
        let mut samples = Samples::default();
        samples.extend((0..80).map(|i| Sample { pair: i % 40, t: i as f64, to_data: 1.0, to_noise: 1.0 }));
        let ranks = samples.ranks();
        assert_eq!(ranks[..40], ranks[40..]);
        assert_eq!(ranks[39], 39);
        // All similarities are 1: every resample's first boundary is its last sample that occurs, the second its first.
        let [first, second] = samples.bootstrap(0.9, 50, Key::new(0, "levels"), [0.0, 100.0]);
        assert!(first.iter().all(|t| *t >= 59.0) && second.iter().all(|t| *t <= 20.0), "{first:?} {second:?}");
    }

    #[test]
    fn central_interval() {
        let values: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(interval(&values, 0.9), (5.0, 95.0));
        assert!(interval(&[], 0.9).0.is_nan());
    }
}
