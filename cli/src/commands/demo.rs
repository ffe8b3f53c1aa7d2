//! `strata demo`: the whole chain on the built-in emoji, through the same functions as the single commands.

use std::{path::PathBuf, time::Instant};

use anyhow::Context as _;
use strata_autoencoder::{AutoencoderTraining, EncodeOptions, Encoded, ReconstructOptions, Reconstruction};
use strata_datasets::{Dataset, DatasetOptions, LatentManifest, split};
use strata_diffusion::{
    Error,
    sampling::{GuidanceOptions, SampleOptions},
    stages::Stages,
    training::DiffusionTraining,
};
use toml::Table;

use super::{
    demo_report::{self, Results},
    encode, sample, settings, stages, train_autoencoder, train_diffusion,
};
use crate::{Outcome, args, context::Context, grid};

/// Minutes that the presets' lengths were chosen for, on two cores.
const PRESET_MINUTES: f64 = 5.0;
/// No part of the training takes more than this share of `--minutes`, however slow the machine.
const AUTOENCODER_SHARE: f64 = 0.4;
const DIFFUSION_SHARE: f64 = 0.65;
/// Pictures in `samples.png`, and of each class in `samples-by-class.png`.
const SAMPLES: u64 = 64;
const SAMPLES_PER_CLASS: u64 = 8;
/// Pairs in `reconstructions.png`.
const PAIRS: usize = 32;

/// The command.
///
/// # Errors
/// As the single commands.
pub fn run(args: &args::Demo, context: &Context) -> anyhow::Result<Outcome> {
    let demo = Demo { args, context, began: Instant::now() };
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}: cannot be created", args.out.display()))?;
    match demo.chain() {
        Ok(Some(results)) => {
            let report = demo_report::write(&results, &args.out)?;
            println!("{}", report.display());
            Ok(Outcome::Done)
        }
        Ok(None) => Ok(Outcome::Interrupted),
        Err(e) if matches!(e.downcast_ref(), Some(Error::Interrupted)) => Ok(Outcome::Interrupted),
        Err(e) => Err(e),
    }
}

struct Demo<'a> {
    args: &'a args::Demo,
    context: &'a Context,
    began: Instant,
}

impl Demo<'_> {
    /// Every part in turn; `None` where it was interrupted.
    fn chain(&self) -> anyhow::Result<Option<Results>> {
        let data = Dataset::open("emoji", &DatasetOptions::default())?;
        let Some((autoencoder, reconstruction)) = self.autoencoder(&data)? else { return Ok(None) };
        let Some(manifest) = self.encode(&data, &autoencoder)? else { return Ok(None) };
        let Some(stages) = self.stages()? else { return Ok(None) };
        if !self.diffusion(&stages)? {
            return Ok(None);
        }
        let painter = sample::Painter::load(&self.path("diffusion"), None, None, self.context)?;
        let sampling = self.samples(&painter, &manifest.class_names)?;
        let (size, images, seconds) = (self.args.size, data.len(), self.began.elapsed().as_secs_f64());
        let model = painter.model;
        Ok(Some(Results { size, images, autoencoder, reconstruction, manifest, stages, model, sampling, seconds }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.args.out.join(name)
    }

    /// The preset with its length scaled to `--minutes`, which `share` of limits.
    fn settings(&self, preset: &str, images: u64, share: f64) -> args::Settings {
        args::Settings {
            preset: Some(preset.to_string()),
            config: None,
            set: Vec::new(),
            dry_run: false,
            images: Some((images as f64 * self.args.minutes / PRESET_MINUTES).ceil().max(1.0) as u64),
            batch: None,
            checkpoint_activations: false,
            max_minutes: Some(share * self.args.minutes),
            max_hours: None,
        }
    }

    fn autoencoder(&self, data: &Dataset) -> anyhow::Result<Option<(AutoencoderTraining, Reconstruction)>> {
        let context = self.context;
        let name = if self.args.size == 32 { "emoji-kl-f4" } else { "emoji-kl-f4-64" };
        let images = preset_images::<AutoencoderTraining>(AutoencoderTraining::PRESETS, name, |c| c.images)?;
        let chosen = self.settings(name, images, AUTOENCODER_SHARE);
        let (config, table): (AutoencoderTraining, Table) =
            settings::load(&chosen, AutoencoderTraining::PRESETS, None, context, Table::new())?;
        let out = self.path("autoencoder");
        if train_autoencoder::train(&config, &table, data, &out, context)?.interrupted {
            return Ok(None);
        }
        let autoencoder = strata_autoencoder::load(&out, &context.device)?;
        let held_out = split(data, config.held_out_share).held_out;
        let (progress, interrupt) = (context.progress.as_ref(), &context.interrupt);
        let options = ReconstructOptions { examples: PAIRS, ..ReconstructOptions::default() };
        let reconstruction =
            strata_autoencoder::reconstruct(&autoencoder, data, &held_out, &config.transform(), options, progress, interrupt)?;
        grid::write_png(&reconstruction.grid(PAIRS / 2)?, &self.path("reconstructions.png"))?;
        Ok((!context.interrupt.is_set()).then_some((config, reconstruction)))
    }

    fn encode(&self, data: &Dataset, config: &AutoencoderTraining) -> anyhow::Result<Option<LatentManifest>> {
        let autoencoder = strata_autoencoder::load(&self.path("autoencoder"), &self.context.device)?;
        let options = EncodeOptions::default();
        let out = self.path("latents");
        match encode::encode(&autoencoder, data, &config.transform().centred(), &options, &out, self.context)? {
            Encoded::Complete(manifest) => Ok(Some(*manifest)),
            Encoded::Missing(_) | Encoded::Interrupted => Ok(None),
        }
    }

    fn stages(&self) -> anyhow::Result<Option<Stages>> {
        stages::divide(&stages::Request::of_latents(&self.path("latents"), &self.path("stages.toml")), self.context)
    }

    /// Whether the model was trained, not interrupted.
    fn diffusion(&self, stages: &Stages) -> anyhow::Result<bool> {
        let name = if self.args.size == 32 { "emoji-32" } else { "emoji-64" };
        let images = preset_images::<DiffusionTraining>(DiffusionTraining::PRESETS, name, |c| c.images)?;
        let chosen = self.settings(name, images, DIFFUSION_SHARE);
        let (config, table) = settings::load(&chosen, DiffusionTraining::PRESETS, None, self.context, Table::new())?;
        let latents_dir = self.path("latents");
        let source = train_diffusion::Source::latents(latents_dir, None)?;
        let job = train_diffusion::Job { config, table, source, stages: Some(stages.clone()), warm_start: None };
        job.train(&self.path("diffusion"), self.context)?;
        Ok(!self.context.interrupt.is_set())
    }

    /// Draws the pictures; answers how.
    fn samples(&self, painter: &sample::Painter, classes: &[String]) -> anyhow::Result<SampleOptions> {
        let out = self.path("samples");
        let seeds: Vec<u64> = (0..SAMPLES).collect();
        let in_turn = options(seeds.clone(), sample::labels(&painter.model, Some("all"), &seeds)?);
        let drawn = |options: &SampleOptions| -> anyhow::Result<_> {
            sample::draw(&sample::draw::Job::new(painter, options, &out), self.context)?;
            sample::draw::pictures(&out, &options.seeds)
        };
        grid::write_grid(&drawn(&in_turn)?, 8, &self.path("samples.png"))?;
        let count = SAMPLES_PER_CLASS * classes.len() as u64;
        let labels = (0..count).map(|i| Some((i / SAMPLES_PER_CLASS) as u32)).collect();
        let by_class = options((SAMPLES..SAMPLES + count).collect(), labels);
        let mut images = drawn(&by_class)?.into_iter();
        let mut row = |name: &String| grid::Row {
            caption: name.clone(),
            images: images.by_ref().take(SAMPLES_PER_CLASS as usize).collect(),
        };
        let rows: Vec<grid::Row> = classes.iter().map(&mut row).collect();
        grid::write_rows(&rows, &self.path("samples-by-class.png"))?;
        Ok(in_turn)
    }
}

fn options(seeds: Vec<u64>, labels: Vec<Option<u32>>) -> SampleOptions {
    let guidance = GuidanceOptions { scale: sample::DEFAULT_GUIDANCE, ..GuidanceOptions::default() };
    SampleOptions { seeds, labels, batch: 32, guidance, ..SampleOptions::default() }
}

/// The length of a preset, in images.
fn preset_images<T: serde::Serialize + serde::de::DeserializeOwned + Default>(
    presets: &[settings::Preset],
    name: &str,
    images: impl Fn(&T) -> u64,
) -> anyhow::Result<u64> {
    let layers = strata_training::settings::Layers { preset: Some(settings::find(presets, name)?), ..Default::default() };
    Ok(images(&strata_training::settings::resolve::<T>(layers)?.0))
}
