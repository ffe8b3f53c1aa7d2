//! Times what a sampler does outside the network: its arithmetic, its noise, the preconditioning and the check for finite values.
//!
//! The network is the `small-multistage` preset on 16 latents of 4x16x16. Answers a line for each sampler: milliseconds of a step,
//! those outside the network, and their share.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};
use strata_conditioning::Condition;
use strata_diffusion::{
    Result,
    denoiser::{Denoiser, Parametrization},
    grid,
    model::{LatentScaling, Model, ModelConfig},
    sampler::{Run, Sampler, SeededNoise},
    schedule::Schedule,
    training::DiffusionTraining,
};

const BATCH: u64 = 16;
const STEPS: usize = 20;

fn model() -> Model {
    let (_, text) = DiffusionTraining::PRESETS.iter().find(|(name, _)| *name == "small-multistage").unwrap();
    let config = ModelConfig {
        unet: toml::from_str::<DiffusionTraining>(text).unwrap().unet,
        parametrization: Parametrization::F { sigma_data: 1.0 },
        schedule: Schedule::vp(),
        boundaries: vec![0.5, 5.0],
        classes: 0,
        class_names: Vec::new(),
        attribute_names: Vec::new(),
        text: None,
        image: None,
        shape: [4, 16, 16],
        latents: LatentScaling::default(),
    };
    Model::new(&config, 0, &Device::Cpu).unwrap()
}

/// The model with a watch around its network.
struct Watched<'a> {
    model: &'a Model,
    inside: Cell<Duration>,
}

impl Denoiser for Watched<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let sigmas = vec![sigma; x.dim(0)?];
        let began = Instant::now();
        let f = self.model.network(x, &sigmas, &Condition::none(), None)?;
        self.inside.set(self.inside.get() + began.elapsed());
        let c = self.model.preconditioning(sigma);
        Ok((x.affine(c.c_skip, 0.0)? + f.affine(c.c_out, 0.0)?)?)
    }
}

fn once(model: &Model, sampler: Sampler) -> (f64, f64) {
    let watched = Watched { model, inside: Cell::default() };
    let sigmas = grid::karras(STEPS, 0.01, 80.0, 7.0).unwrap();
    let mut noise = SeededNoise::new((0..BATCH).collect());
    let began = Instant::now();
    let x = (noise.initial(&model.config().shape, &Device::Cpu).unwrap() * sigmas[0]).unwrap();
    let mut observe = |_: usize, _: &Tensor| Ok(());
    sampler.sample(Run { denoiser: &watched, sigmas: &sigmas, noise: &mut noise, observe: &mut observe }, x).unwrap();
    let per_step = |time: Duration| 1e3 * time.as_secs_f64() / STEPS as f64;
    (per_step(began.elapsed()), per_step(began.elapsed().saturating_sub(watched.inside.get())))
}

fn main() {
    strata_nn::memory::ask_for_large_pages();
    strata_nn::memory::let_idle_threads_sleep();
    strata_nn::memory::keep_freed_memory();
    strata_nn::memory::join_workers(None);
    let model = model();
    println!("{:<16} {:>9} {:>12} {:>8}", "sampler", "step ms", "outside ms", "share %");
    for name in ["euler", "dpmpp-2m", "dpmpp-3m", "unipc", "heun", "euler-ancestral", "sde-dpmpp-2m", "pc"] {
        let sampler: Sampler = name.parse().unwrap();
        once(&model, sampler);
        let mut runs: Vec<(f64, f64)> = (0..5).map(|_| once(&model, sampler)).collect();
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (step, outside) = runs[2];
        println!("{name:<16} {step:>9.2} {outside:>12.3} {:>8.2}", 100.0 * outside / (step - outside));
    }
}
