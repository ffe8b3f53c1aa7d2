//! How far a distance may be trusted: intervals for Fréchet and kernel distances, and the limit of a Fréchet distance for many samples.

use rand_core::RngCore;
use serde::Serialize;
use strata_nn::random::Key;

use super::{
    Features,
    frechet::Prepared,
    kid::{Kid, draw_without_replacement},
    moments::Moments,
};
use crate::{Error, Result};

/// Share of cases that an interval is to cover.
const LEVEL: f64 = 0.95;

/// Where the value lies in 95 of 100 cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Repetitions behind it.
    pub repetitions: usize,
}

/// The interval of a Fréchet distance under other samples: `repetitions` times as many rows are drawn from `samples` with
/// replacement (Efron 1979). Drawing rows twice shifts all of these distances upwards, so that their spread about their own
/// mean is put about `distance`. The reference is taken as given.
///
/// # Errors
/// If there are fewer than two repetitions or rows.
pub fn bootstrap(samples: &Features, reference: &Prepared, distance: f64, repetitions: usize, seed: u64) -> Result<Interval> {
    at_least_two(repetitions)?;
    let n = samples.len();
    let one = |i: usize| -> Result<f64> {
        let mut rng = Key::new(seed, "bootstrap").index(i as u64).generator();
        let rows: Vec<usize> = (0..n).map(|_| (rng.next_u64() % n.max(1) as u64) as usize).collect();
        distance_of(&samples.select(&rows)?, reference)
    };
    let distances = (0..repetitions).map(one).collect::<Result<Vec<_>>>()?;
    Ok(about(distance, &distances, 1.0))
}

/// The interval of a kernel distance under other samples, from the spread over its subsets (Politis & Romano 1994): that of subsets of m
/// of n pictures is wider by `sqrt(n / m)`. `n` is the number of pictures of the smaller side.
///
/// # Errors
/// If there are fewer than two subsets.
pub fn subsampled(kid: &Kid, subset_size: usize, n: usize) -> Result<Interval> {
    at_least_two(kid.subsets.len())?;
    let shrink = (subset_size.min(n) as f64 / n.max(1) as f64).sqrt();
    Ok(about(kid.mean, &kid.subsets, shrink))
}

/// The Fréchet distance of infinitely many samples (Chong & Forsyth 2020): distances of `points` subsets from half of the samples
/// to all of them, and where the straight line through them over `1 / n` ends.
///
/// # Errors
/// If there are fewer than two points, or too few rows for subsets of different sizes.
pub fn extrapolate(samples: &Features, reference: &Prepared, points: usize, seed: u64) -> Result<f64> {
    at_least_two(points)?;
    let n = samples.len();
    if n < 4 * points {
        return Err(Error::Config(format!("expected at least {} samples to extrapolate from, got {n}", 4 * points)));
    }
    let size = |i: usize| n / 2 + (n - n / 2) * i / (points - 1);
    let one = |i: usize| -> Result<(f64, f64)> {
        let rows = draw_without_replacement(Key::new(seed, "extrapolate").index(i as u64), size(i), n);
        Ok((1.0 / size(i) as f64, distance_of(&samples.select(&rows)?, reference)?))
    };
    let line = (0..points).map(one).collect::<Result<Vec<_>>>()?;
    let count = points as f64;
    let [mx, my] = line.iter().fold([0.0; 2], |[x, y], (a, b)| [x + a / count, y + b / count]);
    let slope =
        line.iter().map(|(x, y)| (x - mx) * (y - my)).sum::<f64>() / line.iter().map(|(x, _)| (x - mx).powi(2)).sum::<f64>();
    Ok(my - slope * mx)
}

fn distance_of(samples: &Features, reference: &Prepared) -> Result<f64> {
    let statistics = Moments::of(samples.dim, &samples.values)?.statistics()?;
    Ok(Prepared::new(&statistics)?.distance(reference)?.distance)
}

fn at_least_two(n: usize) -> Result<()> {
    if n < 2 { Err(Error::Config(format!("expected at least 2 repetitions, got {n}"))) } else { Ok(()) }
}

/// The spread of `values` about their mean, times `shrink`, about `center`.
fn about(center: f64, values: &[f64], shrink: f64) -> Interval {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let mut sorted: Vec<f64> = values.iter().map(|v| (v - mean) * shrink).collect();
    sorted.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = q * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        below + (above - below) * at.fract()
    };
    let tail = (1.0 - LEVEL) / 2.0;
    Interval { low: center + quantile(tail), high: center + quantile(1.0 - tail), repetitions: values.len() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn normal(n: usize, index: u64) -> Features {
        Features::from_rows(3, Key::new(5, "rows").index(index).normal(n * 3)).unwrap()
    }

    fn prepared(features: &Features) -> Prepared {
        Prepared::new(&Moments::of(3, &features.values).unwrap().statistics().unwrap()).unwrap()
    }

    #[test]
    fn few_samples_have_wide_intervals_and_the_limit_is_below_the_distance() {
        let reference = prepared(&normal(20_000, 0));
        let width = |n: usize| {
            let samples = normal(n, 1);
            let distance = distance_of(&samples, &reference).unwrap();
            let interval = bootstrap(&samples, &reference, distance, 40, 0).unwrap();
            assert!(interval.low < distance && distance < interval.high, "{interval:?} about {distance}");
            interval.high - interval.low
        };
        assert!(width(100) > 2.0 * width(5000));
        let few = normal(400, 2);
        let limit = extrapolate(&few, &reference, 12, 0).unwrap();
        assert!(limit < distance_of(&few, &reference).unwrap());
        assert!(extrapolate(&few, &reference, 1, 0).is_err() && extrapolate(&normal(7, 0), &reference, 2, 0).is_err());
        assert!(bootstrap(&few, &reference, 0.0, 1, 0).is_err());
    }

    #[test]
    fn subsets_of_all_but_a_few_are_not_shrunk() {
        let kid = Kid { mean: 1.0, std: 0.1, subsets: (0..101).map(|i| f64::from(i) / 100.0).collect() };
        let interval = subsampled(&kid, 100, 100).unwrap();
        assert!((interval.low - 0.525).abs() < 1e-12 && (interval.high - 1.475).abs() < 1e-12, "{interval:?}");
        let narrow = subsampled(&kid, 25, 100).unwrap();
        assert!((narrow.high - narrow.low - 0.475).abs() < 1e-12);
    }
}
