//! How well a training does on what it never sees.

use candle_core::Device;
use strata_datasets::Crop;

use super::{Batches, DiffusionTraining, Objective, TrainingData};
use crate::{
    Result,
    model::{Model, ModelConfig},
    noise::NoiseSampler,
};

/// Images that are not trained on, each always with the same noise of the same strength.
pub(super) struct HeldOut<'a> {
    batches: Batches<'a>,
    images: usize,
    batch: usize,
}

impl<'a> HeldOut<'a> {
    /// Nothing where nothing is held out.
    ///
    /// # Errors
    /// If pictures cannot be read.
    pub fn new(of: (TrainingData<'a>, &ModelConfig), config: &DiffusionTraining, noise: NoiseSampler) -> Result<Option<Self>> {
        let items = of.0.held_out(config);
        if items.is_empty() {
            return Ok(None);
        }
        let mut plain = DiffusionTraining { class_dropout: 0.0, attribute_dropout: 0.0, text_dropout: 0.0, ..config.clone() };
        (plain.pictures.flip, plain.pictures.augment) = (false, 0.0);
        if plain.pictures.crop == Crop::Random {
            plain.pictures.crop = Crop::default();
        }
        let (images, batch) = (items.len(), if config.micro_batch > 0 { config.micro_batch } else { config.batch });
        Ok(Some(Self { batches: Batches::of_items(of, items, &plain, noise)?, images, batch }))
    }

    /// The mean loss of `model`; nothing where it is not finite.
    ///
    /// # Errors
    /// As the objective's.
    pub fn loss(&mut self, model: &Model, objective: &Objective<'_>, device: &Device) -> Result<Option<f64>> {
        let mut sum = 0.0;
        for first in (0..self.images).step_by(self.batch) {
            let rows = self.batches.at(first as u64, self.batch.min(self.images - first), device)?;
            let losses = objective.losses(model, &rows, None)?.weighted.to_vec1::<f32>()?;
            sum += losses.into_iter().map(f64::from).sum::<f64>();
        }
        let mean = sum / self.images as f64;
        Ok(mean.is_finite().then_some(mean))
    }
}
