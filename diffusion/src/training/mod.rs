//! Training of a multistage diffusion model on latents or pictures.
//!
//! - [`DiffusionTraining`]: the settings. [`Objective`]: what is minimised.
//! - [`train`]: the loop. [`Batches`]: what a step sees, a function of its position.

mod augment;
mod average;
mod batch;
mod checkpoint;
mod conditioning;
mod config;
mod course;
mod data;
mod grid;
mod held_out;
mod images;
mod objective;
mod parameters;
mod record;
mod spent;
mod step;
#[cfg(test)]
mod tests;
mod warm_start;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use strata_conditioning::ImageInput;
use strata_training::{
    Ema, Interrupt, Peers, Progress, RunDir, Stopwatch,
    checkpoint::Part,
    post_hoc::Tracks,
    run::{Damaged, Keep},
};

pub use average::{Average, Point};
pub use batch::{Batch, Batches};
pub use conditioning::Conditioning;
pub use config::DiffusionTraining;
pub use data::{PictureSettings, TrainingData};
pub use grid::GridSettings;
pub(crate) use images::noised;
pub use objective::{Distance, LogVariance, Losses, Objective, network_errors};
pub use parameters::GroupSettings;
pub use spent::{PASSES, Spent};
pub use warm_start::WarmStart;

use checkpoint::{Parts, Position, State};
use course::Course;
use held_out::HeldOut;
use record::Record;
use step::Worker;

use crate::{
    Error, Result,
    model::{Model, ModelConfig},
    noise::NoiseSampler,
    unet::costs,
};

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSummary {
    /// Images seen in all.
    pub seen_images: u64,
    /// Median seconds per step in this process.
    pub seconds_per_step: f64,
    /// Seconds spent in this process.
    pub seconds: f64,
    /// Steps skipped because a gradient was not finite, over the whole run.
    pub skipped_steps: u64,
    /// False if it was interrupted or ran into its time limit.
    pub finished: bool,
}

/// The model configuration that `config` describes on these data and stage boundaries (sigma, ascending).
///
/// # Errors
/// If a setting cannot be used, or the U-Net, the stages and the data do not fit together.
pub fn model_config(config: &DiffusionTraining, data: TrainingData<'_>, boundaries: &[f64]) -> Result<ModelConfig> {
    config.validate()?;
    data.check(config)?;
    let shape = data.shape(config);
    let mut unet = config.unet.clone();
    let image = data::image_input(config, data)?;
    (unet.in_channels, unet.out_channels) = (shape[0] + image.as_ref().map_or(0, ImageInput::channels), shape[0]);
    if config.pictures.augmentation().is_some() {
        unet.augment = Some(augment::LABELS);
    }
    unet.check_stages(boundaries.len() + 1)?;
    let (class_names, attribute_names) = config.conditioning.of(data)?;
    let embedded = matches!(config.conditioning, Conditioning::Text | Conditioning::Picture);
    let text = data.contexts().filter(|_| embedded).map(|c| c.source().clone());
    let model = ModelConfig {
        unet,
        parametrization: config.parametrization,
        schedule: config.schedule.clone(),
        boundaries: boundaries.to_vec(),
        classes: class_names.len(),
        class_names,
        attribute_names,
        text,
        image,
        shape,
        latents: data.scaling(),
    };
    model.validate()?;
    Ok(model)
}

/// Where a run computes, with whom, and who hears of it.
pub struct TrainContext<'a> {
    /// Where the network lives.
    pub device: &'a Device,
    /// The processes that train together; they share each step's batch.
    pub peers: &'a Peers,
    /// Who watches.
    pub progress: &'a dyn Progress,
    /// Who may stop it.
    pub interrupt: &'a Interrupt,
    /// Who is shown pictures on the way; without it none are drawn.
    pub observer: Option<&'a dyn Observer>,
    /// The model whose weights a fresh run begins with: a run directory or weight file.
    pub warm_start: Option<&'a Path>,
}

/// Sees how a training goes.
pub trait Observer {
    /// Now and then, and at the end. `samples`: `[B, C, H, W]`, scaled as the model is trained on them, always of the same seeds; none
    /// where none are drawn. An error is shown and does not stop the training.
    ///
    /// # Errors
    /// Whatever it cannot do.
    fn milestone(&self, seen_images: u64, samples: Option<&Tensor>) -> std::result::Result<(), Box<dyn std::error::Error>>;
}

/// Trains until `config.images`, from where `run` stands. `boundaries`: sigmas between the stages, ascending. Of several processes the
/// first has the run directory; all must have the same configuration and data.
///
/// # Errors
/// If the parts do not fit, the run directory cannot be written, gradients stay non-finite, or another process ended.
pub fn train(
    config: &DiffusionTraining,
    data: TrainingData<'_>,
    boundaries: &[f64],
    run: Option<&mut RunDir>,
    context: &TrainContext<'_>,
) -> Result<TrainSummary> {
    let result = train_with_peers(config, data, boundaries, run, context);
    match &result {
        Ok(_) => context.peers.leave(),
        Err(e) => context.peers.abort(&e.to_string()),
    }
    result
}

fn train_with_peers(
    config: &DiffusionTraining,
    data: TrainingData<'_>,
    boundaries: &[f64],
    mut run: Option<&mut RunDir>,
    context: &TrainContext<'_>,
) -> Result<TrainSummary> {
    // Build.
    let (device, peers) = (context.device, context.peers);
    check_ranks(config, peers)?;
    let mut model = Model::new(&model_config(config, data, boundaries)?, config.seed, device)?;
    model.checkpoint_activations(config.checkpoint_activations);
    let stages = parameters::trained_stages(config)?;
    let noise = NoiseSampler::new(config.noise, &config.schedule, boundaries, &config.stage_policy)?.restricted_to(&stages)?;
    let objective = Objective::new(config, device)?;

    // Begin, from other weights or a checkpoint.
    let checkpoint = match &mut run {
        Some(run) => {
            let keep = Keep { last: config.keep_checkpoints, every_images: config.keep_every_images, best: config.keep_best };
            run.set_keep(keep)?;
            run.resume(device, Damaged::Refuse)?
        }
        None => None,
    };
    if let (None, Some(path), true) = (&checkpoint, context.warm_start, peers.is_first()) {
        context.progress.note(&format!("begins with {}", warm_start::warm_start(&model, path)?));
    }
    parameters::freeze(config, &model)?;
    let mut optimizer = parameters::optimizer(config, &model, objective.store())?;
    let mut ema = Ema::new(model.store(), config.ema)?;
    let mut tracks = Tracks::new(model.store(), &config.post_hoc)?;
    let mut state = State { position: Position::default(), record: Record::new(model.stages()) };
    let mut parts = Parts { model: &model, objective: &objective, optimizer: &mut optimizer, ema: &mut ema, tracks: &mut tracks };
    if let Some((_, checkpoint)) = &checkpoint {
        state = parts.restore(checkpoint)?;
    }
    drop(checkpoint);
    if peers.ranks().count > 1 {
        state = parts.share(peers, state)?;
    }

    let parameters =
        model.store().trainable().into_iter().chain(objective.store().trainable()).map(|p| p.var().clone()).collect();
    let worker = Worker { config, model: &model, objective: &objective, peers, parameters };
    let from = (state.position.seen_images, peers.ranks());
    let of = (data, model.config());
    let held_out = if run.is_some() { HeldOut::new(of, config, noise.clone())? } else { None };
    let mut batches = Batches::new(of, config, noise, from, context.progress)?;
    let flops = flops(&model)?;
    Course { config, context, worker, parts, run, state, watch: Stopwatch::new(), held_out, flops }.complete(&mut batches)
}

/// A step's images are divided evenly.
fn check_ranks(config: &DiffusionTraining, peers: &Peers) -> Result<()> {
    let count = peers.ranks().count;
    match config.batch.is_multiple_of(count) {
        true => Ok(()),
        false => Err(Error::Config(format!("`batch`: expected a multiple of the {count} processes, got {}", config.batch))),
    }
}

/// Floating-point operations of a sample of each stage, forward and backward: a multiply-accumulate is two, and the backward pass of
/// what is trained costs twice the forward pass. Recomputed activations are not counted.
fn flops(model: &Model) -> Result<Vec<f64>> {
    let costs = costs(&model.config().unet, model.config().cost_input())?;
    let trains_shared = model.store().trainable().iter().any(|p| parameters::decoder_of(p.name()).is_none());
    let passes = PASSES as f64;
    let shared = costs.shared.macs() as f64 * if trains_shared { passes } else { 1.0 };
    Ok(costs.decoders.iter().map(|decoder| 2.0 * (shared + passes * decoder.macs() as f64)).collect())
}

/// The frozen model of a weight file, of a folder with one ([`MODEL`]), or of the newest checkpoint of a run (its average).
///
/// # Errors
/// If there is no checkpoint or it is damaged.
pub fn load(path: &Path, device: &Device) -> Result<Model> {
    Model::load(&weight_file(path)?, device)
}

/// The weights in a folder that holds a model alone, for sampling.
pub const MODEL: &str = "model.safetensors";

/// The weight file that [`load`] reads.
///
/// # Errors
/// If the run has no checkpoint.
pub fn weight_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let model = path.join(MODEL);
    if model.is_file() {
        return Ok(model);
    }
    strata_training::run::read_info(path)?;
    let newest = strata_training::run::checkpoints(path).pop();
    let (_, folder) = newest.ok_or_else(|| Error::file(path, "has no checkpoint yet"))?;
    Ok(folder.join(Part::Ema.file_name()))
}
