//! Where the samples are from: files, or a model that draws them now.

use std::{collections::BTreeMap, ops::Range};

use anyhow::ensure;
use candle_core::Tensor;
use serde_json::{Value, json};
use strata_datasets::Dataset;
use strata_diffusion::{
    Error,
    evaluation::{
        collect::{self, Collected, Collector, Keep, Reading},
        extractor::Extractor,
    },
    sampling::{Receiver, SampleCost, SampleOptions, Sampling},
};

use crate::{
    args,
    commands::sample::{self, Painter},
    context::Context,
};

/// The samples.
pub enum Samples {
    /// Images of a data set, and which of them.
    Files(Dataset, Vec<usize>),
    /// A model, and how many it draws.
    Drawn(Box<Painter>, usize),
}

impl Samples {
    /// What the arguments name.
    ///
    /// # Errors
    /// If it cannot be opened, or holds fewer samples than asked for.
    pub fn open(args: &args::Measure, context: &Context) -> anyhow::Result<Self> {
        if let (Some(run), num) = (&args.run, args.num.unwrap_or(0)) {
            ensure!(num > 0, "--num: expected 1 or more samples, got {num}");
            let painter = Painter::load(run, None, args.wish.told.autoguidance.as_deref(), context)?;
            return Ok(Self::Drawn(Box::new(painter), num));
        }
        let data = Dataset::open(args.samples.as_deref().unwrap_or_default(), &args.reading.options())?;
        let indices = first(&data, args.num)?;
        Ok(Self::Files(data, indices))
    }

    /// Describes all of them; `repeat`: which block of seeds, for a model.
    ///
    /// # Errors
    /// As the libraries'.
    pub fn collect(
        &self,
        repeat: usize,
        network: &dyn Extractor,
        keep: Keep,
        args: &args::Measure,
        context: &Context,
    ) -> anyhow::Result<Collected> {
        let (painter, num) = match self {
            Self::Files(data, indices) => {
                return read(&reading(data, indices, &args.network, args.against.max_bad), network, keep, context);
            }
            Self::Drawn(painter, num) => (painter, *num),
        };
        let seeds = seeds(repeat, num).collect();
        let (options, _) = sample::options(painter, (&args.solver, &args.wish), seeds, args.network.batch, context)?;
        Ok(draw(painter, &options, network, keep, context)?.0)
    }

    /// For the answer.
    pub fn describe(&self, repeat: usize, seen: &Collected, args: &args::Measure) -> Value {
        let mut value = match self {
            Self::Files(data, indices) => json!({ "source": data.spec(), "asked": indices.len() }),
            Self::Drawn(painter, num) => {
                let (seeds, solver, told) = (seeds(repeat, *num), &args.solver, &args.wish.told);
                json!({
                    "model_sha256": painter.model_sha256, "seeds": [seeds.start, seeds.end],
                    "sampler": solver.sampler, "steps": solver.steps, "grid": solver.levels.grid,
                    "sigma_min": solver.levels.sigma_min, "sigma_max": solver.levels.sigma_max,
                    "guidance": sample::guidance_scale(&args.wish), "class": told.class, "attributes": told.attributes,
                    "prompt": told.prompt, "prompts": told.prompts,
                    "guidance_interval": told.guidance_interval, "guidance_rescale": told.guidance_rescale,
                    "autoguidance_sha256": painter.worse.as_ref().map(|(_, sha256)| sha256),
                })
            }
        };
        let sizes: BTreeMap<String, u64> = seen.sizes.iter().map(|((w, h), n)| (format!("{w}x{h}"), *n)).collect();
        value["count"] = json!(seen.moments.count());
        value["sizes"] = json!(sizes);
        value["unreadable"] = json!(seen.bad.iter().map(|(key, _)| key).collect::<Vec<_>>());
        value
    }
}

fn seeds(repeat: usize, num: usize) -> Range<u64> {
    (repeat * num) as u64..((repeat + 1) * num) as u64
}

/// Positions of the first `num` images, or of all.
///
/// # Errors
/// If there are fewer.
pub fn first(data: &Dataset, num: Option<usize>) -> anyhow::Result<Vec<usize>> {
    let n = num.unwrap_or(data.len());
    ensure!(n > 0 && n <= data.len(), "{}: expected {n} images (at least 1), got {}", data.spec(), data.len());
    Ok((0..n).collect())
}

/// What to read of a data set.
pub fn reading<'a>(data: &'a Dataset, indices: &'a [usize], network: &args::Network, max_bad: f64) -> Reading<'a> {
    Reading { data, indices, batch: network.batch, max_bad }
}

/// Describes images of a data set.
///
/// # Errors
/// As the library's.
pub fn read(reading: &Reading<'_>, network: &dyn Extractor, keep: Keep, context: &Context) -> anyhow::Result<Collected> {
    let mut collector = Collector::new(network, keep);
    collect::read(&mut collector, reading, context.progress.as_ref(), &context.interrupt)?;
    Ok(collector.finish())
}

/// Draws samples and describes them, and says what drawing them cost.
///
/// # Errors
/// As the library's.
pub fn draw(
    painter: &Painter,
    options: &SampleOptions,
    network: &dyn Extractor,
    keep: Keep,
    context: &Context,
) -> anyhow::Result<(Collected, SampleCost)> {
    let worse = painter.worse.as_ref().map(|(model, _)| model);
    let (progress, interrupt) = (context.progress.as_ref(), &context.interrupt);
    let job = Sampling { model: &painter.model, worse, options, progress, interrupt };
    let mut drawn = Drawn { painter, collector: Collector::new(network, keep) };
    let cost = job.run(&mut drawn)?;
    Ok((drawn.collector.finish(), cost))
}

/// Describes batches as they are drawn.
struct Drawn<'a> {
    painter: &'a Painter,
    collector: Collector<'a>,
}

impl Receiver for Drawn<'_> {
    fn batch(&mut self, _rows: Range<usize>, x: &Tensor) -> strata_diffusion::Result<()> {
        let images = self.painter.pictures(x).map_err(|e| Error::Config(format!("{e:#}")))?;
        self.collector.add(&images)
    }
}
