//! The training loop of the KL autoencoder.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use strata_datasets::{Dataset, Prepared, prepare, split};
use strata_nn::{ops, params::ParamStore, random::Key};
use strata_training::{
    CheckpointParts, Ema, Interrupt, LrSchedule, Optimizer, Progress, RunDir, StepOptions, Stopwatch, ema::EmaCounters,
    run::Damaged,
};

use crate::{
    AutoencoderKl, AutoencoderTraining, Error, PixelLoss, Posterior, Result,
    pictures::{to_tensor, write_png},
    reconstruct::{Reconstruction, measure},
    source::Source,
    store,
};

/// Steps in a row with gradients that are not finite, after which training gives up.
const MAX_SKIPPED: u64 = 20;
/// Pictures in the grid of reconstructions.
const EXAMPLES: usize = 16;

/// What a training came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainSummary {
    /// Images trained on, those of runs before included.
    pub seen_images: u64,
    /// Seconds of this run.
    pub seconds: f64,
    /// Median seconds of a step.
    pub seconds_per_step: f64,
    /// Mean PSNR of held-out pictures with the averaged weights, in dB; absent when none were held out, or interrupted.
    pub held_out_psnr: Option<f64>,
    /// Whether all images were seen; if not, the time was up or it was interrupted, and the same call goes on.
    pub finished: bool,
    /// Whether the caller asked to stop.
    pub interrupted: bool,
}

/// Trains in `run`, from where it stands, until `config.images`, the time limit or the interrupt; then saves. What is trained
/// is a function of the settings and the data: an interrupted and continued run gives the same weights.
///
/// # Errors
/// If settings, data or the run directory cannot be used, or training diverges.
pub fn train(
    config: &AutoencoderTraining,
    data: &Dataset,
    run: &mut RunDir,
    device: &Device,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<TrainSummary> {
    // Build, and resume where a checkpoint is.
    config.validate()?;
    let split = split(data, config.held_out_share);
    let mut trainer = Trainer::new(config, device)?;
    if let Some((_, parts)) = run.resume(device, Damaged::FallBack)? {
        trainer.load(&parts)?;
    }
    let measured: Vec<usize> = split.held_out.iter().copied().take(config.evaluate_images).collect();
    let held_out = prepare(data, &measured, &config.transform(), config.max_bad, &|_| ())?;
    let mut source = Source::new(config, data, &split.train, trainer.seen_images, progress)?;
    let (mut watch, mut log) = (Stopwatch::new(), Log::default());
    let mut last_saved = trainer.seen_images;
    progress.start("training the autoencoder", config.images, "images");
    while trainer.seen_images < config.images {
        // Step.
        let before = trainer.seen_images;
        let pixels = source.batch(before, config.batch)?;
        log.add(&trainer.step(&pixels)?);
        watch.step();
        let seen = trainer.seen_images;
        let passed = |every: u64| every > 0 && seen / every > before / every;
        progress.advance(seen.min(config.images), &log.message());

        // Status.
        if passed(config.log_every_images) {
            run.log(log.take(seen, &watch, config.batch))?;
        }
        // Held-out pictures.
        if passed(config.evaluate_every_images) && seen < config.images {
            watch.pause();
            trainer.evaluate(&held_out, run)?;
        }
        // Checkpoint.
        if passed(config.save_every_images) && seen < config.images {
            watch.pause();
            trainer.save(run)?;
            last_saved = seen;
        }
        // Stop.
        if interrupt.is_set() || (config.max_minutes > 0.0 && watch.elapsed() >= 60.0 * config.max_minutes) {
            break;
        }
    }
    progress.finish();
    let interrupted = interrupt.is_set() && trainer.seen_images < config.images;
    let held_out_psnr = if interrupted { None } else { trainer.evaluate(&held_out, run)? };
    if trainer.seen_images > last_saved || run.latest().is_none() {
        trainer.save(run)?;
    }
    Ok(TrainSummary {
        seen_images: trainer.seen_images,
        seconds: watch.elapsed(),
        seconds_per_step: watch.seconds_per_step(),
        held_out_psnr,
        finished: trainer.seen_images >= config.images,
        interrupted,
    })
}

struct Trainer<'a> {
    config: &'a AutoencoderTraining,
    device: &'a Device,
    store: ParamStore,
    model: AutoencoderKl,
    optimizer: Optimizer,
    schedule: LrSchedule,
    ema: Ema,
    noise: Key,
    steps: u64,
    seen_images: u64,
}

/// What is not a tensor in a checkpoint.
#[derive(Serialize, Deserialize)]
struct State {
    steps: u64,
    seen_images: u64,
    ema: EmaCounters,
}

/// What one step did.
struct Step {
    loss: f64,
    rec: f64,
    kl: f64,
    grad_norm: f64,
    lr: f64,
}

impl<'a> Trainer<'a> {
    fn new(config: &'a AutoencoderTraining, device: &'a Device) -> Result<Self> {
        let store = ParamStore::new(config.seed, device);
        let model = AutoencoderKl::new(&config.model, &store.root())?;
        Ok(Self {
            config,
            device,
            model,
            optimizer: Optimizer::new(store.trainable(), config.optimizer())?,
            schedule: config.lr_schedule(),
            ema: Ema::new(&store, config.ema())?,
            noise: Key::new(config.seed, "posterior"),
            steps: 0,
            seen_images: 0,
            store,
        })
    }

    fn load(&mut self, parts: &CheckpointParts) -> Result<()> {
        let state: State = serde_json::from_value(parts.state.clone())
            .map_err(|e| Error::input("state.json", "the state of an autoencoder's training", e.to_string()))?;
        self.store.load(&parts.model_map(), "the checkpoint")?;
        self.ema.load(&parts.ema_map(), state.ema)?;
        self.optimizer.load(&parts.optimizer_map())?;
        (self.steps, self.seen_images) = (state.steps, state.seen_images);
        Ok(())
    }

    fn save(&self, run: &RunDir) -> Result<()> {
        let state = State { steps: self.steps, seen_images: self.seen_images, ema: self.ema.counters() };
        let parts = CheckpointParts {
            model: self.store.tensors(),
            ema: self.ema.tensors(),
            optimizer: self.optimizer.tensors()?,
            state: serde_json::to_value(state).map_err(|e| Error::file(run.path(), e))?,
            metadata: store::metadata(&self.config.model, self.config.size)?,
        };
        run.save(self.seen_images, &parts)?;
        Ok(())
    }

    /// pixels: one batch, packed 8-bit RGB.
    fn step(&mut self, pixels: &[u8]) -> Result<Step> {
        let x = to_tensor(pixels, self.config.batch, self.config.size, self.device)?;
        let Losses { loss, rec, kl } = self.losses(&x)?;
        let lr_multiplier = self.schedule.multiplier(self.steps, self.seen_images);
        let max_grad_norm = Some(self.config.max_grad_norm).filter(|max| *max > 0.0);
        let report = self.optimizer.step(&loss.backward()?, StepOptions { lr_multiplier, max_grad_norm })?;
        if self.optimizer.skipped_in_a_row() >= MAX_SKIPPED {
            let got = format!("{MAX_SKIPPED} steps in a row without, at {} images; lower `lr`", self.seen_images);
            return Err(Error::input("gradients", "finite numbers", got));
        }
        self.ema.update(self.config.batch as u64)?;
        self.steps += 1;
        self.seen_images += self.config.batch as u64;
        let number = |t: &Tensor| -> Result<f64> { Ok(f64::from(t.to_scalar::<f32>()?)) };
        let lr = self.config.lr * lr_multiplier;
        Ok(Step { loss: number(&loss)?, rec: number(&rec)?, kl: number(&kl)?, grad_norm: report.grad_norm, lr })
    }

    /// The latent is drawn from the posterior with noise that depends on the position of the image alone.
    fn losses(&self, x: &Tensor) -> Result<Losses> {
        let posterior = Posterior::new(&self.model.encode_moments(x)?)?;
        let positions: Vec<u64> = (self.seen_images..).take(self.config.batch).collect();
        let noise = self.noise.normal_rows(&positions, &posterior.mode().dims()[1..], self.device)?;
        let y = self.model.decode(&posterior.sample(&noise)?)?;
        let rec = match self.config.pixel_loss {
            PixelLoss::L1 => ops::l1_loss(&y, x)?,
            PixelLoss::L2 => ops::mse_loss(&y, x)?,
        };
        let (rec, kl) = (rec.mean_all()?, posterior.kl()?.mean_all()?);
        // The pixel loss is a mean: the KL divergence, a sum over the latent, is divided by as many pixels.
        let pixels = (x.elem_count() / x.dim(0)?) as f64;
        let loss = (&rec + (&kl * (self.config.kl_weight / pixels))?)?;
        Ok(Losses { loss, rec, kl })
    }

    /// PSNR of held-out pictures with the averaged weights, logged, with a grid in `samples/`.
    fn evaluate(&self, held_out: &Prepared, run: &mut RunDir) -> Result<Option<f64>> {
        if held_out.is_empty() {
            return Ok(None);
        }
        let model = store::frozen(&self.config.model, &self.ema.tensors(), self.device)?;
        let measured: Reconstruction = measure(&model, held_out, EXAMPLES, self.device)?;
        let file = run.samples_dir().join(format!("reconstructions-{:08}.png", self.seen_images));
        write_png(&file, &measured.grid(EXAMPLES / 2)?)?;
        run.log(json!({ "seen_images": self.seen_images, "held_out_psnr": measured.psnr }))?;
        Ok(Some(measured.psnr))
    }
}

struct Losses {
    loss: Tensor,
    rec: Tensor,
    kl: Tensor,
}

/// Means between two lines of the log.
#[derive(Default)]
struct Log {
    steps: f64,
    loss: f64,
    rec: f64,
    kl: f64,
    grad_norm: f64,
    lr: f64,
}

impl Log {
    fn add(&mut self, step: &Step) {
        self.steps += 1.0;
        self.loss += step.loss;
        self.rec += step.rec;
        self.kl += step.kl;
        self.grad_norm += step.grad_norm;
        self.lr = step.lr;
    }

    fn message(&self) -> String {
        format!("loss {:.4}", self.loss / self.steps.max(1.0))
    }

    fn take(&mut self, seen_images: u64, watch: &Stopwatch, batch: usize) -> serde_json::Value {
        let Self { steps, loss, rec, kl, grad_norm, lr } = std::mem::take(self);
        let n = steps.max(1.0);
        let seconds_per_step = watch.seconds_per_step();
        json!({
            "seen_images": seen_images,
            "loss": loss / n,
            "rec": rec / n,
            "kl": kl / n,
            "grad_norm": grad_norm / n,
            "lr": lr,
            "seconds_per_step": seconds_per_step,
            "images_per_second": batch as f64 / seconds_per_step.max(1e-9),
        })
    }
}
