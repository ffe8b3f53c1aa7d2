//! Tests of all samplers on a Gaussian mixture, whose ideal denoiser is known in closed form.
#![allow(clippy::unwrap_used)]

mod distribution;

use candle_core::Device;

use super::*;
use crate::{
    denoiser::FnDenoiser,
    grid,
    schedule::{SIGMA_CAP, Schedule},
};

const MEANS: [[f64; 2]; 3] = [[1.0, 0.3], [-0.8, 1.1], [-0.2, -1.2]];
const STDS: [f64; 3] = [0.5, 0.35, 0.4];
const WEIGHTS: [f64; 3] = [0.5, 0.2, 0.3];

/// E[x0 | x] of the mixture, [B, 2] in any float dtype.
fn ideal(x: &Tensor, sigma: f64) -> Result<Tensor> {
    let rows = x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    let estimate = |x: &[f64]| -> [f64; 2] {
        let part = |j: usize| {
            let variance = STDS[j] * STDS[j] + sigma * sigma;
            let distance: f64 = (0..2).map(|i| (x[i] - MEANS[j][i]).powi(2)).sum();
            (WEIGHTS[j].ln() - variance.ln() - 0.5 * distance / variance, STDS[j] * STDS[j] / variance)
        };
        let parts = [0, 1, 2].map(part);
        let top = parts.iter().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
        let shares = parts.map(|p| (p.0 - top).exp());
        let total: f64 = shares.iter().sum();
        [0, 1].map(|i| (0..3).map(|j| shares[j] / total * (MEANS[j][i] + parts[j].1 * (x[i] - MEANS[j][i]))).sum())
    };
    let flat: Vec<f64> = rows.chunks_exact(2).flat_map(estimate).collect();
    Ok(Tensor::from_vec(flat, x.shape(), x.device())?.to_dtype(x.dtype())?)
}

fn sample(sampler: &Sampler, x: &Tensor, sigmas: &[f64], seeds: &[u64]) -> Result<Tensor> {
    let denoiser = FnDenoiser(ideal);
    let mut noise = SeededNoise::new(seeds.to_vec());
    let mut observe = |_: usize, _: &Tensor| Ok(());
    sampler.sample(Run { denoiser: &denoiser, sigmas, noise: &mut noise, observe: &mut observe }, x.clone())
}

fn start(sigma: f64, dtype: DType, seeds: &[u64]) -> Tensor {
    let unit = SeededNoise::new(seeds.to_vec()).initial(&[2], &Device::Cpu).unwrap();
    (unit.to_dtype(dtype).unwrap() * sigma).unwrap()
}

/// Levels from 40 to 0.1, uniform in ln sigma, without the 0.
fn levels(steps: usize) -> Vec<f64> {
    let mut sigmas = grid::exponential(steps + 1, 0.1, 40.0).unwrap();
    sigmas.pop();
    sigmas
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    difference.sqr().unwrap().mean_all().unwrap().sqrt().unwrap().to_scalar().unwrap()
}

/// The slope of ln error over ln steps between two counts of steps.
fn order(run: &dyn Fn(&Tensor, &[f64]) -> Tensor, counts: [usize; 2]) -> f64 {
    let seeds: Vec<u64> = (0..16).collect();
    let x = start(40.0, DType::F64, &seeds);
    let exact = sample(&Sampler::Singlestep { solver: Dpm::default(), order: 3 }, &x, &levels(6000), &seeds).unwrap();
    let error = |steps| distance(&run(&x, &levels(steps)), &exact);
    (error(counts[0]) / error(counts[1])).ln() / (counts[1] as f64 / counts[0] as f64).ln()
}

fn named(name: &str, counts: [usize; 2]) -> f64 {
    let sampler: Sampler = name.parse().unwrap();
    let seeds: Vec<u64> = (0..16).collect();
    order(&|x, sigmas| sample(&sampler, x, sigmas, &seeds).unwrap(), counts)
}

#[test]
fn orders_of_convergence() {
    let expected = [
        ("euler", 1.0, [480, 960]),
        ("ddim", 1.0, [480, 960]),
        ("dpm-solver-1", 1.0, [480, 960]),
        ("heun", 2.0, [240, 480]),
        ("edm", 2.0, [240, 480]),
        ("dpm2", 2.0, [240, 480]),
        ("dpm-solver-2", 2.0, [240, 480]),
        ("dpm-solver-2m", 2.0, [240, 480]),
        ("dpmpp-2s", 2.0, [240, 480]),
        ("dpmpp-2m", 2.0, [240, 480]),
        ("unipc", 3.0, [240, 480]),
        ("dpmpp-3m", 3.0, [120, 240]),
        ("dpm-solver-3m", 3.0, [120, 240]),
        ("deis", 3.0, [120, 240]),
    ];
    let got: Vec<(&str, f64, f64)> = expected.iter().map(|(name, want, counts)| (*name, *want, named(name, *counts))).collect();
    let wrong: Vec<_> = got.iter().filter(|(_, want, got)| (got - want).abs() > 0.2).collect();
    assert!(wrong.is_empty(), "name, expected, observed: {wrong:?} of {got:?}");
}

#[test]
fn singlestep_moves_of_order_three() {
    // By name the last evaluations go to moves of order 2 and 1, which hides the order.
    for prediction in [Prediction::Data, Prediction::Noise] {
        for form in [Form::Midpoint, Form::Taylor] {
            let solver = Dpm { prediction, form, ..Dpm::default() };
            let solve = |x: &Tensor, sigmas: &[f64]| {
                let (mut noise, mut observe) = (NoNoise, |_: usize, _: &Tensor| Ok(()));
                let denoiser = FnDenoiser(ideal);
                let run = &mut Run { denoiser: &denoiser, sigmas, noise: &mut noise, observe: &mut observe };
                singlestep(run, x.clone(), solver, &vec![3; (sigmas.len() - 1) / 3], Form::Taylor).unwrap()
            };
            let got = order(&solve, [240, 480]);
            assert!((got - 3.0).abs() < 0.2, "{solver:?}: {got}");
        }
    }
}

#[test]
fn the_published_third_order_weight_is_of_order_two() {
    let solver = Dpm { published_third: true, ..Dpm::default() };
    let sampler = Sampler::Multistep { solver, order: 3 };
    let seeds: Vec<u64> = (0..16).collect();
    let got = order(&|x, sigmas| sample(&sampler, x, sigmas, &seeds).unwrap(), [240, 480]);
    assert!((got - 2.0).abs() < 0.2, "{got}");
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let seeds: Vec<u64> = (100..114).collect();
    let sigmas = grid::karras(8, 0.02, 40.0, 7.0).unwrap();
    for name in Sampler::names() {
        let sampler: Sampler = name.parse().unwrap();
        // The steps of adaptive ones are the batch's, and the mixture has no learned variance.
        if sampler.is_adaptive() || name == "ddpm-learned" {
            continue;
        }
        let whole = sample(&sampler, &start(40.0, DType::F32, &seeds), &sigmas, &seeds).unwrap();
        for chunk in [1, 3] {
            let parts: Vec<Tensor> = seeds
                .chunks(chunk)
                .map(|seeds| sample(&sampler, &start(40.0, DType::F32, seeds), &sigmas, seeds).unwrap())
                .collect();
            let far = distance(&Tensor::cat(&parts, 0).unwrap(), &whole);
            assert!(far < 1e-5, "{name}, batches of {chunk}: {far}");
        }
    }
}

#[test]
fn float32_follows_float64() {
    let seeds: Vec<u64> = (0..8).collect();
    let sigmas = grid::karras(20, 0.02, 40.0, 7.0).unwrap();
    for name in Sampler::names() {
        let sampler: Sampler = name.parse().unwrap();
        if name == "ddpm-learned" {
            continue;
        }
        let [single, double] =
            [DType::F32, DType::F64].map(|dtype| sample(&sampler, &start(40.0, dtype, &seeds), &sigmas, &seeds).unwrap());
        assert_eq!((single.dtype(), double.dtype()), (DType::F32, DType::F64));
        assert!(distance(&single, &double) < 2e-3, "{name}: {}", distance(&single, &double));
    }
}

#[test]
fn no_signal_at_all_is_a_fine_start() {
    // Rectified flow from t = 1.
    let seeds: Vec<u64> = (0..8).collect();
    let flow = Schedule::Flow { t_min: 1e-3 };
    let sigmas: Vec<f64> = (0..=20).map(|i| flow.sigma(1.0 - f64::from(i) / 20.0)).collect();
    assert_eq!(sigmas[0], SIGMA_CAP);
    let x = sample(&Sampler::Euler, &start(sigmas[0], DType::F32, &seeds), &sigmas, &seeds).unwrap();
    assert!(x.to_vec2::<f32>().unwrap().iter().flatten().all(|v| v.abs() < 4.0));
}

#[test]
fn non_finite_answers_and_bad_levels_are_errors() {
    let seeds = [0];
    let x = start(10.0, DType::F32, &seeds);
    let broken = FnDenoiser(|x: &Tensor, sigma: f64| Ok((x * if sigma < 1.0 { f64::NAN } else { 0.5 })?));
    let mut observe = |_: usize, _: &Tensor| Ok(());
    let mut noise = NoNoise;
    let sigmas = [10.0, 3.0, 0.5, 0.0];
    let run = Run { denoiser: &broken, sigmas: &sigmas, noise: &mut noise, observe: &mut observe };
    let message = Sampler::Euler.sample(run, x.clone()).unwrap_err().to_string();
    assert!(message.contains("step 2") && message.contains("sigma 0.5"), "{message}");
    for bad in [&[1.0][..], &[], &[1.0, 2.0], &[f64::INFINITY, 0.0], &[1.0, 0.0, 0.0], &[1.0, -1.0]] {
        assert!(sample(&Sampler::Euler, &x, bad, &seeds).is_err(), "{bad:?}");
    }
    let stochastic: Sampler = "euler-ancestral".parse().unwrap();
    let mut observe = |_: usize, _: &Tensor| Ok(());
    let denoiser = FnDenoiser(ideal);
    let run = Run { denoiser: &denoiser, sigmas: &sigmas, noise: &mut noise, observe: &mut observe };
    assert!(stochastic.sample(run, x).is_err());
}

#[test]
fn a_learned_variance_lies_between_its_bounds() {
    let seeds: Vec<u64> = (0..8).collect();
    let sigmas = grid::karras(12, 0.02, 40.0, 7.0).unwrap();
    let x = start(40.0, DType::F64, &seeds);
    let with_share = |share: f64| {
        struct Learned(f64);
        impl Denoiser for Learned {
            fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
                ideal(x, sigma)
            }
            fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
                Ok(Estimate { x0: ideal(x, sigma)?, variance_share: Some(x.ones_like()?.affine(self.0, 0.0)?) })
            }
        }
        let (mut noise, mut observe) = (SeededNoise::new(seeds.clone()), |_: usize, _: &Tensor| Ok(()));
        let run = Run { denoiser: &Learned(share), sigmas: &sigmas, noise: &mut noise, observe: &mut observe };
        Sampler::DdpmLearned.sample(run, x.clone()).unwrap()
    };
    for share in [0.0, 1.0] {
        let fixed = sample(&Sampler::Ddpm { beta_share: share }, &x, &sigmas, &seeds).unwrap();
        assert!(distance(&with_share(share), &fixed) < 1e-12, "{share}");
    }
    assert!(distance(&with_share(0.5), &with_share(0.0)) > 1e-3);
    let message = sample(&Sampler::DdpmLearned, &x, &sigmas, &seeds).unwrap_err().to_string();
    assert!(message.contains("did not learn one"), "{message}");
}

#[test]
fn the_observer_sees_every_step_and_can_stop() {
    let seeds = [7];
    let denoiser = FnDenoiser(ideal);
    let (sigmas, x) = ([10.0, 3.0, 0.5, 0.0], start(10.0, DType::F64, &seeds));
    let mut seen = Vec::new();
    let mut observe = |i: usize, _: &Tensor| {
        seen.push(i);
        if i == 1 { Err(Error::Interrupted) } else { Ok(()) }
    };
    let mut noise = NoNoise;
    let run = Run { denoiser: &denoiser, sigmas: &sigmas, noise: &mut noise, observe: &mut observe };
    assert!(matches!(Sampler::Heun.sample(run, x), Err(Error::Interrupted)));
    assert_eq!(seen, [0, 1]);
}
