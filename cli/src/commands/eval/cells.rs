//! Many measurements of models, each kept as soon as it is made: a command that was stopped goes on with those that are missing.

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strata_diffusion::{
    evaluation::{collect::Keep, extractor::Extractor, frechet::Prepared},
    sampler::Sampler,
};
use strata_training::sha256_file;

use super::{
    Asked, measure, network,
    points::Subject,
    reference::{self, Reference},
    samples, warnings,
};
use crate::{
    args,
    args::Metric,
    commands::{
        images::Taken,
        sample::{self, Painter},
    },
    context::Context,
    hint::hinted,
    lines::whole_lines,
};

/// Where measurements are kept, one a line.
const LOG: &str = "cells.jsonl";

/// How a model draws in one measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawing {
    /// Solver.
    pub sampler: Sampler,
    /// Its steps.
    pub steps: usize,
    /// Strength of guidance; absent: the default.
    pub guidance: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Fréchet distance of the samples.
    pub distance: f64,
    /// Evaluations of the network an image, those of guidance included.
    pub evaluations: f64,
    /// Billions of floating-point operations an image, two to a multiply-accumulate: of each evaluation, the encoder and the decoder
    /// of its stage.
    pub gflops: f64,
    /// What measuring took.
    pub seconds: f64,
}

/// Everything that measurements share.
pub struct Bench<'a> {
    args: &'a args::Compared,
    context: &'a Context,
    network: Box<dyn Extractor>,
    reference: Reference,
    theirs: Prepared,
    log: PathBuf,
    done: Vec<(Value, Measured)>,
    told: bool,
}

impl<'a> Bench<'a> {
    /// Opens the folder and describes the reference.
    ///
    /// # Errors
    /// If the folder holds something else; a network or reference that cannot be used.
    pub fn open(args: &'a args::Compared, context: &'a Context) -> anyhow::Result<Self> {
        ensure!(args.num >= 2, "--num: expected 2 or more samples, got {}", args.num);
        let asked = if args.network.which.extractor.is_some() { Asked::Distance } else { Asked::Metric(Metric::Fid) };
        let network = network::load(&args.network.which, asked, context)?;
        let wanted = reference::Asked { against: &args.against, network: &args.network, reading: &args.reading };
        let log = args.out.join(LOG);
        let done = open_log(&args.out, &log)?;
        let reference = Reference::load(&wanted, network.as_ref(), Keep::default(), context)?;
        let theirs = Prepared::new(&reference.stored.features)?;
        Ok(Self { args, context, network, reference, theirs, log, done, told: false })
    }

    /// What the distance is called.
    pub fn distance_name(&self) -> &'static str {
        network::frechet_name(self.network.as_ref(), "fid")
    }

    /// What all measurements share, for the answer.
    pub fn describe(&self) -> Value {
        json!({
            "strata": env!("CARGO_PKG_VERSION"), "network": self.network.identity(), "reference": self.reference.describe(),
            "num": self.args.num, "seeds": [0, self.args.num],
        })
    }

    /// The measurements of one model, in the order of `drawings`; those that are kept are not made again.
    ///
    /// # Errors
    /// As the libraries'; what was measured before is kept.
    pub fn measure(&mut self, subject: &Subject, drawings: &[Drawing]) -> anyhow::Result<Vec<Measured>> {
        let mut painter: Option<Painter> = None;
        let mut all = Vec::new();
        for drawing in drawings {
            let key = self.key(subject, drawing)?;
            if let Some((_, measured)) = self.done.iter().find(|(k, _)| *k == key) {
                all.push(measured.clone());
                continue;
            }
            let painter = match &mut painter {
                Some(painter) => painter,
                none => none.insert(subject.load(&self.args.told, self.context)?),
            };
            self.say(subject, drawing);
            let measured = self.one(painter, drawing)?;
            append(&self.log, &json!({ "key": key, "measured": measured }))?;
            self.done.push((key, measured.clone()));
            all.push(measured);
        }
        Ok(all)
    }

    fn say(&self, subject: &Subject, drawing: &Drawing) {
        let at = subject.seen_images().map_or(String::new(), |seen| format!(" at {seen} images, average {}", subject.average()));
        let guidance = drawing.guidance.map_or(String::new(), |g| format!(", guidance {g}"));
        self.context.say(format!("{}{at}: {}, {} steps{guidance}", subject.name.display(), drawing.sampler, drawing.steps));
    }

    fn one(&mut self, painter: &Painter, drawing: &Drawing) -> anyhow::Result<Measured> {
        let began = Instant::now();
        let (solver, wish) = self.typed(drawing);
        let seeds = (0..self.args.num as u64).collect();
        let (options, _) = sample::options(painter, (&solver, &wish), seeds, self.args.network.batch, self.context)?;
        let (seen, cost) = samples::draw(painter, &options, self.network.as_ref(), Keep::default(), self.context)?;
        if !std::mem::replace(&mut self.told, true) {
            warnings::tell(&seen, self.network.identity().features, &[Metric::Fid], self.context);
        }
        let evaluations: u64 = cost.evaluations_per_stage.iter().chain(&cost.worse_evaluations_per_stage).sum();
        let per_image = |n: u64| n as f64 / self.args.num as f64;
        Ok(Measured {
            distance: measure::distance(&seen.moments, &self.theirs)?.distance,
            evaluations: per_image(evaluations),
            gflops: 2e-9 * per_image(cost.macs),
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    /// The same as it would be typed for `strata sample`.
    fn typed(&self, drawing: &Drawing) -> (args::Solver, args::Wish) {
        let levels = self.args.levels.clone();
        let solver = args::Solver { steps: drawing.steps, sampler: drawing.sampler.to_string(), levels };
        (solver, args::Wish { guidance: drawing.guidance, told: self.args.told.clone() })
    }

    /// Everything that decides a number.
    fn key(&self, subject: &Subject, drawing: &Drawing) -> anyhow::Result<Value> {
        let (levels, told) = (&self.args.levels, &self.args.told);
        let (_, wish) = self.typed(drawing);
        let file_sha256 = |file: &Option<PathBuf>| file.as_deref().map(sha256_of).transpose();
        let like = told.like.as_deref().map(|path| Taken::new(path, &[])?.sha256()).transpose()?;
        let mut key = json!({
            "model_sha256": subject.sha256, "sampler": drawing.sampler.to_string(), "steps": drawing.steps,
            "guidance": sample::guidance_scale(&wish), "num": self.args.num,
            "grid": levels.grid, "sigma_min": levels.sigma_min, "sigma_max": levels.sigma_max,
            "class": told.class, "attributes": told.attributes, "prompt": told.prompt, "prompts": file_sha256(&told.prompts)?,
            "negative_prompt": told.negative_prompt, "negative_class": told.negative_class,
            "guidance_interval": told.guidance_interval, "guidance_rescale": told.guidance_rescale,
            "autoguidance_sha256": file_sha256(&told.autoguidance)?,
            "reference_sha256": self.reference.sha256, "network": self.network.identity(),
        });
        if let Some(like) = like {
            key["like_sha256"] = json!(like);
        }
        Ok(key)
    }
}

fn sha256_of(path: &Path) -> anyhow::Result<String> {
    let file = if path.is_dir() { strata_diffusion::training::weight_file(path)? } else { path.to_path_buf() };
    Ok(sha256_file(&file)?)
}

/// What is measured already.
fn open_log(folder: &Path, log: &Path) -> anyhow::Result<Vec<(Value, Measured)>> {
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be created", folder.display()))?;
    if !log.is_file() && std::fs::read_dir(folder)?.next().is_some() {
        let message = format!("{}: is not empty and holds no measurements of Strata", folder.display());
        return Err(hinted(message, "choose another --out"));
    }
    let entry = |line: String| -> anyhow::Result<(Value, Measured)> {
        let mut line: Value = serde_json::from_str(&line).with_context(|| log.display().to_string())?;
        let measured = serde_json::from_value(line["measured"].take()).with_context(|| log.display().to_string())?;
        Ok((line["key"].take(), measured))
    };
    whole_lines(log)?.into_iter().map(entry).collect()
}

fn append(log: &Path, line: &Value) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(log)?;
        file.write_all(format!("{line}\n").as_bytes())?;
        file.sync_data()
    };
    write().with_context(|| log.display().to_string())
}
