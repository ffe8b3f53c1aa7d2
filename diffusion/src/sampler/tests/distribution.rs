//! Whether samplers draw from the mixture: a two-sample energy test against exact samples, mean and covariance.

use rayon::prelude::*;
use strata_nn::random::{Key, uniform_f64};

use super::*;

/// Samples of each sampler.
const N: usize = 20_000;
/// Directions over which distances in the plane are averaged: |cos| is then integrated to 0.2 %.
const DIRECTIONS: usize = 16;

/// `n` exact samples.
fn exact(n: usize, seed: u64) -> Vec<[f64; 2]> {
    let key = Key::new(seed, "exact");
    let normals = key.normal(2 * n);
    let mut which = key.child("component").generator();
    let draw = |z: &[f32]| {
        let u = uniform_f64(&mut which);
        let j = if u < WEIGHTS[0] { 0 } else { 1 + usize::from(u >= WEIGHTS[0] + WEIGHTS[1]) };
        [0, 1].map(|i| MEANS[j][i] + STDS[j] * f64::from(z[i]))
    };
    normals.chunks_exact(2).map(draw).collect()
}

/// Two samples of equal size, sorted along every direction: (place, index), the first sample's indices first.
struct Pool {
    sorted: Vec<Vec<(f64, u32)>>,
    half: usize,
}

impl Pool {
    fn new(a: &[[f64; 2]], b: &[[f64; 2]]) -> Self {
        let along = |k: usize| {
            let (sin, cos) = (std::f64::consts::PI * (k as f64 + 0.5) / DIRECTIONS as f64).sin_cos();
            let mut places: Vec<(f64, u32)> = a.iter().chain(b).zip(0..).map(|(x, i)| (cos * x[0] + sin * x[1], i)).collect();
            places.sort_unstable_by(|x, y| x.0.total_cmp(&y.0));
            places
        };
        Self { sorted: (0..DIRECTIONS).map(along).collect(), half: a.len() }
    }

    /// The energy statistic n m / (n + m) (2 E|X - Y| - E|X - X'| - E|Y - Y'|) of the samples that `first` separates. In one
    /// dimension the bracket is twice the integral of (F - G)², and a distance in the plane is pi/2 times its mean over directions.
    fn energy(&self, first: impl Fn(u32) -> bool) -> f64 {
        let n = self.half as f64;
        let along = |places: &Vec<(f64, u32)>| {
            let (mut balance, mut integral) = (0.0, 0.0);
            for pair in places.windows(2) {
                balance += if first(pair[0].1) { 1.0 } else { -1.0 };
                integral += (balance / n).powi(2) * (pair[1].0 - pair[0].0);
            }
            2.0 * integral
        };
        let mean = self.sorted.iter().map(along).sum::<f64>() / DIRECTIONS as f64;
        0.5 * n * std::f64::consts::FRAC_PI_2 * mean
    }
}

/// The statistic that equal distributions exceed once in a thousand times, by permutation. Its distribution does not depend on the
/// size of the samples, so that smaller ones will do.
fn threshold() -> f64 {
    let n = 2000;
    let pool = Pool::new(&exact(n, 1), &exact(n, 2));
    let permuted = |k: u64| {
        let mut rng = Key::new(k, "permutation").generator();
        let mut labels: Vec<bool> = (0..2 * n).map(|i| i < n).collect();
        for i in (1..labels.len()).rev() {
            labels.swap(i, (uniform_f64(&mut rng) * (i + 1) as f64) as usize);
        }
        pool.energy(|i| labels[i as usize])
    };
    let mut null: Vec<f64> = (0..4000).into_par_iter().map(permuted).collect();
    null.sort_by(f64::total_cmp);
    null[3996]
}

/// Mean and covariance of the mixture.
fn moments() -> ([f64; 2], [[f64; 2]; 2]) {
    let mean = [0, 1].map(|i| (0..3).map(|j| WEIGHTS[j] * MEANS[j][i]).sum::<f64>());
    let second = |a: usize, b: usize| {
        let own = |j: usize| if a == b { STDS[j] * STDS[j] } else { 0.0 };
        (0..3).map(|j| WEIGHTS[j] * (MEANS[j][a] * MEANS[j][b] + own(j))).sum::<f64>() - mean[a] * mean[b]
    };
    (mean, [[second(0, 0), second(0, 1)], [second(1, 0), second(1, 1)]])
}

/// What of the moments of a sample is further from the mixture's than four standard errors and, for the solver, a hundredth.
fn moments_off(x: &[[f64; 2]]) -> Vec<String> {
    let (mean, covariance) = moments();
    let n = x.len() as f64;
    let mut off = Vec::new();
    let mut check = |what: &str, want: f64, of: &dyn Fn(&[f64; 2]) -> f64| {
        let got = x.iter().map(of).sum::<f64>() / n;
        let variance = x.iter().map(|r| (of(r) - got).powi(2)).sum::<f64>() / n;
        if (got - want).abs() > 4.0 * (variance / n).sqrt() + 0.01 {
            off.push(format!("{what} {got:.4} instead of {want:.4}"));
        }
    };
    for a in 0..2 {
        check("mean", mean[a], &|r| r[a]);
        for b in 0..=a {
            check("covariance", covariance[a][b], &|r| (r[a] - mean[a]) * (r[b] - mean[b]));
        }
    }
    off
}

fn drawn(text: &str, steps: usize) -> Vec<[f64; 2]> {
    let sampler: Sampler = text.parse().unwrap();
    let seeds: Vec<u64> = (0..N as u64).collect();
    let sigmas = grid::karras(steps, 0.01, 40.0, 7.0).unwrap();
    let x = sample(&sampler, &start(40.0, DType::F64, &seeds), &sigmas, &seeds).unwrap();
    x.flatten_all().unwrap().to_vec1::<f64>().unwrap().chunks_exact(2).map(|r| [r[0], r[1]]).collect()
}

/// Every sampler at the number of steps that it is used with; those of order 1 need more. Not among them: `renoise`, whose x0 must be
/// a consistency model's, and `ddpm-learned`, which is `ddpm` for a network that learned its variance.
const USUAL: [(&str, usize); 34] = [
    ("dpmpp-2m", 20),
    ("dpmpp-3m", 20),
    ("dpmpp-2s", 30),
    ("dpmpp-3s", 20),
    ("dpmpp-adaptive", 20),
    ("sde-dpmpp-1", 100),
    ("sde-dpmpp-2m", 50),
    ("sde-dpmpp-3m", 50),
    ("sde-dpmpp-2s", 50),
    ("dpm-solver-1", 100),
    ("dpm-solver-2", 30),
    ("dpm-solver-3", 20),
    ("dpm-solver-2m", 20),
    ("dpm-solver-3m", 20),
    ("dpm-solver-adaptive", 20),
    ("euler", 100),
    ("euler-ancestral", 100),
    ("ddim", 100),
    ("ddim:eta=0.5", 100),
    ("ddpm", 100),
    ("heun", 20),
    ("edm", 20),
    ("edm:s_churn=20", 50),
    ("edm-general:alpha=0.5", 20),
    ("restart", 20),
    ("pc", 100),
    ("pc-ancestral", 100),
    ("dpm2", 20),
    ("dpm2-ancestral", 30),
    ("lms", 20),
    ("plms", 20),
    ("unipc", 20),
    ("unipc-3", 20),
    ("deis", 20),
];

#[test]
fn every_sampler_draws_from_the_mixture() {
    let (truth, threshold) = (exact(N, 3), threshold());
    let energy = |x: &[[f64; 2]]| Pool::new(x, &truth).energy(|i| (i as usize) < N);
    assert!(energy(&exact(N, 4)) < threshold, "the test passes what is exact");
    let wrong: Vec<String> = USUAL
        .into_par_iter()
        .filter_map(|(text, steps)| {
            let energy = energy(&drawn(text, steps));
            (energy > threshold).then(|| format!("{text}, {steps} steps: {energy:.2}"))
        })
        .collect();
    assert!(wrong.is_empty(), "above {threshold:.2}: {wrong:?}");
    // It sees what is wrong: too few steps, and samples that are 5 % too wide.
    assert!(energy(&drawn("euler", 30)) > threshold);
    let wide: Vec<[f64; 2]> = exact(N, 4).iter().map(|x| [1.05 * x[0], 1.05 * x[1]]).collect();
    assert!(energy(&wide) > threshold, "{}", energy(&wide));
}

#[test]
fn stochastic_samplers_match_mean_and_covariance() {
    let cases = [
        ("sde-dpmpp-2m", 100),
        ("sde-dpmpp-3m", 100),
        ("sde-dpmpp-2s", 100),
        ("dpm2-ancestral", 60),
        ("edm:s_churn=20", 60),
        ("ddim:eta=0.5", 200),
        ("ddpm", 200),
        ("euler-ancestral", 200),
        ("pc", 200),
        ("pc-ancestral", 200),
        ("restart:steps=12", 30),
    ];
    let off = |(text, steps): (&str, usize)| -> Vec<String> {
        moments_off(&drawn(text, steps)).into_iter().map(|off| format!("{text}, {steps} steps: {off}")).collect()
    };
    let wrong: Vec<String> = cases.into_par_iter().flat_map_iter(off).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
