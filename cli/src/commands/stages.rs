//! `strata stages`

use std::path::{Path, PathBuf};

use serde_json::json;
use strata_datasets::{Dataset, DatasetOptions, LatentSet, Transform, prepare};
use strata_diffusion::{
    Error,
    schedule::Schedule,
    stages::{Bytes, DivideConfig, Division, EtaUnit, LatentPoints, Points, Stages, divide as divide_points},
};
use strata_training::sha256_file;

use crate::{
    Outcome, args,
    context::Context,
    hint::hinted,
    plot::{Curve, HeatMap, LinePlot},
};

/// eta where none is given. The paper compares pixels of standard deviation 0.5 to within 2/256; in deviations that is 1/64.
const ETA_PIXELS: f64 = 2.0 / 256.0;
const ETA_DEVIATIONS: f64 = 1.0 / 64.0;

/// The command.
///
/// # Errors
/// Unusable data, settings or output; see the library.
pub fn run(args: &args::Stages, context: &Context) -> anyhow::Result<Outcome> {
    let source = match (&args.latents, &args.data) {
        (Some(latents), _) => Source::Latents(latents.clone()),
        (None, Some(data)) => Source::Pixels { data: data.clone(), options: args.reading.options(), size: args.size },
        (None, None) => anyhow::bail!("one of --latents and --data is needed"),
    };
    let config = DivideConfig {
        schedule: args.schedule.parse::<Schedule>()?,
        stages: args.stages,
        samples: args.samples,
        alpha: args.alpha,
        eta: args.eta.unwrap_or(source.default_eta()),
        ..source.config()
    };
    let request = Request { source, config, out: args.out.clone() };
    let Some(stages) = divide(&request, context)? else { return Ok(Outcome::Interrupted) };
    if args.json {
        println!("{}", json!({ "out": args.out, "stages": stages.rows(), "file": stages }));
    } else {
        print_table(&stages);
    }
    Ok(Outcome::Done)
}

/// What is divided, how, and where to.
pub struct Request {
    source: Source,
    config: DivideConfig,
    out: PathBuf,
}

impl Request {
    /// Latents divided with the defaults into the file `out`.
    pub fn of_latents(latents: &Path, out: &Path) -> Self {
        let source = Source::Latents(latents.to_path_buf());
        Self { config: source.config(), source, out: out.to_path_buf() }
    }
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
            finish(&LatentPoints::new(&set), &config, &request.out, context)
        }
        Source::Pixels { data, options, size } => {
            let data = Dataset::open(data, options)?;
            let all: Vec<usize> = (0..data.len()).collect();
            let pictures = prepare(&data, &all, &Transform::new(*size), 0.01, &|_| ())?;
            let config = DivideConfig { data_sha256: data.fingerprint()?, ..config };
            finish(&Bytes::pixels(&pictures.images, size * size * 3)?, &config, &request.out, context)
        }
    }
}

fn finish(points: &dyn Points, config: &DivideConfig, out: &Path, context: &Context) -> anyhow::Result<Option<Stages>> {
    if out.exists() {
        return same_origin(out, config).map(Some);
    }
    let division = match divide_points(points, config, context.progress.as_ref(), &context.interrupt) {
        Err(Error::Interrupted) => return Ok(None),
        other => other?,
    };
    if let Some(folder) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    curves(&division).write(&out.with_extension("png"))?;
    if !division.matrix.values.is_empty() {
        matrix(&division).write(&out.with_extension("similarity.png"))?;
    }
    division.stages.save(out)?;
    Ok(Some(division.stages))
}

/// The stages in a file that an equal call wrote.
fn same_origin(out: &Path, config: &DivideConfig) -> anyhow::Result<Stages> {
    let there = Stages::load(out)?;
    let difference = [
        ("data_sha256", there.data_sha256.clone(), config.data_sha256.clone()),
        ("stages", there.count().to_string(), config.stages.to_string()),
        ("schedule", format!("{:?}", there.schedule), format!("{:?}", config.schedule)),
        ("alpha", format!("{:?}", there.parameters.alpha.unwrap_or(config.alpha)), format!("{:?}", config.alpha)),
        ("seed", there.parameters.seed.to_string(), config.seed.to_string()),
    ]
    .into_iter()
    .find(|(_, there, asked)| there != asked);
    match difference {
        None => Ok(there),
        Some((key, there, asked)) => Err(hinted(
            format!("{}: was computed from something else: `{key}` is {there} there, but {asked} was asked for", out.display()),
            "choose another --out, or remove the file",
        )),
    }
}

fn print_table(stages: &Stages) {
    println!("stage  sigma              t                  95 % of the upper boundary, t");
    for row in stages.rows() {
        let interval = row.interval_t.map_or(String::new(), |[a, b]| format!("{a:.4} to {b:.4}"));
        println!(
            "{:<6} {:<18} {:<18} {interval}",
            row.stage,
            format!("{:.4} - {:.4}", row.sigma_low, row.sigma_high),
            format!("{:.4} - {:.4}", row.t_low, row.t_high)
        );
    }
}

/// Similarity to both ends over t, with the boundaries.
fn curves(division: &Division) -> LinePlot {
    let c = &division.curves;
    let curve = |name: &str, values: &[f64]| Curve {
        name: name.to_string(),
        points: c.t.iter().copied().zip(values.iter().copied()).collect(),
    };
    LinePlot {
        title: "Optimal denoiser: similarity to".to_string(),
        x_label: "t of the schedule".to_string(),
        y_label: "share of coordinates that agree".to_string(),
        curves: vec![
            curve("data end", &c.to_data),
            curve("noise end", &c.to_noise),
            curve("data, running mean", &c.running_to_data),
            curve("noise, running mean", &c.running_to_noise),
        ],
        boundaries: division.stages.boundaries_t.clone(),
        ..LinePlot::default()
    }
}

fn matrix(division: &Division) -> HeatMap {
    let m = &division.matrix;
    let n = m.t.len();
    let ticks: Vec<(usize, String)> = (0..n).step_by((n / 5).max(1)).map(|i| (i, format!("{:.2}", m.t[i]))).collect();
    HeatMap {
        title: "Similarity of the optimal denoiser between noise levels".to_string(),
        x_label: "t".to_string(),
        y_label: "t".to_string(),
        rows: m.values.chunks(n).map(<[f64]>::to_vec).collect(),
        x_ticks: ticks.clone(),
        y_ticks: ticks,
        range: Some((0.0, 1.0)),
    }
}
