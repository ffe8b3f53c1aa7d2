//! Draws what is not there yet: one PNG per seed, the listing, a grid, and what else is asked for.

use std::{collections::HashSet, ops::Range, path::Path, time::Instant};

use candle_core::Tensor;
use serde_json::json;
use strata_datasets::RgbImage;
use strata_diffusion::{
    Error,
    sampling::{Prompts, Receiver, SampleCost, SampleOptions, Sampling, ShownImages, Step},
};

use super::{Painter, folder::Folder, pack, start::Beginning, trajectory::Trajectory};
use crate::{args, context::Context, grid};

/// Pictures that still make a grid worth looking at.
const MAX_GRID: usize = 400;
/// What is written where nothing is asked for.
const PLAIN: args::Output = args::Output { columns: None, trajectory: None, folders: false, zip: false, npz: false };

/// What to draw, with what, and where to.
pub struct Job<'a> {
    /// Draws.
    pub painter: &'a Painter,
    /// What.
    pub options: &'a SampleOptions,
    /// The picture that it begins with.
    pub beginning: Option<&'a Beginning>,
    /// Where to.
    pub out: &'a Path,
    /// The texts as typed, and the one to move away from; none for a model without.
    pub prompts: Option<serde_json::Value>,
    /// What decides the images that the model is shown; none where it is shown none.
    pub shown: Option<serde_json::Value>,
    /// What is written beside the pictures.
    pub output: &'a args::Output,
}

/// What a call has drawn.
pub struct Drawn {
    /// Pictures that were not there before.
    pub new: usize,
    /// Pictures that were drawn: the new ones, and those of the same batches.
    pub drawn: usize,
    /// What they cost.
    pub cost: SampleCost,
    /// Seconds for them.
    pub seconds: f64,
}

impl<'a> Job<'a> {
    /// From noise, with a grid of all pictures.
    pub fn new(painter: &'a Painter, options: &'a SampleOptions, out: &'a Path) -> Self {
        Self { painter, options, beginning: None, out, prompts: None, shown: None, output: &PLAIN }
    }

    /// Everything that decides the pictures beside seeds and classes.
    fn origin(&self) -> serde_json::Value {
        let (options, painter) = (self.options, self.painter);
        let (sigma_min, sigma_max) = options.range(&painter.model);
        let mut origin = json!({
            "model_sha256": painter.model_sha256,
            "sampler": options.sampler, "grid": options.grid, "steps": options.steps,
            "sigma_min": sigma_min, "sigma_max": sigma_max,
            "guidance": options.guidance.scale, "guidance_interval": options.guidance.interval,
            "guidance_rescale": options.guidance.rescale, "negative_class": options.guidance.negative,
            "autoguidance_sha256": painter.worse.as_ref().map(|(_, sha256)| sha256),
            "folders": self.output.folders, "tile": painter.tile,
        });
        if !options.attributes.is_empty() {
            origin["attributes"] = json!(options.attributes);
        }
        if let Some(prompts) = &self.prompts {
            origin["prompts_and_negative"] = prompts.clone();
        }
        if let Some(shown) = &self.shown {
            origin["images_shown_and_noise"] = shown.clone();
        }
        let beginning = self.beginning.map(|b| json!([b.sha256.0, b.start.strength, b.sha256.1]));
        origin["init_image_strength_mask"] = json!(beginning);
        origin
    }
}

/// Draws the pictures that are not yet in the folder, one PNG per seed, then a grid of all.
///
/// # Errors
/// If the folder holds pictures of another origin; as the libraries'.
pub fn draw(job: &Job<'_>, context: &Context) -> anyhow::Result<Drawn> {
    let (painter, options) = (job.painter, job.options);
    let worse = painter.worse.as_ref().map(|(model, _)| model);
    options.validate(&painter.model, worse)?;
    options.sigmas(&painter.model)?;
    let folder = Folder::open(job.out, &job.origin(), job.output.folders, &painter.model.config().class_names)?;
    let present = folder.present(&options.seeds, &options.labels)?;
    let watched = job.output.trajectory.unwrap_or(0).min(options.seeds.len());
    let watched = if folder.path().join("trajectory.gif").is_file() { 0 } else { watched };
    let rows = rows_to_draw(options, |i| !present.contains(&options.seeds[i]) || i < watched);
    let (seeds, labels) = rows.iter().map(|i| (options.seeds[*i], options.labels[*i])).unzip();
    let of = |prompts: Prompts| Prompts { of: rows.iter().map(|i| prompts.of[*i]).collect(), ..prompts };
    let prompts = options.prompts.clone().map(of);
    let of = |images: ShownImages| ShownImages { of: rows.iter().map(|i| images.of[*i]).collect(), ..images };
    let images = options.images.clone().map(of);
    let batches = SampleOptions { seeds, labels, prompts, images, ..options.clone() };
    let mut writer =
        Writer { job, batches: &batches, rows: &rows, folder, present, new: 0, trajectory: Trajectory::new(watched) };
    let began = Instant::now();
    let (progress, interrupt) = (context.progress.as_ref(), &context.interrupt);
    let sampling = Sampling { model: &painter.model, worse, options: &batches, progress, interrupt };
    let cost = if rows.is_empty() { SampleCost::default() } else { sampling.run(&mut writer)? };
    let seconds = began.elapsed().as_secs_f64();
    let Writer { folder, new, trajectory, .. } = writer;
    finish(job, folder, (watched > 0).then_some(trajectory))?;
    Ok(Drawn { new, drawn: rows.len(), cost, seconds })
}

/// The rows of every batch of which a row is wanted: the batches are always cut alike, so that a picture is the same bit for bit
/// whether a call was killed or not.
fn rows_to_draw(options: &SampleOptions, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    let n = options.seeds.len();
    let batches = (0..n).step_by(options.batch).map(|first| first..(first + options.batch).min(n));
    batches.filter(|rows| rows.clone().any(&wanted)).flatten().collect()
}

/// Pictures of seeds that lie in the folder, in their order.
///
/// # Errors
/// If one cannot be read.
pub fn pictures(out: &Path, seeds: &[u64]) -> anyhow::Result<Vec<RgbImage>> {
    seeds.iter().map(|seed| grid::read_png(&out.join(format!("{seed:06}.png")))).collect()
}

/// Listing, grid, archives and trajectory.
fn finish(job: &Job<'_>, mut folder: Folder, trajectory: Option<Trajectory>) -> anyhow::Result<()> {
    let seeds = &job.options.seeds;
    folder.settle_listing()?;
    let read =
        |n: usize| seeds[..n].iter().map(|seed| grid::read_png(&folder.picture(*seed))).collect::<anyhow::Result<Vec<_>>>();
    if seeds.len() <= MAX_GRID {
        let columns = job.output.columns.unwrap_or_else(|| grid::square(seeds.len()));
        grid::write_grid(&read(seeds.len())?, columns, &folder.path().join("grid.png"))?;
    }
    if let Some(trajectory) = trajectory {
        trajectory.write(folder.path(), seeds, &read(job.output.trajectory.unwrap_or(0).min(seeds.len()))?)?;
    }
    if job.output.zip {
        pack::zip(&folder, seeds)?;
    }
    if job.output.npz {
        pack::npz(&folder, seeds, &job.options.labels)?;
    }
    Ok(())
}

/// Decodes batches and writes what is new of them.
struct Writer<'a> {
    job: &'a Job<'a>,
    /// What is drawn, and where each row stands among all that was asked for.
    batches: &'a SampleOptions,
    rows: &'a [usize],
    folder: Folder,
    present: HashSet<u64>,
    new: usize,
    trajectory: Trajectory,
}

impl Receiver for Writer<'_> {
    fn batch(&mut self, rows: Range<usize>, x: &Tensor) -> strata_diffusion::Result<()> {
        self.write(rows, x).map_err(|e| failed(&e))
    }

    fn step(&mut self, step: &Step<'_>) -> strata_diffusion::Result<()> {
        self.trajectory.see(step, |row| self.rows[row], self.job.painter).map_err(|e| failed(&e))
    }
}

impl Writer<'_> {
    fn write(&mut self, rows: Range<usize>, x: &Tensor) -> anyhow::Result<()> {
        let seeds = &self.batches.seeds[rows.clone()];
        let labelled = seeds.iter().copied().zip(self.batches.labels[rows].iter().copied());
        let new: Vec<(u64, Option<u32>)> = labelled.filter(|(seed, _)| !self.present.contains(seed)).collect();
        self.folder.announce(&new)?;
        for (seed, mut image) in seeds.iter().zip(self.job.painter.pictures(x)?) {
            if self.present.insert(*seed) {
                if let Some(beginning) = self.job.beginning {
                    beginning.restore(&mut image);
                }
                grid::write_png(&image, &self.folder.picture(*seed))?;
            }
        }
        self.new += new.len();
        Ok(())
    }
}

fn failed(error: &anyhow::Error) -> Error {
    Error::Config(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_cut_alike_whatever_is_there() {
        let options = SampleOptions { seeds: (0..10).collect(), batch: 4, ..SampleOptions::default() };
        assert_eq!(rows_to_draw(&options, |_| true), (0..10).collect::<Vec<_>>());
        assert_eq!(rows_to_draw(&options, |i| i == 6), [4, 5, 6, 7]);
        assert_eq!(rows_to_draw(&options, |i| i >= 9), [8, 9]);
        assert!(rows_to_draw(&options, |_| false).is_empty());
    }
}
