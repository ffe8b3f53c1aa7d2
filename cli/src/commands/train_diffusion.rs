//! `strata train diffusion`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use strata_datasets::{Dataset, LatentSet};
use strata_diffusion::{
    stages::Stages,
    training::{self, DiffusionTraining, Observer, TrainContext, TrainSummary, TrainingData, model_config, train},
    unet,
};
use strata_training::{NoProgress, Progress, Ranks, RunDir, settings::to_toml, sha256_file};
use toml::{Table, Value};

use super::{peers, settings, train_pictures::Pictures};
use crate::{Outcome, args, context::Context, hint::hinted};

/// The autoencoder's copy in a latents folder and in a run, so that both are complete by themselves.
pub const AUTOENCODER: &str = "autoencoder.safetensors";

/// The command.
///
/// # Errors
/// Unusable settings, data, stages or output; see the libraries.
pub fn run(args: &args::TrainDiffusion, context: &Context) -> anyhow::Result<Outcome> {
    let source = Source::open(args)?;
    let stages = args.stages_file.as_deref().map(Stages::load).transpose()?;
    let mut flags = Table::new();
    if let Some(size) = args.size {
        flags.insert("pictures".into(), Value::Table(Table::from_iter([("size".to_string(), Value::Integer(size as i64))])));
    }
    let list = |values: Vec<Value>| (!values.is_empty()).then_some(Value::Array(values));
    let stage_numbers = args.stages.iter().map(|n| Value::Integer(*n as i64)).collect();
    let frozen = args.freeze.iter().map(|part| Value::String(part.clone())).collect();
    for (key, value) in [("train_stages", list(stage_numbers)), ("freeze", list(frozen))] {
        flags.extend(value.map(|v| (key.to_string(), v)));
    }
    let (config, table): (DiffusionTraining, Table) =
        settings::load(&args.settings, DiffusionTraining::PRESETS, None, context, flags)?;
    let boundaries = stages.as_ref().map_or(&config.boundaries, |s| &s.boundaries);
    if args.settings.dry_run {
        let model = model_config(&config, source.data(), boundaries)?;
        settings::print(&table)?;
        let subject = unet::Subject { unet: &model.unet, input: model.cost_input(), schedule: &model.schedule, boundaries };
        println!("# {}", unet::describe(subject)?.trim_end().replace('\n', "\n# "));
        return Ok(Outcome::Done);
    }
    let job = Job { config, table, source, stages, warm_start: args.warm_start.clone() };
    let summary = job.train(&args.out, context)?;
    if Ranks::from_env()?.rank == 0 {
        println!("{}: {} images seen, {:.3} s a step", args.out.display(), summary.seen_images, summary.seconds_per_step);
    }
    let stopped = !summary.finished && context.interrupt.is_set();
    Ok(if stopped { Outcome::Interrupted } else { Outcome::Done })
}

/// What is learned.
pub enum Source {
    /// Latents, their folder, and their autoencoder if it is not the one beside them.
    Latents(Box<LatentSet>, PathBuf, Option<PathBuf>),
    /// Pictures.
    Pictures(Dataset),
}

impl Source {
    fn open(args: &args::TrainDiffusion) -> anyhow::Result<Self> {
        match (&args.latents, &args.data) {
            (Some(dir), _) => Self::latents(dir.clone(), args.autoencoder.clone()),
            (None, Some(data)) => Ok(Self::Pictures(Dataset::open(data, &args.reading.options())?)),
            (None, None) => anyhow::bail!("one of --latents and --data is needed"),
        }
    }

    /// The latents in `dir`.
    ///
    /// # Errors
    /// If they cannot be opened.
    pub fn latents(dir: PathBuf, autoencoder: Option<PathBuf>) -> anyhow::Result<Self> {
        Ok(Self::Latents(Box::new(LatentSet::open(&dir)?), dir, autoencoder))
    }

    fn data(&self) -> TrainingData<'_> {
        match self {
            Self::Latents(set, ..) => TrainingData::Latents(set),
            Self::Pictures(data) => TrainingData::Pictures(data),
        }
    }

    /// What a run and a stages file remember of it.
    fn sha256(&self) -> anyhow::Result<String> {
        Ok(match self {
            Self::Latents(_, dir, _) => sha256_file(dir.join("manifest.json"))?,
            Self::Pictures(data) => data.fingerprint()?,
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Latents(_, dir, _) => dir.display().to_string(),
            Self::Pictures(data) => data.spec().to_string(),
        }
    }
}

/// A training that is ready to run.
pub struct Job {
    /// Settings.
    pub config: DiffusionTraining,
    /// The same as a table.
    pub table: Table,
    /// What to learn.
    pub source: Source,
    /// The stages; those of the configuration without.
    pub stages: Option<Stages>,
    /// The model whose weights it begins with.
    pub warm_start: Option<PathBuf>,
}

impl Job {
    /// Trains in the run directory `out`, from where it stands.
    ///
    /// # Errors
    /// Parts that do not belong together; as the library's.
    pub fn train(&self, out: &Path, context: &Context) -> anyhow::Result<TrainSummary> {
        let sha256 = self.source.sha256()?;
        if let Some(stages) = &self.stages {
            check_stages(stages, &sha256, &self.source.name())?;
        }
        let boundaries = self.stages.as_ref().map_or(&self.config.boundaries, |s| &s.boundaries);
        // Everything that can be refused is refused before the directory exists.
        let model = model_config(&self.config, self.source.data(), boundaries)?;
        let autoencoder = match &self.source {
            Source::Latents(_, dir, given) => find_autoencoder(dir, given.as_deref(), &model.latents.autoencoder_sha256)?,
            Source::Pictures(_) => None,
        };
        let mut identity = self.table.clone();
        let mut inputs = self.inputs(&sha256, &model.latents.autoencoder_sha256, boundaries);
        if let (Some(_), Source::Latents(set, ..)) = (&model.image, &self.source) {
            let source = set.images().map(|images| format!("{:?}", images.source()));
            inputs.insert("images".into(), Value::String(source.unwrap_or_default()));
        }
        if let Some(text) = &model.text {
            inputs.insert("text_encoder_sha256".into(), Value::String(text.sha256.clone()));
        }
        if let Some(path) = &self.warm_start {
            inputs.insert("warm_start_sha256".into(), Value::String(sha256_file(training::weight_file(path)?)?));
        }
        identity.insert("inputs".into(), Value::Table(inputs));
        let mut peers = peers::connect(Ranks::from_env()?, &to_toml(&identity)?)?;
        let mut run = if peers.is_first() {
            let opened = self.open(out, &identity, autoencoder.as_deref(), context);
            Some(opened.inspect_err(|e| peers.abort(&e.to_string()))?)
        } else {
            None
        };
        peers.join_cards(&context.device).inspect_err(|e| peers.abort(&e.to_string()))?;
        let pictures = run.is_some().then(|| Pictures::new(out, &model, &context.device)).transpose()?;
        let progress: &dyn Progress = if peers.is_first() { context.progress.as_ref() } else { &NoProgress };
        let train_context = TrainContext {
            device: &context.device,
            peers: &peers,
            progress,
            interrupt: &context.interrupt,
            observer: pictures.as_ref().map(|p| p as &dyn Observer),
            warm_start: self.warm_start.as_deref(),
        };
        Ok(train(&self.config, self.source.data(), boundaries, run.as_mut(), &train_context)?)
    }

    /// The run directory, with the autoencoder of the latents in it.
    fn open(&self, out: &Path, identity: &Table, autoencoder: Option<&Path>, context: &Context) -> anyhow::Result<RunDir> {
        let run = RunDir::open_changing(out, "diffusion", identity, DiffusionTraining::FREE_KEYS)?;
        match (&self.source, autoencoder) {
            (Source::Pictures(_), _) => {}
            (_, Some(file)) => keep_autoencoder(file, out)?,
            (_, None) => context
                .say("warning: the autoencoder of these latents is not beside them; `strata sample` will need --autoencoder"),
        }
        Ok(run)
    }

    fn inputs(&self, sha256: &str, autoencoder: &str, boundaries: &[f64]) -> Table {
        let text = |s: &str| Value::String(s.to_string());
        let boundaries = ("boundaries".to_string(), Value::Array(boundaries.iter().map(|b| Value::Float(*b)).collect()));
        match &self.source {
            Source::Latents(..) => Table::from_iter([
                ("latents_sha256".to_string(), text(sha256)),
                ("autoencoder_sha256".to_string(), text(autoencoder)),
                boundaries,
            ]),
            Source::Pictures(data) => Table::from_iter([
                ("data_fingerprint".to_string(), text(sha256)),
                ("data_items".to_string(), Value::Integer(data.len() as i64)),
                boundaries,
            ]),
        }
    }
}

/// The autoencoder that made the latents in `dir`, the given one or the one beside them, if it can be found.
fn find_autoencoder(dir: &Path, given: Option<&Path>, expected: &str) -> anyhow::Result<Option<PathBuf>> {
    let file = match given {
        Some(given) => strata_autoencoder::weight_file(given)?,
        None => dir.join(AUTOENCODER),
    };
    if given.is_none() && !file.is_file() {
        return Ok(None);
    }
    check_autoencoder(&file, expected)?;
    Ok(Some(file))
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

fn check_stages(stages: &Stages, data_sha256: &str, data: &str) -> anyhow::Result<()> {
    if stages.data_sha256.is_empty() || stages.data_sha256 == data_sha256 {
        return Ok(());
    }
    Err(hinted(
        format!("the stages were computed on data of sha256 {}, but {data} is {data_sha256}", stages.data_sha256),
        "run `strata stages` on these data, or empty `data_sha256` in the stages file to use foreign boundaries on purpose",
    ))
}

/// Keeps a copy of an autoencoder's weight file in `folder`, with the configuration beside it where one lies beside the original.
///
/// # Errors
/// If it cannot be read or written.
pub fn keep_autoencoder(file: &Path, folder: &Path) -> anyhow::Result<()> {
    let copy = folder.join(AUTOENCODER);
    if let Some(config) = strata_autoencoder::config_file(file) {
        keep_copy(&config, &copy.with_extension("json"))?;
    }
    keep_copy(file, &copy)
}

/// Copies a file beside its place and renames it; an equal file that is there already stays.
///
/// # Errors
/// If it cannot be read or written.
fn keep_copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    if to.is_file() && sha256_file(from)? == sha256_file(to)? {
        return Ok(());
    }
    let data = std::fs::read(from).with_context(|| format!("{}", from.display()))?;
    Ok(strata_nn::weights::write_atomic(to, &data)?)
}
