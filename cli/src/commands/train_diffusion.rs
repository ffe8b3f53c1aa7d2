//! `strata train diffusion`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use strata_datasets::LatentSet;
use strata_diffusion::{
    stages::Stages,
    training::{DiffusionTraining, TrainContext, TrainSummary, model_config, train},
    unet,
};
use strata_training::{RunDir, sha256_file};
use toml::{Table, Value};

use super::settings;
use crate::{Outcome, args, context::Context, hint::hinted};

/// The autoencoder's copy in a latents folder and in a run, so that both are complete by themselves.
pub const AUTOENCODER: &str = "autoencoder.safetensors";

/// The command.
///
/// # Errors
/// Unusable settings, latents, stages or output; see the libraries.
pub fn run(args: &args::TrainDiffusion, context: &Context) -> anyhow::Result<Outcome> {
    let latents = LatentSet::open(&args.latents)?;
    let stages = args.stages_file.as_deref().map(Stages::load).transpose()?;
    let (config, table): (DiffusionTraining, Table) =
        settings::load(&args.settings, DiffusionTraining::PRESETS, None, context, Table::new())?;
    let boundaries = stages.as_ref().map_or(&config.boundaries, |s| &s.boundaries);
    if args.settings.dry_run {
        let model = model_config(&config, &latents, boundaries)?;
        settings::print(&table)?;
        let [_, height, width] = model.shape;
        let input = unet::CostInput { height, width, context_tokens: 1 };
        let subject = unet::Subject { unet: &model.unet, input, schedule: &model.schedule, boundaries };
        println!("# {}", unet::describe(subject)?.trim_end().replace('\n', "\n# "));
        return Ok(Outcome::Done);
    }
    let job = Job { config, table, latents_dir: args.latents.clone(), stages, autoencoder: args.autoencoder.clone() };
    let summary = job.train(&args.out, context)?;
    println!("{}: {} images seen, {:.3} s a step", args.out.display(), summary.seen_images, summary.seconds_per_step);
    let stopped = !summary.finished && context.interrupt.is_set();
    Ok(if stopped { Outcome::Interrupted } else { Outcome::Done })
}

/// A training that is ready to run.
pub struct Job {
    /// Settings.
    pub config: DiffusionTraining,
    /// The same as a table.
    pub table: Table,
    /// What to learn.
    pub latents_dir: PathBuf,
    /// The stages; those of the configuration without.
    pub stages: Option<Stages>,
    /// The autoencoder, if it is not the one beside the latents.
    pub autoencoder: Option<PathBuf>,
}

impl Job {
    /// Trains in the run directory `out`, from where it stands.
    ///
    /// # Errors
    /// Parts that do not belong together; as the library's.
    pub fn train(&self, out: &Path, context: &Context) -> anyhow::Result<TrainSummary> {
        let latents = LatentSet::open(&self.latents_dir)?;
        let manifest_file = self.latents_dir.join("manifest.json");
        let latents_sha256 = sha256_file(&manifest_file)?;
        if let Some(stages) = &self.stages {
            check_stages(stages, &latents_sha256, &self.latents_dir)?;
        }
        let boundaries = self.stages.as_ref().map_or(&self.config.boundaries, |s| &s.boundaries);
        let autoencoder = self.find_autoencoder(&latents.manifest().autoencoder_sha256)?;
        // Everything that can be refused is refused before the directory exists.
        model_config(&self.config, &latents, boundaries)?;
        let mut identity = self.table.clone();
        identity
            .insert("inputs".into(), Value::Table(inputs(&latents_sha256, &latents.manifest().autoencoder_sha256, boundaries)));
        let mut run = RunDir::open_changing(out, "diffusion", &identity, DiffusionTraining::FREE_KEYS)?;
        match autoencoder {
            Some(file) => keep_copy(&file, &out.join(AUTOENCODER))?,
            None => context
                .say("warning: the autoencoder of these latents is not beside them; `strata sample` will need --autoencoder"),
        }
        let progress = context.progress.as_ref();
        let train_context = TrainContext { device: &context.device, progress, interrupt: &context.interrupt };
        Ok(train(&self.config, &latents, boundaries, &mut run, &train_context)?)
    }

    /// The autoencoder that made the latents, if it can be found.
    fn find_autoencoder(&self, expected: &str) -> anyhow::Result<Option<PathBuf>> {
        let given = self.autoencoder.as_deref().map(strata_autoencoder::weight_file).transpose()?;
        let file = match given {
            Some(file) => file,
            None => self.latents_dir.join(AUTOENCODER),
        };
        if self.autoencoder.is_none() && !file.is_file() {
            return Ok(None);
        }
        check_autoencoder(&file, expected)?;
        Ok(Some(file))
    }
}

/// Refuses an autoencoder that did not make the latents.
///
/// # Errors
/// If the hashes differ; both are named.
pub fn check_autoencoder(file: &Path, expected: &str) -> anyhow::Result<()> {
    let got = sha256_file(file)?;
    if got == expected {
        return Ok(());
    }
    Err(hinted(
        format!(
            "{}: not the autoencoder that made these latents: they were made by sha256 {expected}, this is {got}",
            file.display()
        ),
        "encode the images again with this autoencoder, or name the other one with --autoencoder",
    ))
}

fn check_stages(stages: &Stages, latents_sha256: &str, latents: &Path) -> anyhow::Result<()> {
    if stages.data_sha256.is_empty() || stages.data_sha256 == latents_sha256 {
        return Ok(());
    }
    Err(hinted(
        format!(
            "the stages were computed on data of sha256 {}, but {} is {latents_sha256}",
            stages.data_sha256,
            latents.display()
        ),
        "run `strata stages` on these latents, or empty `data_sha256` in the stages file to use foreign boundaries on purpose",
    ))
}

fn inputs(latents: &str, autoencoder: &str, boundaries: &[f64]) -> Table {
    let text = |s: &str| Value::String(s.to_string());
    Table::from_iter([
        ("latents_sha256".to_string(), text(latents)),
        ("autoencoder_sha256".to_string(), text(autoencoder)),
        ("boundaries".to_string(), Value::Array(boundaries.iter().map(|b| Value::Float(*b)).collect())),
    ])
}

/// Copies a file beside its place and renames it; an equal file that is there already stays.
///
/// # Errors
/// If it cannot be read or written.
pub fn keep_copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.is_file() && sha256_file(from)? == sha256_file(to)? {
        return Ok(());
    }
    let data = std::fs::read(from).with_context(|| format!("{}", from.display()))?;
    Ok(strata_nn::weights::write_atomic(to, &data)?)
}
