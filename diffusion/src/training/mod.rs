//! Training of a multistage diffusion model on latents or pictures.

mod average;
mod batch;
mod config;
mod data;
mod images;
mod record;
mod spent;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_conditioning::ImageInput;
use strata_nn::{ops, random::Key};
use strata_training::{
    CheckpointParts, Ema, Interrupt, Optimizer, Progress, RunDir, StepOptions, Stopwatch,
    checkpoint::Part,
    ema::EmaCounters,
    run::{Damaged, Keep},
};

pub use average::{Average, Point};
pub use batch::{Batch, Batches};
pub use config::{Conditioning, DiffusionTraining};
pub use data::{PictureSettings, TrainingData};
pub(crate) use images::noised;
use record::Record;
pub use spent::{PASSES, Spent};

use crate::{
    Error, Result,
    model::{Model, ModelConfig, row_factors},
    noise::NoiseSampler,
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
/// If the U-Net, the stages and the data do not fit together.
pub fn model_config(config: &DiffusionTraining, data: TrainingData<'_>, boundaries: &[f64]) -> Result<ModelConfig> {
    data.check(config)?;
    let shape = data.shape(config);
    let mut unet = config.unet.clone();
    let image = data::image_input(config, data)?;
    (unet.in_channels, unet.out_channels) = (shape[0] + image.as_ref().map_or(0, ImageInput::channels), shape[0]);
    unet.check_stages(boundaries.len() + 1)?;
    let (class_names, attribute_names) = config.conditioning.of(data)?;
    let text = data.contexts().filter(|_| config.conditioning == Conditioning::Text).map(|c| c.source().clone());
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

/// Trains until `config.images`, from where `run` stands. `boundaries`: sigmas between the stages, ascending.
///
/// # Errors
/// If the parts do not fit, the run directory cannot be written, or the loss stays non-finite.
pub fn train(
    config: &DiffusionTraining,
    data: TrainingData<'_>,
    boundaries: &[f64],
    run: &mut RunDir,
    context: &TrainContext<'_>,
) -> Result<TrainSummary> {
    // Build.
    config.validate()?;
    let device = context.device;
    let mut model = Model::new(&model_config(config, data, boundaries)?, config.seed, device)?;
    model.checkpoint_activations(config.checkpoint_activations);
    let noise = NoiseSampler::new(config.noise, &config.schedule, boundaries, &config.stage_policy)?;
    let mut optimizer = Optimizer::new(model.store().trainable(), config.optimizer)?;
    let mut ema = Ema::new(model.store(), config.ema)?;
    let (mut position, mut record) = (Position::default(), Record::new(model.stages()));
    run.set_keep(Keep { last: config.keep_checkpoints, every_images: 0 })?;

    // Resume.
    if let Some((_, parts)) = run.resume(device, Damaged::Refuse)? {
        State { position, record } = restore(&parts, &model, &mut optimizer, &mut ema)?;
    }

    // Step by step.
    let mut batches = Batches::new((data, model.config()), config, noise, position.seen_images, context.progress)?;
    let mut watch = Stopwatch::new();
    let mut finished = true;
    let label = format!("training the {}-stage model", model.stages());
    context.progress.start(&label, config.images, "images");
    while position.seen_images < config.images {
        if context.interrupt.is_set() || (config.max_minutes > 0.0 && watch.elapsed() > 60.0 * config.max_minutes) {
            finished = false;
            break;
        }
        // The last batch is as long as the others: a run's length does not change what came before it.
        let batch = batches.at(position.seen_images, config.batch, device)?;
        let key = Key::new(config.seed, "dropout").step(position.step);
        let losses = sample_losses(&model, config, &batch, key)?;
        let grads = losses.mean(0)?.backward()?;
        let lr_multiplier = config.lr_schedule.multiplier(position.step, position.seen_images);
        let max_grad_norm = (config.max_grad_norm > 0.0).then_some(config.max_grad_norm);
        let options = StepOptions { lr_multiplier, max_grad_norm };
        let report = optimizer.step_and_average(&grads, options, &mut ema, config.batch as u64)?;
        drop(grads);
        position.advance(config.batch);
        watch.step();
        check_skipped(&optimizer, &position)?;

        // Status and checkpoint.
        record.add(&losses.to_vec1::<f32>()?, &batch.sigmas, &model, report.grad_norm);
        if crossed(position.seen_images, config.batch, config.log_every_images) {
            let line = record.take(&position, optimizer.skipped(), config.optimizer.lr * lr_multiplier, watch.seconds_per_step());
            context.progress.advance(position.seen_images, &line.message);
            run.log(line.json)?;
        } else {
            context.progress.advance(position.seen_images, "");
        }
        if crossed(position.seen_images, config.batch, config.save_every_images) && position.seen_images < config.images {
            save(run, &model, &ema, &optimizer, &State { position, record: record.clone() })?;
            watch.pause();
        }
    }
    save(run, &model, &ema, &optimizer, &State { position, record: record.clone() })?;
    context.progress.finish();
    Ok(TrainSummary {
        seen_images: position.seen_images,
        seconds_per_step: watch.seconds_per_step(),
        seconds: watch.elapsed(),
        skipped_steps: optimizer.skipped(),
        finished,
    })
}

/// Where a run computes, reports and hears of interruptions.
pub struct TrainContext<'a> {
    /// Where the network lives.
    pub device: &'a Device,
    /// Who watches.
    pub progress: &'a dyn Progress,
    /// Who may stop it.
    pub interrupt: &'a Interrupt,
}

/// Weighted error of every sample of a batch, `[B]`: the squared error in x0 times the weight, computed on the network's own
/// target `(x0 - c_skip x) / c_out`, which keeps it accurate where c_out is small.
pub fn sample_losses(model: &Model, config: &DiffusionTraining, batch: &Batch, key: Key) -> Result<Tensor> {
    let weight = |s: f64| config.weighting.weight(s, config.sigma_data()) * model.preconditioning(s).c_out.powi(2);
    let weights = row_factors(&batch.sigmas, &batch.x0, weight)?.flatten_all()?;
    Ok((network_errors(model, batch, Some(key))? * weights)?)
}

/// Mean squared error of every sample of a batch on the network's own target, `[B]`, without a weight. `train`: the key of the
/// dropout, which is off without one.
pub fn network_errors(model: &Model, batch: &Batch, train: Option<Key>) -> Result<Tensor> {
    let (sigmas, x0) = (&batch.sigmas, &batch.x0);
    let x = (x0 + batch.eps.broadcast_mul(&row_factors(sigmas, x0, |s| s)?)?)?;
    let condition = match &batch.context {
        Some(context) => model.text_condition(context)?,
        None => model.condition(&batch.labels, &batch.attributes)?,
    };
    let condition = model.with_images(condition, batch.images.as_ref(), sigmas.len())?;
    let answer = model.network(&x, sigmas, &condition, train)?;
    let skipped = x.broadcast_mul(&row_factors(sigmas, x0, |s| model.preconditioning(s).c_skip)?)?;
    let target = (x0 - skipped)?.broadcast_mul(&row_factors(sigmas, x0, |s| 1.0 / model.preconditioning(s).c_out)?)?;
    Ok(ops::mse_loss(&answer, &target)?)
}

/// Steps in a row without a finite gradient after which a run stops: by then the weights or the data are broken.
const MAX_SKIPPED_IN_A_ROW: u64 = 20;

fn check_skipped(optimizer: &Optimizer, position: &Position) -> Result<()> {
    if optimizer.skipped_in_a_row() < MAX_SKIPPED_IN_A_ROW {
        return Ok(());
    }
    Err(Error::NonFinite(format!(
        "in the gradients of {MAX_SKIPPED_IN_A_ROW} steps in a row, the last at {} images; the last checkpoint is kept: lower the learning rate or look at the data",
        position.seen_images
    )))
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    seen_images: u64,
    step: u64,
}

impl Position {
    fn advance(&mut self, batch: usize) {
        self.seen_images += batch as u64;
        self.step += 1;
    }
}

/// What a checkpoint holds beside tensors.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    position: Position,
    record: Record,
}

fn restore(parts: &CheckpointParts, model: &Model, optimizer: &mut Optimizer, ema: &mut Ema) -> Result<State> {
    let state: State = serde_json::from_value(parts.state.clone())
        .map_err(|e| Error::Config(format!("the state of the checkpoint cannot be read: {e}")))?;
    model.store().load(&parts.model_map(), "the checkpoint's model.safetensors")?;
    let Position { seen_images, step } = state.position;
    ema.load(&parts.ema_map(), EmaCounters { updates: step, seen_images })?;
    optimizer.load(&parts.optimizer_map())?;
    Ok(state)
}

fn save(run: &mut RunDir, model: &Model, ema: &Ema, optimizer: &Optimizer, state: &State) -> Result<()> {
    let parts = CheckpointParts {
        model: model.store().tensors(),
        ema: ema.tensors(),
        optimizer: optimizer.tensors()?,
        state: serde_json::to_value(state).map_err(|e| Error::Config(e.to_string()))?,
        metadata: model.metadata()?,
    };
    run.save(state.position.seen_images, &parts)?;
    Ok(())
}

/// Whether a step of `batch` images that ends at `seen` passed a multiple of `every`.
fn crossed(seen: u64, batch: usize, every: u64) -> bool {
    seen / every > (seen - batch as u64) / every
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
