//! `strata stages`

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;
use strata_datasets::{Dataset, DatasetOptions, LatentSet, Transform, prepare};
use strata_diffusion::{
    Error,
    model::Model,
    schedule::Schedule,
    stages::{
        DivideConfig, Division, EtaUnit, FileBytes, LatentPoints, Method, Points, Stages, divide as divide_points,
        divide_by_gradients,
    },
    training::{self, DiffusionTraining},
};
use strata_training::{
    settings::{Layers, resolve},
    sha256_file,
};

use super::{settings, stages_report as report};
use crate::{Outcome, args, context::Context, hint::hinted};

/// eta where none is given. The paper compares pixels of standard deviation 0.5 to within 2/256; in deviations that is 1/64.
const ETA_PIXELS: f64 = 2.0 / 256.0;
const ETA_DEVIATIONS: f64 = 1.0 / 64.0;
/// Pairs behind a gradient where their number is not given: a gradient costs far more than a similarity.
const GRADIENT_SAMPLES: usize = 256;
/// Pictures that are decoded at once on their way to the file that holds all of them.
const CHUNK: usize = 8192;

/// The command.
///
/// # Errors
/// Unusable data, settings or output; see the library.
pub fn run(args: &args::Stages, context: &Context) -> anyhow::Result<Outcome> {
    let request = Request::new(args)?;
    let network = args.preset.as_deref().map(preset).transpose()?;
    let Some(stages) = divide(&request, context)? else { return Ok(Outcome::Interrupted) };
    let advice = match (&network, args.budget) {
        (Some(network), Some(budget)) => Some(report::Decoders::new(&stages, network, request.source.shape()?, budget)?),
        _ => None,
    };
    if args.json {
        let mut answer = json!({ "out": args.out, "stages": stages.rows(), "file": stages });
        if let Some(advice) = &advice {
            answer["decoders"] = json!(advice);
        }
        println!("{answer}");
    } else {
        report::print_table(&stages);
        if let Some(advice) = &advice {
            advice.print();
        }
    }
    Ok(Outcome::Done)
}

fn preset(name: &str) -> anyhow::Result<DiffusionTraining> {
    let layers = Layers { preset: Some(settings::find(DiffusionTraining::PRESETS, name)?), ..Layers::default() };
    Ok(resolve(layers)?.0)
}

/// What is divided, how, and where to.
pub struct Request {
    source: Source,
    config: DivideConfig,
    /// Models whose gradients divide; none for the other methods.
    checkpoints: Vec<PathBuf>,
    /// Whether the schedule is the one of the first checkpoint.
    schedule_of_model: bool,
    out: PathBuf,
}

impl Request {
    /// Latents divided with the defaults into the file `out`.
    pub fn of_latents(latents: &Path, out: &Path) -> Self {
        let source = Source::Latents(latents.to_path_buf());
        let config = source.config();
        Self { config, source, checkpoints: Vec::new(), schedule_of_model: false, out: out.to_path_buf() }
    }

    fn new(args: &args::Stages) -> anyhow::Result<Self> {
        let source = match (&args.latents, &args.data) {
            (Some(latents), _) => Source::Latents(latents.clone()),
            (None, Some(data)) => Source::Pixels { data: data.clone(), options: args.reading.options(), size: args.size },
            (None, None) => anyhow::bail!("one of --latents and --data is needed"),
        };
        let method = method(args)?;
        let by_gradients = method == Some(Method::GradientAffinity);
        let config = DivideConfig {
            schedule: args.schedule.as_deref().map_or(Ok(Schedule::vp()), schedule)?,
            stages: args.stages,
            method,
            samples: args.samples.unwrap_or(if by_gradients { GRADIENT_SAMPLES } else { 2000 }),
            settled: args.settled,
            levels: args.levels,
            alpha: args.alpha,
            eta: args.eta.unwrap_or(source.default_eta()),
            ..source.config()
        };
        config.validate()?;
        let schedule_of_model = by_gradients && args.schedule.is_none();
        Ok(Self { source, config, checkpoints: args.checkpoint.clone(), schedule_of_model, out: args.out.clone() })
    }
}

/// The method that is asked for, after checking that it has what it needs.
fn method(args: &args::Stages) -> anyhow::Result<Option<Method>> {
    let named = args.method.as_deref().map(str::parse::<Method>).transpose()?;
    let by_gradients = named == Some(Method::GradientAffinity);
    match (named, args.checkpoint.is_empty()) {
        (None, false) => anyhow::bail!("--checkpoint is for --method gradient-affinity, which is not asked for"),
        (Some(_), false) if !by_gradients => anyhow::bail!("--checkpoint is for --method gradient-affinity alone"),
        (_, true) if by_gradients => Err(hinted(
            "--method gradient-affinity: needs the gradients of a trained network",
            "name a run of `strata train diffusion` with --checkpoint",
        )),
        _ if by_gradients && args.latents.is_none() => {
            Err(hinted("--method gradient-affinity: works on latents, on which models are trained", "give --latents"))
        }
        _ => Ok(named),
    }
}

/// A schedule by its name, or as an inline table with its constants.
fn schedule(text: &str) -> anyhow::Result<Schedule> {
    if !text.trim_start().starts_with('{') {
        return Ok(text.parse()?);
    }
    let table: toml::Table = toml::from_str(&format!("schedule = {text}")).context("--schedule")?;
    let value = table.get("schedule").cloned().context("--schedule")?;
    let schedule: Schedule = value.try_into().context("--schedule")?;
    schedule.validate()?;
    Ok(schedule)
}

/// Where the points come from.
enum Source {
    Latents(PathBuf),
    Pixels { data: String, options: DatasetOptions, size: usize },
}

impl Source {
    fn default_eta(&self) -> f64 {
        match self {
            Self::Latents(_) => ETA_DEVIATIONS,
            Self::Pixels { .. } => ETA_PIXELS,
        }
    }

    /// The defaults for this kind of points.
    fn config(&self) -> DivideConfig {
        let eta_unit = match self {
            Self::Latents(_) => EtaUnit::Deviation,
            Self::Pixels { .. } => EtaUnit::Plain,
        };
        DivideConfig { eta: self.default_eta(), eta_unit, ..DivideConfig::default() }
    }

    /// Channels, height and width of a point.
    fn shape(&self) -> anyhow::Result<[usize; 3]> {
        match self {
            Self::Pixels { size, .. } => Ok([3, *size, *size]),
            Self::Latents(dir) => {
                let set = LatentSet::open(dir)?;
                Ok([set.manifest().channels, set.manifest().height, set.manifest().width])
            }
        }
    }
}

/// Divides and writes the file, the curves and the similarity matrix beside it. A file of the same data and settings that is
/// there already is taken as it is. `None`: interrupted.
///
/// # Errors
/// As the library's; a file of another origin is not overwritten.
pub fn divide(request: &Request, context: &Context) -> anyhow::Result<Option<Stages>> {
    let seed = context.seed.unwrap_or(request.config.seed);
    let config = DivideConfig { seed, ..request.config.clone() };
    match &request.source {
        Source::Latents(dir) => {
            let set = LatentSet::open(dir)?;
            let config = DivideConfig { data_sha256: sha256_file(dir.join("manifest.json"))?, ..config };
            if config.method() == Method::GradientAffinity {
                return by_gradients(request, &set, config, context);
            }
            by_points(request, &config, context, &|| Ok(Some(Box::new(LatentPoints::new(&set)))))
        }
        Source::Pixels { data, options, size } => {
            let data = Dataset::open(data, options)?;
            let config = DivideConfig { data_sha256: data.fingerprint()?, ..config };
            by_points(request, &config, context, &|| pixels(&data, *size, &request.out, context))
        }
    }
}

/// What opens the points when they are needed; `None`: interrupted.
type OpenPoints<'a> = dyn Fn() -> anyhow::Result<Option<Box<dyn Points + 'a>>> + 'a;

fn by_points(request: &Request, config: &DivideConfig, context: &Context, open: &OpenPoints) -> anyhow::Result<Option<Stages>> {
    let out = &request.out;
    if out.exists() {
        return same_origin(out, config, &[]).map(Some);
    }
    let Some(points) = open()? else { return Ok(None) };
    let (progress, interrupt) = (context.progress.as_ref(), &context.interrupt);
    finish(divide_points(points.as_ref(), config, &context.device, progress, interrupt), out, &[], context)
}

fn by_gradients(request: &Request, set: &LatentSet, config: DivideConfig, context: &Context) -> anyhow::Result<Option<Stages>> {
    let files = request.checkpoints.iter().map(|c| Ok(training::weight_file(c)?)).collect::<anyhow::Result<Vec<_>>>()?;
    let hashes = files.iter().map(|file| Ok(sha256_file(file)?)).collect::<anyhow::Result<Vec<_>>>()?;
    let models = files.iter().map(|f| Ok(Model::load(f, &context.device)?)).collect::<anyhow::Result<Vec<_>>>()?;
    let schedule = match models.first() {
        Some(model) if request.schedule_of_model => model.config().schedule.clone(),
        _ => config.schedule.clone(),
    };
    let config = DivideConfig { schedule, ..config };
    if request.out.exists() {
        return same_origin(&request.out, &config, &hashes).map(Some);
    }
    let division = divide_by_gradients(&models, set, &config, context.progress.as_ref(), &context.interrupt);
    finish(division, &request.out, &hashes, context)
}

/// All pictures of `data` as points, in an unnamed file beside `out`: they need not fit in memory. `None`: interrupted.
fn pixels(data: &Dataset, size: usize, out: &Path, context: &Context) -> anyhow::Result<Option<Box<dyn Points>>> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let file = tempfile::tempfile_in(folder).with_context(|| format!("{}", folder.display()))?;
    match spool(data, size, CHUNK, file, &|| context.interrupt.is_set())? {
        Some(file) => Ok(Some(Box::new(FileBytes::pixels(file, size * size * 3)?))),
        None => Ok(None),
    }
}

/// Writes the pixels of all pictures into `file`, `chunk` pictures at a time; `None` when `stop` says so.
fn spool(data: &Dataset, size: usize, chunk: usize, mut file: File, stop: &dyn Fn() -> bool) -> anyhow::Result<Option<File>> {
    let all: Vec<usize> = (0..data.len()).collect();
    for part in all.chunks(chunk) {
        if stop() {
            return Ok(None);
        }
        file.write_all(&prepare(data, part, &Transform::new(size), 0.01, &|_| ())?.images)?;
    }
    file.flush()?;
    Ok(Some(file))
}

fn finish(
    division: strata_diffusion::Result<Division>,
    out: &Path,
    checkpoints: &[String],
    context: &Context,
) -> anyhow::Result<Option<Stages>> {
    let mut division = match division {
        Err(Error::Interrupted) => return Ok(None),
        other => other?,
    };
    division.stages.parameters.checkpoints_sha256 = checkpoints.to_vec();
    if division.settled {
        context.say(format!("settled after {} pairs", division.stages.parameters.samples));
    }
    if let Some(folder) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    if !division.curves.t.is_empty() {
        report::curves(&division).write(&out.with_extension("png"))?;
    }
    if !division.matrix.values.is_empty() {
        report::matrix(&division).write(&out.with_extension("similarity.png"))?;
    }
    division.stages.save(out)?;
    Ok(Some(division.stages))
}

/// The stages in a file that an equal call wrote.
fn same_origin(out: &Path, config: &DivideConfig, checkpoints: &[String]) -> anyhow::Result<Stages> {
    let there = Stages::load(out)?;
    let p = &there.parameters;
    let asked_eta = match config.eta_unit {
        EtaUnit::Plain => config.eta,
        EtaUnit::Deviation => config.eta * p.deviation.unwrap_or(1.0),
    };
    // What the method did not use is not compared.
    let of = |there: Option<f64>, asked: f64| (format!("{:?}", there.unwrap_or(asked)), format!("{asked:?}"));
    let count = |there: Option<usize>, asked: usize| (there.unwrap_or(asked).to_string(), asked.to_string());
    let compared = [
        ("data_sha256", (there.data_sha256.clone(), config.data_sha256.clone())),
        ("stages", (there.count().to_string(), config.stages.to_string())),
        ("method", (format!("{:?}", there.method), format!("{:?}", config.method()))),
        ("schedule", (format!("{:?}", there.schedule), format!("{:?}", config.schedule))),
        ("alpha", of(p.alpha, config.alpha)),
        ("eta", of(p.eta, asked_eta)),
        ("samples", count(p.most_samples, config.samples)),
        ("settled", of(p.settled, config.settled)),
        ("levels", count(p.levels, config.levels)),
        ("seed", (p.seed.to_string(), config.seed.to_string())),
        ("checkpoints_sha256", (p.checkpoints_sha256.join(", "), checkpoints.join(", "))),
    ];
    match compared.into_iter().find(|(_, (there, asked))| there != asked) {
        None => Ok(there),
        Some((key, (there, asked))) => Err(hinted(
            format!("{}: was computed from something else: `{key}` is {there} there, but {asked} was asked for", out.display()),
            "choose another --out, or remove the file",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pixels_in_a_file_are_those_in_memory() {
        let data = Dataset::open("emoji", &DatasetOptions::default()).unwrap();
        let (size, all) = (8, (0..data.len()).collect::<Vec<_>>());
        let memory = prepare(&data, &all, &Transform::new(size), 0.01, &|_| ()).unwrap().images;
        let file = spool(&data, size, 500, tempfile::tempfile().unwrap(), &|| false).unwrap().unwrap();
        let file = FileBytes::pixels(file, size * size * 3).unwrap();
        let mut got = vec![0.0; memory.len()];
        file.read(0, &mut got).unwrap();
        assert!(memory.iter().zip(got).all(|(&m, g)| (f64::from(m) / 127.5 - 1.0 - g).abs() < 1e-15));
        assert!(spool(&data, size, 500, tempfile::tempfile().unwrap(), &|| true).unwrap().is_none());
    }

    #[test]
    fn schedules_by_name_and_with_constants() {
        assert_eq!(schedule("edm").unwrap(), "edm".parse().unwrap());
        let given = schedule("{ kind = \"ve\", sigma_min = 0.1, sigma_max = 50.0 }").unwrap();
        assert_eq!(given, Schedule::Ve { sigma_min: 0.1, sigma_max: 50.0 });
        for wrong in ["{ kind = \"ve\", sigma_min = 2.0, sigma_max = 1.0 }", "{ kind = \"vee\" }", "{", "vee"] {
            assert!(schedule(wrong).is_err(), "{wrong}");
        }
    }
}
