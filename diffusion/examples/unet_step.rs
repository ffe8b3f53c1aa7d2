//! Times whole training steps of a preset's model, for `tests/bench/unet_step.sh`.
//!
//!     unet_step PRESET SIDE BATCH STEPS [stage] [recompute]    loss, gradients, AdamW and average; random images
//!
//! Answers one JSON line; seconds are medians, `peak_gib` the most memory that the process held.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::time::Instant;

use candle_core::Device;
use strata_diffusion::{
    model::{LatentScaling, Model, ModelConfig},
    training::{Batch, DiffusionTraining, Objective},
};
use strata_nn::{backward, random::Key};
use strata_training::{
    Ema, Optimizer, StepOptions,
    settings::{Layers, resolve},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    strata_nn::memory::ask_for_large_pages();
    strata_nn::memory::let_idle_threads_sleep();
    strata_nn::memory::keep_freed_memory();
    strata_nn::memory::join_workers(None);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args[i].parse::<usize>();
    let recompute = args.last().is_some_and(|last| last == "recompute");
    let stage = args.get(4).filter(|s| *s != "recompute").map(|s| s.parse()).transpose()?;
    println!("{}", step(&args[0], [number(1)?, number(2)?, number(3)?], stage, recompute)?);
    Ok(())
}

/// Whole steps, each of samples of one stage (the given one, or all in turn), activations kept or computed anew.
fn step(preset: &str, [side, batch, steps]: [usize; 3], stage: Option<usize>, recompute: bool) -> Result<serde_json::Value> {
    let config = training(preset)?;
    let channels = config.unet.in_channels;
    let mut model = Model::new(&model_config(&config, [channels, side, side]), 0, &Device::Cpu)?;
    model.checkpoint_activations(recompute);
    let mut optimizer = Optimizer::new(model.store().trainable(), config.optimizer)?;
    let mut ema = Ema::new(model.store(), config.ema)?;
    let objective = Objective::new(&config, &Device::Cpu)?;
    let mut seconds = Vec::new();
    for i in 0..=steps {
        let x0 = Key::new(0, "x0").step(i as u64).normal_tensor((batch, channels, side, side), &Device::Cpu)?;
        let eps = Key::new(0, "eps").step(i as u64).normal_tensor(x0.shape(), &Device::Cpu)?;
        let sigma = sigma_of(&config.boundaries, stage.unwrap_or(i % model.stages()));
        let labels = vec![(model.config().classes > 0).then_some(1); batch];
        let data = Batch {
            x0,
            eps,
            sigmas: vec![sigma; batch],
            labels,
            attributes: Vec::new(),
            context: None,
            augment: None,
            images: None,
        };
        let start = Instant::now();
        let losses = objective.losses(&model, &data, Some(Key::new(0, "dropout").step(i as u64)))?;
        let grads = backward(&losses.objective.mean(0)?)?;
        let options = StepOptions { lr_multiplier: 1.0, max_grad_norm: Some(1.0) };
        optimizer.step_and_average(&grads, options, &mut ema, batch as u64)?;
        drop(grads);
        seconds.push(start.elapsed().as_secs_f64());
    }
    let first = seconds.remove(0);
    Ok(serde_json::json!({
        "preset": preset, "side": side, "batch": batch, "stage": stage, "recompute": recompute, "parameters": model.store().element_count(),
        "first_step": first, "seconds": median(&mut seconds), "peak_gib": peak_gib(),
    }))
}

fn training(preset: &str) -> Result<DiffusionTraining> {
    let text = DiffusionTraining::PRESETS.iter().find(|(name, _)| *name == preset).ok_or("no such preset")?.1;
    let layers = Layers { preset: Some(toml::from_str(text)?), ..Layers::default() };
    let (mut config, _) = resolve::<DiffusionTraining>(layers)?;
    if config.boundaries.len() + 1 != config.unet.decoders.len() {
        config.boundaries = (1..config.unet.decoders.len()).map(|i| i as f64).collect();
    }
    Ok(config)
}

fn model_config(config: &DiffusionTraining, shape: [usize; 3]) -> ModelConfig {
    ModelConfig {
        unet: config.unet.clone(),
        parametrization: config.parametrization,
        schedule: config.schedule.clone(),
        boundaries: config.boundaries.clone(),
        classes: if config.unet.transformer.is_some() { 1000 } else { 0 },
        class_names: Vec::new(),
        attribute_names: Vec::new(),
        text: None,
        image: None,
        shape,
        latents: LatentScaling { scale: vec![1.0], shift: vec![0.0], autoencoder_sha256: String::new() },
    }
}

/// A noise level in a stage.
fn sigma_of(boundaries: &[f64], stage: usize) -> f64 {
    match (stage.checked_sub(1).and_then(|i| boundaries.get(i)), boundaries.get(stage)) {
        (_, Some(high)) => 0.9 * high,
        (Some(low), None) => 1.1 * low,
        (None, None) => 1.0,
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `VmHWM` of Linux; NaN elsewhere.
fn peak_gib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().split(' ').next()?.parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / f64::from(1 << 20))
}
