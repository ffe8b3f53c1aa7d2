//! One batch of training: a function of the configuration and the position in the run, nothing else.

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use strata_conditioning::Shown;
use strata_datasets::{Contexts, LatentSet};
use strata_nn::random::{Key, uniform_f64};
use strata_training::{NoProgress, Progress, Ranks};

use super::{
    DiffusionTraining, TrainingData,
    augment::{Augmentation, LABELS},
    data::{Samples, Source},
    images::Images,
};
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
    texts: Option<&'a Contexts>,
    text_dropout: f64,
    attribute_dropout: f64,
    images: Option<Images>,
    augmentation: Option<Augmentation>,
    ranks: Ranks,
}

/// A batch of B samples.
#[derive(Clone)]
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
    /// `[B, 9]`: how each picture was augmented; none where nothing is.
    pub augment: Option<Tensor>,
    /// What each is shown; none where the model is shown nothing.
    pub images: Option<Shown>,
}

impl Batch {
    /// The `n` samples from `first` on.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn part(&self, first: usize, n: usize) -> Result<Self> {
        let rows = first..first + n;
        let narrow = |t: &Tensor| t.narrow(0, first, n)?.contiguous();
        Ok(Self {
            x0: narrow(&self.x0)?,
            eps: narrow(&self.eps)?,
            sigmas: self.sigmas[rows.clone()].to_vec(),
            labels: self.labels[rows.clone()].to_vec(),
            attributes: self.attributes[rows].to_vec(),
            context: self.context.as_ref().map(narrow).transpose()?,
            augment: self.augment.as_ref().map(narrow).transpose()?,
            images: self.images.as_ref().map(|shown| part_of(shown, first, n)).transpose()?,
        })
    }
}

impl<'a> Batches<'a> {
    /// Batches of `data` for `model` under `config`, whose stages are cut by `noise`, from the position `start` on: those of one of
    /// several processes.
    ///
    /// # Errors
    /// If too many pictures are unusable.
    pub fn new(
        (data, model): (TrainingData<'a>, &ModelConfig),
        config: &DiffusionTraining,
        noise: NoiseSampler,
        (start, ranks): (u64, Ranks),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let some = data.trained(config);
        let source = match data {
            TrainingData::Latents(set) => Source::latents(set, config.seed, some),
            TrainingData::Pictures(data) => Source::pictures((data, some), config, (start, ranks), progress)?,
        };
        Ok(Self { ranks, ..Self::of(source, model, config, noise) })
    }

    /// Batches of latents, from anywhere.
    pub fn of_latents(set: &'a LatentSet, model: &ModelConfig, config: &DiffusionTraining, noise: NoiseSampler) -> Self {
        Self::of(Source::latents(set, config.seed, TrainingData::Latents(set).trained(config)), model, config, noise)
    }

    /// Batches of `items` alone, for a single process. Pictures are kept in memory, and may be asked for in any order.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(super) fn of_items(
        (data, model): (TrainingData<'a>, &ModelConfig),
        items: Vec<usize>,
        config: &DiffusionTraining,
        noise: NoiseSampler,
    ) -> Result<Self> {
        let source = match data {
            TrainingData::Latents(set) => Source::latents(set, config.seed, Some(items)),
            TrainingData::Pictures(data) => Source::pictures((data, Some(items)), config, (0, Ranks::default()), &NoProgress)?,
        };
        Ok(Self::of(source, model, config, noise))
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
            augmentation: config.pictures.augmentation(),
            ranks: Ranks::default(),
        }
    }

    /// The noise levels of the `n` samples of all processes from `position` on.
    pub fn sigmas(&self, position: u64, n: usize) -> Vec<f64> {
        let sigma = |p: u64| self.noise.sigma(uniform_f64(&mut Key::new(self.seed, "noise-level").index(p).generator()));
        (position..position + n as u64).map(sigma).collect()
    }

    /// This process's `n` samples from `position` (in images, of all processes) on. Pictures that are read from disk must be asked
    /// for in their order.
    pub fn at(&mut self, position: u64, n: usize, device: &Device) -> Result<Batch> {
        let [c, h, w] = self.shape;
        let positions: Vec<u64> = (0..n).map(|k| position + (k * self.ranks.count + self.ranks.rank) as u64).collect();
        let mut samples = self.source.batch(position, &positions, self.attributes)?;
        let augment = self.augmentation.map(|augmentation| self.augment(augmentation, &positions, &mut samples.x0));
        let augment = augment.map(|labels| Tensor::from_vec(labels, (n, LABELS), device)).transpose()?;
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
        let x0 = Tensor::from_vec(std::mem::take(&mut samples.x0), (n, c, h, w), device)?;
        let context = self.texts.map(|texts| self.context(texts, &positions, &samples, device)).transpose()?;
        let images = match (&self.images, &self.source) {
            (None, _) => None,
            (Some(images), Source::Latents { set, .. }) => Some(images.stored(set, &positions, &samples.items, device)?),
            (Some(images), Source::Pictures { .. }) => Some(images.derived(&x0, &positions)?),
        };
        Ok(Batch { x0, eps, sigmas, labels: samples.labels, attributes: samples.attributes, context, augment, images })
    }
}

impl Batches<'_> {
    /// Augments each picture by a draw of its own; answers the labels end to end.
    fn augment(&self, augmentation: Augmentation, positions: &[u64], x0: &mut [f32]) -> Vec<f32> {
        let n: usize = self.shape.iter().product();
        let one = |(picture, p): (&mut [f32], &u64)| {
            let mut planes = picture.to_vec();
            let labels = augmentation.apply(&mut planes, self.shape, Key::new(self.seed, "augment").index(*p));
            picture.copy_from_slice(&planes);
            labels
        };
        let labels: Vec<[f32; LABELS]> = x0.par_chunks_mut(n).zip(positions).map(one).collect();
        labels.concat()
    }

    /// The embedded captions or pictures of the samples at `positions`, each dropped by a draw of its own.
    fn context(&self, texts: &Contexts, positions: &[u64], samples: &Samples, device: &Device) -> Result<Tensor> {
        let mut values = Vec::new();
        for ((caption, item), &p) in samples.captions.iter().zip(&samples.items).zip(positions) {
            let mut draws = Key::new(self.seed, "text-dropout").index(p).generator();
            let dropped = uniform_f64(&mut draws) < self.text_dropout;
            values.extend(if dropped { texts.nothing()? } else { texts.get(*item, caption)? });
        }
        let source = texts.source();
        Ok(Tensor::from_vec(values, (positions.len(), source.tokens, source.width), device)?)
    }
}

/// What the `n` samples from `first` on are shown.
fn part_of(shown: &Shown, first: usize, n: usize) -> Result<Shown> {
    Ok(Shown {
        images: shown.images.narrow(0, first, n)?.contiguous()?,
        noise: shown.noise[first..first + n].to_vec(),
        shown: shown.shown[first..first + n].to_vec(),
    })
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
