//! Every objective on a small network; what is frozen; warm starts.

#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};
use strata_nn::random::Key;
use strata_training::StepOptions;

use super::{parameters, warm_start::warm_start, *};
use crate::{
    denoiser::Parametrization,
    model::LatentScaling,
    noise::NoiseDistribution,
    schedule::Schedule,
    unet::{DecoderConfig, Family, Heads, UNetConfig},
    weighting::Weighting,
};

fn unet(family: Family, widths: &[usize]) -> UNetConfig {
    let decoder = |&width: &usize| DecoderConfig { width, attention: vec![], heads: None };
    UNetConfig {
        family,
        in_channels: 2,
        out_channels: 2,
        width: 8,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![],
        heads: Heads::Count(1),
        groups: 4,
        zero_init: false,
        decoders: widths.iter().map(decoder).collect(),
        ..UNetConfig::default()
    }
}

fn model(config: &DiffusionTraining, boundaries: &[f64]) -> Model {
    let config = ModelConfig {
        unet: config.unet.clone(),
        parametrization: config.parametrization,
        schedule: config.schedule.clone(),
        boundaries: boundaries.to_vec(),
        classes: 0,
        class_names: Vec::new(),
        attribute_names: Vec::new(),
        text: None,
        image: None,
        shape: [2, 8, 8],
        latents: LatentScaling::pixels(),
    };
    Model::new(&config, 0, &Device::Cpu).unwrap()
}

/// The sigmas are some of the schedule's own.
fn batch(config: &DiffusionTraining, n: usize) -> Batch {
    let normal = |name: &str| Key::new(7, name).normal_tensor((n, 2, 8, 8), &Device::Cpu).unwrap();
    let sigmas = (0..n).map(|i| config.noise.quantile(&config.schedule, (i as f64 + 0.5) / n as f64)).collect();
    let (labels, attributes) = (vec![None; n], vec![Vec::new(); n]);
    Batch { x0: normal("x0"), eps: normal("eps"), sigmas, labels, attributes, context: None, augment: None, images: None }
}

/// Adam on one batch: the mean of the objective before and after.
fn learn(config: &DiffusionTraining) -> (f32, f32) {
    let model = model(config, &[]);
    let objective = Objective::new(config, &Device::Cpu).unwrap();
    let mut optimizer = parameters::optimizer(config, &model, objective.store()).unwrap();
    let batch = batch(config, 4);
    let value = || {
        let losses = objective.losses(&model, &batch, None).unwrap();
        assert!(losses.x0_error.to_vec1::<f32>().unwrap().iter().all(|v| v.is_finite()));
        losses.objective.mean(0).unwrap()
    };
    let before = value().to_scalar().unwrap();
    for _ in 0..12 {
        let grads = value().backward().unwrap();
        for p in model.store().trainable().iter().chain(&objective.store().trainable()) {
            assert!(grads.get(p.var()).is_some(), "no gradient for {}", p.name());
        }
        optimizer.step(&grads, StepOptions::default()).unwrap();
    }
    (before, value().to_scalar().unwrap())
}

fn base(schedule: &str, parametrization: Parametrization, noise: NoiseDistribution, weighting: Weighting) -> DiffusionTraining {
    let family = match schedule {
        "edm" => Family::Song,
        "vp" | "sub-vp" | "ve" => Family::Ncsnpp,
        _ => Family::Ldm,
    };
    let optimizer = strata_training::AdamWConfig { lr: 3e-3, weight_decay: 0.0, ..Default::default() };
    let schedule: Schedule = schedule.parse().unwrap();
    DiffusionTraining { schedule, parametrization, noise, weighting, optimizer, unet: unet(family, &[8]), ..Default::default() }
}

#[test]
fn every_system_learns_with_every_objective() {
    use {NoiseDistribution as N, Parametrization as P, Weighting as W};
    let f = P::F { sigma_data: 0.5 };
    let edm = N::LogNormal { mean: -1.2, std: 1.2 };
    let log_uniform = N::LogUniform { min: 0.02, max: 50.0 };
    let plain = [
        base("ldm", P::Eps, N::UniformTime, W::Network),
        base("ldm", P::X0, N::UniformTime, W::Network),
        base("ldm", P::V, N::UniformTime, W::MinSnr { gamma: 5.0 }),
        base("edm", f, edm, W::Edm),
        base("edm", f, edm, W::SoftMinSnr { gamma: 4.0 }),
        base("edm", P::X0, log_uniform, W::X0),
        base("vp", P::Eps, N::UniformTime, W::Eps),
        base("vp", P::Score, N::UniformTime, W::Likelihood),
        base("sub-vp", P::Eps, N::UniformTime, W::Likelihood),
        base("ve", P::NegatedEps, N::UniformTime, W::Eps),
        base("ve", P::NegatedEps, log_uniform, W::Likelihood),
        base("flow", P::Velocity, N::LogNormal { mean: 0.0, std: 1.0 }, W::Network),
        base("flow", P::Velocity, N::UniformTime, W::Network),
    ];
    let ldm = || base("ldm", P::Eps, N::UniformTime, W::Network);
    let more = [
        DiffusionTraining { loss: Distance::L1, ..ldm() },
        DiffusionTraining { loss: Distance::Huber { delta: 0.5 }, variational_weight: 0.1, ..ldm() },
        DiffusionTraining { log_variance: LogVariance::PerStep, ..ldm() },
        DiffusionTraining { log_variance: LogVariance::Continuous, ..base("edm", f, edm, W::Edm) },
    ];
    for config in plain.iter().chain(&more) {
        config.validate().unwrap();
        let (before, after) = learn(config);
        assert!(after < 0.98 * before, "{before} -> {after}: {config:?}");
    }
    let impossible = DiffusionTraining { log_variance: LogVariance::PerStep, ..base("vp", P::Eps, N::UniformTime, W::Eps) };
    assert!(Objective::new(&impossible, &Device::Cpu).is_err());
}

/// The weighted loss of eps is the published one, whatever network it is computed with.
#[test]
fn the_loss_of_eps_is_the_squared_error_of_eps() {
    let config = base("vp", Parametrization::Eps, NoiseDistribution::UniformTime, Weighting::Eps);
    let (model, batch) = (model(&config, &[]), batch(&config, 3));
    let losses = Objective::new(&config, &Device::Cpu).unwrap().losses(&model, &batch, None).unwrap();
    let sigmas = crate::model::row_factors(&batch.sigmas, &batch.x0, |s| s).unwrap();
    let x = (&batch.x0 + batch.eps.broadcast_mul(&sigmas).unwrap()).unwrap();
    let eps = model.network(&x, &batch.sigmas, &strata_conditioning::Condition::none(), None).unwrap();
    let expected = strata_nn::ops::mse_loss(&eps, &batch.eps).unwrap().to_vec1::<f32>().unwrap();
    for (got, expected) in losses.weighted.to_vec1::<f32>().unwrap().iter().zip(&expected) {
        assert!((got / expected - 1.0).abs() < 1e-3, "{got} {expected}");
    }
    let x0 = model.denoise(&x, &batch.sigmas, &strata_conditioning::Condition::none()).unwrap();
    let expected = strata_nn::ops::mse_loss(&x0, &batch.x0).unwrap().to_vec1::<f32>().unwrap();
    for (got, expected) in losses.x0_error.to_vec1::<f32>().unwrap().iter().zip(&expected) {
        assert!((got / expected - 1.0).abs() < 1e-3, "{got} {expected}");
    }
}

#[test]
fn parts_of_a_batch_add_up() {
    let config = base("edm", Parametrization::F { sigma_data: 1.0 }, NoiseDistribution::default(), Weighting::Edm);
    let (model, batch) = (model(&config, &[]), batch(&config, 5));
    let objective = Objective::new(&config, &Device::Cpu).unwrap();
    let losses = |batch: &Batch| objective.losses(&model, batch, None).unwrap().weighted.to_vec1::<f32>().unwrap();
    let parts = [losses(&batch.part(0, 3).unwrap()), losses(&batch.part(3, 2).unwrap())].concat();
    for (a, b) in losses(&batch).iter().zip(&parts) {
        assert!((a - b).abs() < 1e-4 * a.abs(), "{a} {b}");
    }
}

#[test]
fn one_stage_can_be_trained_with_the_rest_frozen() {
    let mut config = DiffusionTraining { unet: unet(Family::Song, &[8, 16]), ..DiffusionTraining::default() };
    (config.train_stages, config.freeze) = (vec![2], vec!["encoder".into()]);
    let model = model(&config, &[1.0]);
    parameters::freeze(&config, &model).unwrap();
    let trained = model.store().trainable();
    assert!(!trained.is_empty() && trained.iter().all(|p| p.name().starts_with("unet.decoders.1.")));
    config.freeze = vec!["unet.encode".into(), "nothing".into()];
    assert!(parameters::freeze(&config, &model).unwrap_err().to_string().contains("`nothing`"));
    config.freeze = vec!["encoder".into(), "decoders".into()];
    assert!(parameters::freeze(&config, &model).unwrap_err().to_string().contains("nothing is left"));
    config.train_stages = vec![3];
    assert!(parameters::freeze(&config, &model).unwrap_err().to_string().contains("from 1 to 2"));
}

#[test]
fn groups_have_rates_of_their_own() {
    let mut config = base("edm", Parametrization::F { sigma_data: 1.0 }, NoiseDistribution::default(), Weighting::Edm);
    config.unet = unet(Family::Song, &[8, 8]);
    config.groups = vec![GroupSettings { parameters: "unet.decoders.0".into(), lr_factor: 0.0, weight_decay: Some(0.0) }];
    let model = model(&config, &[1.0]);
    let objective = Objective::new(&config, &Device::Cpu).unwrap();
    let values = || -> Vec<(String, Vec<f32>)> {
        let of = |(name, t): (String, Tensor)| (name, t.flatten_all().unwrap().to_vec1().unwrap());
        model.store().tensors().into_iter().map(of).collect()
    };
    let before = values();
    let mut optimizer = parameters::optimizer(&config, &model, objective.store()).unwrap();
    let losses = objective.losses(&model, &batch(&config, 4), None).unwrap();
    optimizer.step(&losses.objective.sum(0).unwrap().backward().unwrap(), StepOptions::default()).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(values()) {
        let trained = model.store().trainable().iter().any(|p| p.name() == name) && !name.starts_with("unet.decoders.0");
        assert_eq!(*before != after, trained, "{name}");
    }
    let mut wrong = config.clone();
    wrong.groups[0].parameters = "decoder".into();
    assert!(parameters::optimizer(&wrong, &model, objective.store()).is_err());
}

#[test]
fn a_single_decoder_becomes_all_that_are_as_wide() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("single.safetensors");
    let single = DiffusionTraining { unet: unet(Family::Song, &[8]), ..DiffusionTraining::default() };
    let source = model(&single, &[]);
    strata_nn::weights::save(&file, &source.store().tensors(), &source.metadata().unwrap()).unwrap();
    let several = DiffusionTraining { seed: 1, unet: unet(Family::Song, &[16, 8]), ..DiffusionTraining::default() };
    let target = model(&several, &[1.0]);
    let report = warm_start(&target, &file).unwrap();
    assert_eq!(report.shared.copied, report.shared.of);
    let [wider, same] = report.decoders[..] else { unreachable!() };
    assert!(same.copied == same.of && wider.copied > 0 && wider.copied < wider.of, "{report}");
    let value = |model: &Model, name: &str| -> Vec<f32> {
        let (_, t) = model.store().tensors().into_iter().find(|(n, _)| n == name).unwrap();
        t.flatten_all().unwrap().to_vec1().unwrap()
    };
    let last = |stage: usize| format!("unet.decoders.{stage}.conv_out.weight");
    assert_eq!(value(&target, &last(1)), value(&source, &last(0)));
    let other = DiffusionTraining { unet: UNetConfig { width: 16, ..unet(Family::Song, &[16]) }, ..DiffusionTraining::default() };
    strata_nn::weights::save(&file, &[("x".into(), Tensor::new(1f32, &Device::Cpu).unwrap())], &Default::default()).unwrap();
    assert!(warm_start(&model(&other, &[]), &file).unwrap_err().to_string().contains("no weights of this network"));
}
