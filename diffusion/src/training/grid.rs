//! Pictures drawn during a training: always the same seeds, so that they can be compared.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use strata_training::{Interrupt, NoProgress};

use crate::{
    Result,
    model::Model,
    sampling::{Receiver, SampleOptions, Sampling},
};

/// Which pictures are drawn during a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GridSettings {
    /// They are drawn every so many images, and at the end.
    pub every_images: u64,
    /// How many, of the seeds from 0 on and the classes in turn; 0: none.
    pub count: usize,
    /// Steps of the sampler.
    pub steps: usize,
}

impl Default for GridSettings {
    fn default() -> Self {
        Self { every_images: 100_000, count: 16, steps: 20 }
    }
}

/// Draws samples `[count, C, H, W]` with a model; none where it is told texts or shown images, or nothing is to be drawn.
pub(super) fn draw(model: &Model, settings: &GridSettings, interrupt: &Interrupt) -> Result<Option<Tensor>> {
    let config = model.config();
    if settings.count == 0 || config.text.is_some() || config.image.is_some() {
        return Ok(None);
    }
    let seeds: Vec<u64> = (0..settings.count as u64).collect();
    let labels = seeds.iter().map(|i| (config.classes > 0).then(|| (*i % config.classes as u64) as u32)).collect();
    let options = SampleOptions { seeds, labels, steps: settings.steps, ..SampleOptions::default() };
    let mut batches = Batches(Vec::new());
    Sampling { model, worse: None, options: &options, progress: &NoProgress, interrupt }.run(&mut batches)?;
    Ok(Some(Tensor::cat(&batches.0, 0)?))
}

struct Batches(Vec<Tensor>);

impl Receiver for Batches {
    fn batch(&mut self, _rows: std::ops::Range<usize>, x: &Tensor) -> Result<()> {
        self.0.push(x.clone());
        Ok(())
    }
}
