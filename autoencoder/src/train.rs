//! The training loop of autoencoders.

use candle_core::Device;
use serde_json::json;
use strata_datasets::{Dataset, LoaderOptions, PictureStream, Prepared, prepare, split};
use strata_training::{Interrupt, Progress, RunDir, Stopwatch, run::Damaged};

use crate::{
    AutoencoderTraining, Result,
    pictures::write_png,
    reconstruct::{Reconstruction, measure},
    trainer::Trainer,
};

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
/// If settings, data or the run directory cannot be used, the newest checkpoint is damaged, or training diverges.
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
    if let Some((_, parts)) = run.resume(device, Damaged::Refuse)? {
        trainer.load(&parts)?;
    }
    let measured: Vec<usize> = split.held_out.iter().copied().take(config.evaluate_images).collect();
    let held_out = prepare(data, &measured, &config.transform(), config.max_bad, &|_| ())?;
    let options = LoaderOptions {
        batch: config.batch,
        seed: config.seed,
        flip: config.flip,
        start: trainer.seen_images,
        max_bad: config.max_bad,
        ..LoaderOptions::default()
    };
    progress.start("reading pictures", split.train.len() as u64, "images");
    let mut pictures = PictureStream::new(data, &split.train, config.transform(), options, &|done| progress.advance(done, ""))?;
    progress.finish();
    let mut watch = Stopwatch::new();
    let mut last_saved = trainer.seen_images;
    progress.start("training the autoencoder", config.images, "images");
    while trainer.seen_images < config.images {
        // Step.
        let before = trainer.seen_images;
        trainer.step(&pictures.batch(before, config.batch)?.pixels)?;
        watch.step();
        let seen = trainer.seen_images;
        let passed = |every: u64| every > 0 && seen / every > before / every;
        progress.advance(seen.min(config.images), &trainer.meter.message());

        // Status.
        if passed(config.log_every_images) {
            log(&mut trainer, &watch, config.batch, run)?;
        }
        // Held-out pictures.
        if passed(config.evaluate_every_images) && seen < config.images {
            watch.pause();
            evaluate(&trainer, &held_out, device, run)?;
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
    let held_out_psnr = if interrupted { None } else { evaluate(&trainer, &held_out, device, run)? };
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

fn log(trainer: &mut Trainer, watch: &Stopwatch, batch: usize, run: &mut RunDir) -> Result<()> {
    let mut record = trainer.take_record();
    let seconds_per_step = watch.seconds_per_step();
    record.insert("seconds_per_step".into(), seconds_per_step.into());
    record.insert("images_per_second".into(), (batch as f64 / seconds_per_step.max(1e-9)).into());
    Ok(run.log(record.into())?)
}

/// PSNR of held-out pictures with the averaged weights, logged, with a grid in `samples/`.
fn evaluate(trainer: &Trainer, held_out: &Prepared, device: &Device, run: &mut RunDir) -> Result<Option<f64>> {
    if held_out.is_empty() {
        return Ok(None);
    }
    let measured: Reconstruction = measure(&trainer.averaged()?, held_out, EXAMPLES, device)?;
    let file = run.samples_dir().join(format!("reconstructions-{:08}.png", trainer.seen_images));
    write_png(&file, &measured.grid(EXAMPLES / 2)?)?;
    let mut record = json!({
        "seen_images": trainer.seen_images,
        "held_out_psnr": measured.psnr,
        "held_out_ssim": measured.ssim,
    });
    if let Some(codebook) = measured.codebook {
        record["held_out_codebook_used"] = codebook.used.into();
        record["held_out_codebook_perplexity"] = codebook.perplexity.into();
    }
    run.log(record)?;
    Ok(Some(measured.psnr))
}
