//! Where the samples are from: files, or a model that draws them now.

use std::{collections::BTreeMap, ops::Range};

use anyhow::ensure;
use candle_core::Tensor;
use serde_json::{Value, json};
use strata_diffusion::{
    Error,
    evaluation::{
        collect::{Collected, Collector, Keep},
        extractor::Extractor,
    },
    sampling::{Receiver, SampleCost, SampleOptions, Sampling},
};

use super::source::Source;
use crate::{
    args,
    commands::sample::{self, Painter},
    context::Context,
};

/// The samples.
pub enum Samples {
    /// On disk.
    Stored(Source),
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
        let name = args.samples.as_deref().unwrap_or_default();
        Ok(Self::Stored(Source::open(name, &args.reading.options(), args.num, context)?))
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
            Self::Stored(source) => {
                return source.read(network, keep, (args.network.batch, args.against.max_bad), context);
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
            Self::Stored(source) => source.describe(),
            Self::Drawn(painter, num) => {
                let (seeds, solver, told) = (seeds(repeat, *num), &args.solver, &args.wish.told);
                json!({
                    "model_sha256": painter.model_sha256, "seeds": [seeds.start, seeds.end],
                    "sampler": solver.sampler, "steps": solver.steps, "grid": solver.levels.grid,
                    "sigma_min": solver.levels.sigma_min, "sigma_max": solver.levels.sigma_max,
                    "guidance": sample::guidance_scale(&args.wish), "class": told.class, "attributes": told.attributes,
                    "prompt": told.prompt, "prompts": told.prompts, "like": told.like,
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
