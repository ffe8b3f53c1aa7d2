//! Functional similarity of the optimal denoiser at two noise levels (Zhang et al. 2024, Eq. 5).
//!
//! D(t_a, t_b; y, eps) is the share of the n coordinates in which eps*(x_{t_a}, t_a) and eps*(x_{t_b}, t_b) differ by at most
//! eta, both points made from the same y and eps.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::optimal::{OptimalDenoiser, Queries, Shifts};
use crate::Result;

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Space {
    /// The predicted noise eps* (the paper's Eq. 5).
    #[default]
    Eps,
    /// The predicted clean point x0* (what the paper's released code compares).
    X0,
}

/// How two predictions are compared.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// What is compared.
    pub space: Space,
    /// The largest difference that counts as equal, in the units of what is compared.
    pub eta: f64,
}

impl Comparison {
    /// Number of coordinates that agree between two levels of pair `k`; a level is (its place in `shifts`, its sigma).
    pub fn count(&self, shifts: &Shifts, k: usize, a: (usize, f64), b: (usize, f64)) -> u32 {
        // eps cancels in eps* - eps*, and y in x0* - x0*: the shifts alone decide, without cancellation.
        let (scale_a, scale_b) = match self.space {
            Space::Eps => (1.0, 1.0),
            Space::X0 => (a.1, b.1),
        };
        let pairs = shifts.row(k, a.0).iter().zip(shifts.row(k, b.0));
        pairs.map(|(u, v)| u32::from((scale_a * u - scale_b * v).abs() <= self.eta)).sum()
    }
}

/// The similarities between all levels of a grid.
#[derive(Clone, Debug)]
pub struct SimilarityMatrix {
    /// Levels T of the grid.
    pub levels: usize,
    /// Numbers per point n.
    pub dim: usize,
    /// Coordinates that agree, `[K, T, T]`, each at most n.
    pub counts: Vec<u32>,
}

impl SimilarityMatrix {
    /// Number of pairs K.
    pub fn pairs(&self) -> usize {
        self.counts.len() / (self.levels * self.levels)
    }

    /// D for every pair, `[K, T, T]`.
    pub fn per_pair(&self) -> Vec<f64> {
        self.counts.iter().map(|&c| f64::from(c) / self.dim as f64).collect()
    }

    /// Coordinates that agree summed over the pairs, `[T, T]`.
    pub fn total(&self) -> Vec<u64> {
        self.weighted(&vec![1; self.pairs()])
    }

    /// The mean over the pairs, `[T, T]`, values in [0, 1].
    pub fn mean(&self) -> Vec<f64> {
        normalised(&self.total(), self.pairs() * self.dim)
    }

    /// The mean when pair k counts `times[k]` times, as a bootstrap resample has it.
    pub fn resampled(&self, times: &[u32]) -> Vec<f64> {
        let pairs: u32 = times.iter().sum();
        normalised(&self.weighted(times), pairs as usize * self.dim)
    }

    fn weighted(&self, times: &[u32]) -> Vec<u64> {
        let mut sums = vec![0; self.levels * self.levels];
        for (counts, &times) in self.counts.chunks(sums.len()).zip(times).filter(|(_, t)| **t > 0) {
            sums.iter_mut().zip(counts).for_each(|(s, &c)| *s += u64::from(c) * u64::from(times));
        }
        sums
    }
}

fn normalised(sums: &[u64], by: usize) -> Vec<f64> {
    sums.iter().map(|&s| s as f64 / by as f64).collect()
}

/// Float64 numbers that one sweep's shifts may hold (256 MiB).
const SWEEP_NUMBERS: usize = 1 << 25;

/// Compares all levels of the grid `sigmas` `[T]` for every pair (y, eps): indices `[K]`, noise `[K, n]`.
///
/// Errors as [`OptimalDenoiser::shifts`].
pub fn similarity_matrix(
    optimal: &OptimalDenoiser,
    (indices, noise): (&[usize], &[f32]),
    sigmas: &[f64],
    comparison: Comparison,
    stop: &dyn Fn() -> bool,
) -> Result<SimilarityMatrix> {
    let (dim, levels) = (optimal.summary().dim, sigmas.len());
    let batch = (SWEEP_NUMBERS / (levels.max(1) * dim)).max(1);
    let mut counts = Vec::with_capacity(indices.len() * levels * levels);
    for (indices, noise) in indices.chunks(batch).zip(noise.chunks(batch * dim)) {
        let sigmas_of_pairs = sigmas.repeat(indices.len());
        let shifts = optimal.shifts(&Queries { indices, noise, sigmas: &sigmas_of_pairs }, stop)?;
        counts.par_extend((0..indices.len()).into_par_iter().flat_map_iter(|k| compare_all(&shifts, k, sigmas, comparison)));
    }
    Ok(SimilarityMatrix { levels, dim, counts })
}

/// `[T, T]` counts of one pair.
fn compare_all(shifts: &Shifts, k: usize, sigmas: &[f64], comparison: Comparison) -> Vec<u32> {
    let t = sigmas.len();
    let mut counts = vec![shifts.dim as u32; t * t];
    for a in 0..t {
        for b in 0..a {
            let count = comparison.count(shifts, k, (a, sigmas[a]), (b, sigmas[b]));
            counts[a * t + b] = count;
            counts[b * t + a] = count;
        }
    }
    counts
}
