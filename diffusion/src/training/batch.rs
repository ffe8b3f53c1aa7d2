//! One batch of training: a function of the configuration and the position in the run, nothing else.

use candle_core::{Device, Tensor};
use strata_conditioning::Shown;
use strata_datasets::{CaptionContexts, LatentSet};
use strata_nn::random::{Key, uniform_f64};
use strata_training::Progress;

use super::{DiffusionTraining, TrainingData, data::Source, images::Images};
use crate::{Result, model::ModelConfig, noise::NoiseSampler};

/// Draws batches: the sample at a position of the run decides its picture or latent, condition, noise level and noise by itself.
pub struct Batches<'a> {
    source: Source<'a>,
    noise: NoiseSampler,
    shape: [usize; 3],
    seed: u64,
    classes: bool,
    attributes: bool,
    class_dropout: f64,
    texts: Option<&'a CaptionContexts>,
    text_dropout: f64,
    attribute_dropout: f64,
    images: Option<Images>,
}

/// A batch of B samples.
pub struct Batch {
    /// `[B, C, H, W]`: clean samples, scaled.
    pub x0: Tensor,
    /// `[B, C, H, W]`: standard normal noise.
    pub eps: Tensor,
    /// Noise levels.
    pub sigmas: Vec<f64>,
    /// Classes; `None` where dropped or unknown.
    pub labels: Vec<Option<u32>>,
    /// Attributes, 1, -1 or, where dropped or unknown, 0; empty rows without.
    pub attributes: Vec<Vec<i8>>,
    /// `[B, T, D]`: embedded captions, the empty text's where dropped; none where the model is told none.
    pub context: Option<Tensor>,
    /// What each is shown; none where the model is shown nothing.
    pub images: Option<Shown>,
}

impl<'a> Batches<'a> {
    /// Batches of `data` for `model` under `config`, whose stages are cut by `noise`, from the position `start` on.
    ///
    /// # Errors
    /// If too many pictures are unusable.
    pub fn new(
        (data, model): (TrainingData<'a>, &ModelConfig),
        config: &DiffusionTraining,
        noise: NoiseSampler,
        start: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let source = match data {
            TrainingData::Latents(set) => Source::latents(set, config.seed),
            TrainingData::Pictures(data) => Source::pictures(data, config, start, progress)?,
        };
        Ok(Self::of(source, model, config, noise))
    }

    /// Batches of latents, from anywhere.
    pub fn of_latents(set: &'a LatentSet, model: &ModelConfig, config: &DiffusionTraining, noise: NoiseSampler) -> Self {
        Self::of(Source::latents(set, config.seed), model, config, noise)
    }

    fn of(source: Source<'a>, model: &ModelConfig, config: &DiffusionTraining, noise: NoiseSampler) -> Self {
        let texts = match &source {
            Source::Latents { set, .. } if model.text.is_some() => set.contexts(),
            _ => None,
        };
        Self {
            source,
            noise,
            shape: model.shape,
            seed: config.seed,
            classes: model.classes > 0,
            attributes: !model.attribute_names.is_empty(),
            class_dropout: config.class_dropout,
            texts,
            text_dropout: config.text_dropout,
            attribute_dropout: config.attribute_dropout,
            images: model.image.as_ref().map(|input| Images::new(input, config.seed, &model.latents)),
        }
    }

    /// The `n` samples from `position` (in images) on. Pictures that are read from disk must be asked for in their order.
    pub fn at(&mut self, position: u64, n: usize, device: &Device) -> Result<Batch> {
        let [c, h, w] = self.shape;
        let positions: Vec<u64> = (position..position + n as u64).collect();
        let mut samples = self.source.batch(position, n, self.attributes)?;
        let mut sigmas = Vec::with_capacity(n);
        for (row, &p) in positions.iter().enumerate() {
            let mut draws = Key::new(self.seed, "noise-level").index(p).generator();
            sigmas.push(self.noise.sigma(uniform_f64(&mut draws)));
            let drawn = uniform_f64(&mut draws);
            if drawn < self.class_dropout || !self.classes {
                samples.labels[row] = None;
            }
            leave_unsaid(&mut samples.attributes[row], drawn < self.attribute_dropout, &mut || uniform_f64(&mut draws));
        }
        let eps = Key::new(self.seed, "noise").normal_rows(&positions, &[c, h, w], device)?;
        let x0 = Tensor::from_vec(samples.x0, (n, c, h, w), device)?;
        let context = self.texts.map(|texts| self.context(texts, position, &samples.captions, device)).transpose()?;
        let images = match (&self.images, &self.source) {
            (None, _) => None,
            (Some(images), Source::Latents { set, .. }) => Some(images.stored(set, position, &samples.items, device)?),
            (Some(images), Source::Pictures { .. }) => Some(images.derived(&x0, position)?),
        };
        Ok(Batch { x0, eps, sigmas, labels: samples.labels, attributes: samples.attributes, context, images })
    }
}

impl Batches<'_> {
    /// The embedded captions of the samples from `position` on, each dropped by a draw of its own.
    fn context(&self, texts: &CaptionContexts, position: u64, captions: &[String], device: &Device) -> Result<Tensor> {
        let mut values = Vec::new();
        for (caption, p) in captions.iter().zip(position..) {
            let mut draws = Key::new(self.seed, "text-dropout").index(p).generator();
            let dropped = uniform_f64(&mut draws) < self.text_dropout;
            values.extend(texts.get(if dropped { "" } else { caption })?);
        }
        let source = texts.source();
        Ok(Tensor::from_vec(values, (captions.len(), source.tokens, source.width), device)?)
    }
}

/// Sets attributes to 0: all of them, or each with a probability that is itself drawn from [0, 1). So a model learns to be told any
/// number of attributes, from none to all.
fn leave_unsaid(attributes: &mut [i8], all: bool, draw: &mut dyn FnMut() -> f64) {
    let share = if all || attributes.is_empty() { 1.0 } else { draw() };
    for value in attributes {
        if all || draw() < share {
            *value = 0;
        }
    }
}
