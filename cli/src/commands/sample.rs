//! `strata sample`

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;
use strata_autoencoder::LoadedAutoencoder;
use strata_datasets::RgbImage;
use strata_diffusion::{
    Error,
    model::Model,
    sampler::Sampler,
    sampling::{SampleCost, SampleOptions, sample},
    training,
};
use strata_training::sha256_file;

use super::{
    seeds,
    train_diffusion::{AUTOENCODER, check_autoencoder},
};
use crate::{Outcome, args, context::Context, grid, hint::hinted};

/// Guidance when a class is asked for and no scale is given.
pub const DEFAULT_GUIDANCE: f64 = 2.0;
/// Pictures that still make a grid worth looking at.
const MAX_GRID: usize = 400;
/// What a folder of pictures was drawn with.
const ORIGIN: &str = "sampling.json";

/// The command.
///
/// # Errors
/// A model, autoencoder or option that cannot be used; an output folder of another origin.
pub fn run(args: &args::Sample, context: &Context) -> anyhow::Result<Outcome> {
    let painter = Painter::load(&args.model, args.autoencoder.as_deref(), context)?;
    let seeds = seeds::parse(&args.seeds)?;
    let labels = labels(&painter.model, args.class.as_deref(), &seeds)?;
    let guidance = args.guidance.unwrap_or(if args.class.is_some() { DEFAULT_GUIDANCE } else { 1.0 });
    let options = SampleOptions {
        seeds,
        labels,
        batch: args.batch,
        steps: args.steps,
        sampler: args.sampler.parse::<Sampler>()?,
        guidance,
        sigma_min: args.sigma_min,
        sigma_max: args.sigma_max,
    };
    let drawn = match draw(&painter, &options, args.columns, &args.out, context) {
        Err(e) if matches!(e.downcast_ref(), Some(Error::Interrupted)) => return Ok(Outcome::Interrupted),
        other => other?,
    };
    report(&drawn, &options, args, context)?;
    Ok(Outcome::Done)
}

/// A model and the autoencoder that turns its latents into pictures.
pub struct Painter {
    /// The diffusion model.
    pub model: Model,
    /// SHA-256 of its weight file.
    pub model_sha256: String,
    /// The autoencoder of its latents.
    pub autoencoder: LoadedAutoencoder,
}

impl Painter {
    /// From a run directory or weight file; the autoencoder is the one kept beside it, or the given one.
    ///
    /// # Errors
    /// If one of them cannot be read, or they do not belong together.
    pub fn load(path: &Path, autoencoder: Option<&Path>, context: &Context) -> anyhow::Result<Self> {
        let file = training::weight_file(path)?;
        let model = Model::load(&file, &context.device)?;
        let beside = if path.is_dir() { path.join(AUTOENCODER) } else { path.with_file_name(AUTOENCODER) };
        let given = autoencoder.map_or(beside, Path::to_path_buf);
        if autoencoder.is_none() && !given.is_file() {
            let hint = "name the autoencoder of its latents with --autoencoder";
            return Err(hinted(format!("{}: there is no {AUTOENCODER} beside the model", path.display()), hint));
        }
        let weights = strata_autoencoder::weight_file(&given)?;
        check_autoencoder(&weights, &model.config().latents.autoencoder_sha256)?;
        let autoencoder = strata_autoencoder::load(&weights, &context.device)?;
        Ok(Self { model, model_sha256: sha256_file(&file)?, autoencoder })
    }
}

/// The pictures of a call, by seed, and what the new ones cost.
pub struct Drawn {
    /// All that were asked for, in the order of the seeds.
    pub images: Vec<RgbImage>,
    /// Those that were not there before.
    pub new: usize,
    /// Evaluations for the new ones.
    pub cost: SampleCost,
    /// Seconds for the new ones.
    pub seconds: f64,
}

/// Draws the pictures that are not yet in the folder `out`, one PNG per seed, then a grid of all.
///
/// # Errors
/// If the folder holds pictures of another origin; as the libraries'.
pub fn draw(
    painter: &Painter,
    options: &SampleOptions,
    columns: Option<usize>,
    out: &Path,
    context: &Context,
) -> anyhow::Result<Drawn> {
    options.validate(&painter.model)?;
    settle_origin(painter, options, out)?;
    let mut images = load_present(options, out)?;
    let missing = without(options, &images);
    let began = std::time::Instant::now();
    let mut on_batch = |first: usize, x: &candle_core::Tensor| -> strata_diffusion::Result<()> {
        let batch = decode_batch(painter, x).map_err(|e| Error::Config(format!("{e:#}")))?;
        for (seed, image) in missing.seeds[first..].iter().zip(batch) {
            grid::write_png(&image, &picture(out, *seed)).map_err(|e| Error::Config(format!("{e:#}")))?;
            images.insert(*seed, image);
        }
        Ok(())
    };
    let cost = if missing.seeds.is_empty() {
        SampleCost { evaluations_per_stage: vec![0; painter.model.stages()] }
    } else {
        sample(&painter.model, &missing, context.progress.as_ref(), &context.interrupt, &mut on_batch)?
    };
    let seconds = began.elapsed().as_secs_f64();
    write_listing(painter, options, out)?;
    let images: Vec<RgbImage> = options.seeds.iter().filter_map(|s| images.remove(s)).collect();
    if images.len() <= MAX_GRID {
        grid::write_grid(&images, columns.unwrap_or_else(|| grid::square(images.len())), &out.join("grid.png"))?;
    }
    Ok(Drawn { images, new: missing.seeds.len(), cost, seconds })
}

fn decode_batch(painter: &Painter, x: &candle_core::Tensor) -> anyhow::Result<Vec<RgbImage>> {
    let z = painter.model.config().latents.undo(x)?;
    Ok(strata_autoencoder::decode_latents(&painter.autoencoder, &z)?)
}

/// Where the picture of a seed lies.
fn picture(out: &Path, seed: u64) -> PathBuf {
    out.join(format!("{seed:06}.png"))
}

/// Creates the folder and writes down what it is drawn with, or compares it with what is written there.
fn settle_origin(painter: &Painter, options: &SampleOptions, out: &Path) -> anyhow::Result<()> {
    let origin = json!({
        "model_sha256": painter.model_sha256,
        "sampler": options.sampler.to_string(),
        "steps": options.steps,
        "guidance": options.guidance,
        "sigma_min": options.sigma_min,
        "sigma_max": options.sigma_max,
    });
    std::fs::create_dir_all(out).with_context(|| format!("{}: cannot be created", out.display()))?;
    let file = out.join(ORIGIN);
    if !file.is_file() {
        if std::fs::read_dir(out)?.next().is_some() {
            return Err(hinted(
                format!("{}: is not empty and holds no samples of Strata", out.display()),
                "choose another --out",
            ));
        }
        return Ok(strata_nn::weights::write_atomic(&file, serde_json::to_string_pretty(&origin)?.as_bytes())?);
    }
    let there: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file)?).with_context(|| format!("{}", file.display()))?;
    for (key, asked) in origin.as_object().into_iter().flatten() {
        if there.get(key) != Some(asked) {
            let found = there.get(key).map_or("nothing".to_string(), ToString::to_string);
            let message = format!(
                "{}: holds samples of another origin: `{key}` is {found} there, but {asked} was asked for",
                out.display()
            );
            return Err(hinted(message, "choose another --out"));
        }
    }
    Ok(())
}

/// The pictures that an earlier call left, after checking that each was of the class that is asked for now.
fn load_present(options: &SampleOptions, out: &Path) -> anyhow::Result<BTreeMap<u64, RgbImage>> {
    let listed = read_listing(out)?;
    let mut images = BTreeMap::new();
    for (seed, label) in options.seeds.iter().zip(&options.labels) {
        let file = picture(out, *seed);
        if !file.is_file() {
            continue;
        }
        if let Some(there) = listed.get(seed).filter(|there| *there != label) {
            let words = |l: &Option<u32>| l.map_or("no class".to_string(), |c| format!("class {c}"));
            let message = format!("{}: was drawn with {}, but {} was asked for", file.display(), words(there), words(label));
            return Err(hinted(message, "choose another --out or other seeds"));
        }
        images.insert(*seed, grid::read_png(&file)?);
    }
    Ok(images)
}

/// The options for the seeds that are not in `present`.
fn without(options: &SampleOptions, present: &BTreeMap<u64, RgbImage>) -> SampleOptions {
    let rows = options.seeds.iter().zip(&options.labels).filter(|(seed, _)| !present.contains_key(seed));
    let (seeds, labels) = rows.map(|(s, l)| (*s, *l)).unzip();
    SampleOptions { seeds, labels, ..options.clone() }
}

const LISTING: &str = "samples.jsonl";

fn read_listing(out: &Path) -> anyhow::Result<BTreeMap<u64, Option<u32>>> {
    let file = out.join(LISTING);
    if !file.is_file() {
        return Ok(BTreeMap::new());
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("{}", file.display()))?;
    let rows = text.lines().map(|line| -> anyhow::Result<_> {
        let row: serde_json::Value = serde_json::from_str(line).with_context(|| format!("{}", file.display()))?;
        let label = row["label"].as_u64().map(|v| v as u32);
        Ok((row["seed"].as_u64().with_context(|| format!("{}: a line has no seed", file.display()))?, label))
    });
    rows.collect()
}

/// Writes seed, file and class of every picture in the folder, earlier ones included.
fn write_listing(painter: &Painter, options: &SampleOptions, out: &Path) -> anyhow::Result<()> {
    let mut rows = read_listing(out)?;
    rows.extend(options.seeds.iter().copied().zip(options.labels.iter().copied()));
    let names = &painter.model.config().class_names;
    let line = |(seed, label): (&u64, &Option<u32>)| {
        let class = label.and_then(|l| names.get(l as usize));
        json!({ "seed": seed, "file": format!("{seed:06}.png"), "label": label, "class": class }).to_string() + "\n"
    };
    let text: String = rows.iter().map(line).collect();
    Ok(strata_nn::weights::write_atomic(&out.join(LISTING), text.as_bytes())?)
}

/// One label per seed: none, one class by name or number, or all classes in turn.
///
/// # Errors
/// If the model is unconditional or does not know the class; the nearest name is offered.
pub fn labels(model: &Model, class: Option<&str>, seeds: &[u64]) -> anyhow::Result<Vec<Option<u32>>> {
    let config = model.config();
    let Some(class) = class else { return Ok(vec![None; seeds.len()]) };
    if config.classes == 0 {
        return Err(hinted("--class: the model is unconditional", "leave --class out, or train with class_conditional = true"));
    }
    if class == "all" {
        return Ok((0..seeds.len()).map(|i| Some((i % config.classes) as u32)).collect());
    }
    let by_name = config.class_names.iter().position(|n| n.eq_ignore_ascii_case(class));
    let by_number = class.parse::<usize>().ok().filter(|n| *n < config.classes);
    match by_name.or(by_number) {
        Some(label) => Ok(vec![Some(label as u32); seeds.len()]),
        None => Err(unknown_class(class, &config.class_names, config.classes)),
    }
}

fn unknown_class(class: &str, names: &[String], classes: usize) -> anyhow::Error {
    let wanted = class.to_lowercase();
    let nearest = names.iter().max_by(|a, b| {
        let score = |name: &str| strsim::jaro_winkler(&wanted, &name.to_lowercase());
        score(a).total_cmp(&score(b))
    });
    let near = nearest.map_or(String::new(), |n| format!("; the nearest is `{n}`"));
    hinted(format!("--class: there is no class `{class}`{near}"), format!("classes 0 to {}: {}", classes - 1, names.join(", ")))
}

fn report(drawn: &Drawn, options: &SampleOptions, args: &args::Sample, context: &Context) -> anyhow::Result<()> {
    let per_image = drawn.seconds / drawn.new.max(1) as f64;
    if args.json {
        let answer = json!({
            "out": args.out, "images": drawn.images.len(), "new": drawn.new, "seconds_per_image": per_image,
            "evaluations_per_stage": drawn.cost.evaluations_per_stage, "steps": options.steps, "guidance": options.guidance,
        });
        println!("{answer}");
        return Ok(());
    }
    println!("{}: {} images, {} of them new", args.out.display(), drawn.images.len(), drawn.new);
    if drawn.new > 0 {
        context.say(format!(
            "{per_image:.2} s an image; evaluations per stage, stage 1 (nearest the data) first: {:?}",
            drawn.cost.evaluations_per_stage
        ));
    }
    Ok(())
}
