//! Stages by the gradients of trained networks: levels whose gradients point the same way belong together (Go et al. 2023).
//!
//! At every level of a grid, the gradient of the network's error is summed over the same pairs (latent, noise). The affinity of two
//! levels is the cosine similarity of their gradients, averaged over the checkpoints; a weight of the loss is a factor per level
//! and cancels. Of a model with several decoders the shared parameters count, since each decoder sees its own levels only.

use rayon::prelude::*;
use strata_datasets::LatentSet;
use strata_nn::{backward, params::Parameter};
use strata_training::{Interrupt, Progress};

use super::config::{DivideConfig, Division, Matrix};
use super::divide::curves_of;
use super::file::{Method, Parameters, Stages};
use super::latents::LatentPoints;
use super::partition::{by_affinity, cosine_affinity};
use super::points::Summary;
use crate::{
    Error, Result,
    model::Model,
    noise::{NoiseDistribution, NoiseSampler, StagePolicy},
    training::{Batch, Batches, DiffusionTraining, network_errors},
};

/// Float32 numbers of gradients that are kept at once (1 GiB). Larger networks are looked at in several passes.
const KEPT: usize = 1 << 28;
/// Samples per backward pass.
const BATCH: usize = 16;

/// Divides the noise range by the gradients of `models` on `latents`; `config.samples` is the number of pairs behind each gradient,
/// `config.levels` the grid. The models' parameters are frozen afterwards. There are no bootstrap intervals.
///
/// Errors: a configuration out of range; a model of another shape or autoencoder than the latents; a gradient that is zero or not
/// finite; a grid that cannot be cut into so many stages of balanced size; [`Error::Interrupted`].
pub fn divide_by_gradients(
    models: &[Model],
    latents: &LatentSet,
    config: &DivideConfig,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Division> {
    let config = DivideConfig { method: Some(Method::GradientAffinity), ..config.clone() };
    config.validate()?;
    if models.is_empty() {
        return Err(Error::Config("gradient affinity needs at least one trained model".into()));
    }
    models.iter().try_for_each(|model| check_model(model, latents))?;
    let summary = Summary::of(&LatentPoints::new(latents))?;
    let sigmas = config.grid();
    let affinity = mean_affinity(models, latents, &config, progress, interrupt)?;
    let found = by_affinity(&affinity, sigmas.len(), config.stages)?;
    let between = |s: usize| (sigmas[s - 1] * sigmas[s]).sqrt();
    let boundaries = found.starts[1..].iter().map(|&s| between(s)).collect();
    let mut stages = Stages::new(boundaries, config.schedule.clone(), Method::GradientAffinity, config.data_sha256.clone())?;
    stages.parameters = Parameters {
        points: summary.count,
        distinct_points: summary.distinct,
        deviation: Some(summary.deviation),
        samples: config.samples,
        most_samples: Some(config.samples),
        levels: Some(config.levels),
        seed: config.seed,
        ..Parameters::default()
    };
    let n = sigmas.len();
    let values: Vec<f64> = affinity.iter().enumerate().map(|(i, &v)| if i % (n + 1) == 0 { 1.0 } else { v }).collect();
    let curves = curves_of(&config.schedule, sigmas.clone(), &values);
    let t = sigmas.iter().map(|&s| config.schedule.t(s)).collect();
    Ok(Division { stages, summary, settled: false, curves, matrix: Matrix { sigma: sigmas, t, values } })
}

/// Refuses a model that was not trained on such latents.
fn check_model(model: &Model, latents: &LatentSet) -> Result<()> {
    let (manifest, config) = (latents.manifest(), model.config());
    let shape = [manifest.channels, manifest.height, manifest.width];
    if config.shape != shape {
        let (expected, got) = (format!("{:?} of the model", config.shape), format!("{shape:?}"));
        return Err(Error::Mismatch { what: "the shape of the latents".into(), expected, got });
    }
    if config.latents.autoencoder_sha256 != manifest.autoencoder_sha256 {
        let expected = format!("sha256 {} as in the model", config.latents.autoencoder_sha256);
        let got = manifest.autoencoder_sha256.clone();
        return Err(Error::Mismatch { what: "the autoencoder of the latents".into(), expected, got });
    }
    Ok(())
}

/// Mean over the models of the affinities of the grid's levels, `[T, T]`, the diagonal 0.
fn mean_affinity(
    models: &[Model],
    latents: &LatentSet,
    config: &DivideConfig,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Vec<f64>> {
    let sigmas = config.grid();
    let n = sigmas.len();
    let mut mean = vec![0.0; n * n];
    for (i, model) in models.iter().enumerate() {
        let groups = groups(model, KEPT / n);
        let label = format!("gradients of checkpoint {} of {}", i + 1, models.len());
        progress.start(&label, (n * groups.len()) as u64, "levels");
        let noise = NoiseSampler::new(NoiseDistribution::default(), &config.schedule, &[], &StagePolicy::Natural)?;
        let drawn = DiffusionTraining { seed: config.seed, ..DiffusionTraining::default() };
        let mut batches = Batches::of_latents(latents, model.config(), &drawn, noise);
        let mut products = vec![0.0; n * n];
        for (pass, group) in groups.iter().enumerate() {
            model.store().set_trainable(|name| group.iter().any(|p| p.name() == name));
            let mut gradients = Vec::with_capacity(n);
            for (level, &sigma) in sigmas.iter().enumerate() {
                gradients.push(gradient(model, group, &mut batches, (config.samples, sigma), interrupt)?);
                progress.advance((pass * n + level + 1) as u64, "");
            }
            model.store().freeze();
            add_products(&gradients, &mut products);
        }
        progress.finish();
        let affinity = cosine_affinity(&products, n).map_err(|e| Error::Config(format!("checkpoint {}: {e}", i + 1)))?;
        mean.iter_mut().zip(affinity).for_each(|(m, a)| *m += a / models.len() as f64);
    }
    Ok(mean)
}

/// The parameters that count, in groups of at most `most` numbers (or one parameter).
fn groups(model: &Model, most: usize) -> Vec<Vec<Parameter>> {
    let shared = |p: &Parameter| model.stages() == 1 || !p.name().starts_with("unet.decoders.");
    let (mut groups, mut size): (Vec<Vec<Parameter>>, usize) = (vec![Vec::new()], 0);
    for p in model.store().parameters().into_iter().filter(shared) {
        let numbers = p.var().elem_count();
        if size > 0 && size + numbers > most {
            groups.push(Vec::new());
            size = 0;
        }
        size += numbers;
        if let Some(last) = groups.last_mut() {
            last.push(p);
        }
    }
    groups
}

/// The gradient of the summed error of the first `samples` pairs at `sigma`, all of the group's parameters end to end.
fn gradient(
    model: &Model,
    group: &[Parameter],
    batches: &mut Batches,
    (samples, sigma): (usize, f64),
    interrupt: &Interrupt,
) -> Result<Vec<f32>> {
    let mut sum = vec![0.0f32; group.iter().map(|p| p.var().elem_count()).sum()];
    for first in (0..samples).step_by(BATCH) {
        if interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        let count = BATCH.min(samples - first);
        let batch = Batch { sigmas: vec![sigma; count], ..batches.at(first as u64, count, model.store().device())? };
        let grads = backward(&network_errors(model, &batch, None)?.sum_all()?)?;
        let mut rest = sum.as_mut_slice();
        for p in group {
            let (part, after) = rest.split_at_mut(p.var().elem_count());
            rest = after;
            if let Some(grad) = grads.get(p.var()) {
                part.iter_mut().zip(grad.flatten_all()?.to_vec1::<f32>()?).for_each(|(s, g)| *s += g);
            }
        }
    }
    Ok(sum)
}

/// Adds the inner products of all pairs of gradients to `products` `[T, T]`.
fn add_products(gradients: &[Vec<f32>], products: &mut [f64]) {
    let n = gradients.len();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    products.par_iter_mut().enumerate().for_each(|(i, p)| {
        // Both triangles in the same order of the factors: the matrix is symmetric to the last bit.
        let (a, b) = ((i / n).min(i % n), (i / n).max(i % n));
        *p += dot(&gradients[a], &gradients[b]);
    });
}
