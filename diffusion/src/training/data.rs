//! What a model is trained on: latents, or pictures themselves.

use serde::{Deserialize, Serialize};
use strata_conditioning::{ImageCondition, ImageInput};
use strata_datasets::{
    Contexts, Crop, Dataset, ImageKind, LatentImages, LatentSet, LoaderOptions, Order, PictureStream, Resampling, Split,
    Transform, split, split_latents,
};
use strata_nn::random::Key;
use strata_training::{Progress, Ranks};

use super::{DiffusionTraining, augment::Augmentation};
use crate::{Error, Result, model::LatentScaling};

/// How pictures are prepared where a model is trained on them rather than on latents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PictureSettings {
    /// Side in pixels.
    pub size: usize,
    /// What is kept of a picture that is no square.
    pub crop: Crop,
    /// How pixels are resampled.
    pub filter: Resampling,
    /// Mirror each picture with probability one half.
    pub flip: bool,
    /// Probability of each transformation of EDM's augmentation, of which the network is told (Karras et al. 2022: 0.12 for CIFAR-10,
    /// 0.15 for faces of 64 pixels); 0: none.
    pub augment: f64,
    /// With `augment`, mirror half of all pictures as well, and tell the network which, so that samples are not mirrored.
    pub augment_flip: bool,
    /// Share of unusable pictures above which a run stops.
    pub max_bad: f64,
}

impl Default for PictureSettings {
    fn default() -> Self {
        Self {
            size: 32,
            crop: Crop::default(),
            filter: Resampling::default(),
            flip: true,
            augment: 0.0,
            augment_flip: true,
            max_bad: 0.01,
        }
    }
}

impl PictureSettings {
    /// EDM's augmentation, where it is on.
    pub(super) fn augmentation(&self) -> Option<Augmentation> {
        (self.augment > 0.0).then_some(Augmentation { probability: self.augment, mirror: self.augment_flip })
    }
}

/// What a model is trained on.
#[derive(Clone, Copy)]
pub enum TrainingData<'a> {
    /// Latents; the posterior is sampled anew at each step.
    Latents(&'a LatentSet),
    /// Pictures, RGB in [-1, 1].
    Pictures(&'a Dataset),
}

impl<'a> TrainingData<'a> {
    /// What is trained on: the items that are not held out; nothing where all are.
    pub(super) fn trained(self, config: &DiffusionTraining) -> Option<Vec<usize>> {
        (config.held_out_share > 0.0).then(|| self.split(config).train)
    }

    /// Of what is not trained on, as much as is measured, in a seeded order.
    pub(super) fn held_out(self, config: &DiffusionTraining) -> Vec<usize> {
        let all = if config.held_out_share > 0.0 { self.split(config).held_out } else { Vec::new() };
        let order = Order::new(all.len(), config.seed);
        (0..all.len().min(config.evaluate_images)).map(|k| all[order.at(k as u64)]).collect()
    }

    fn split(self, config: &DiffusionTraining) -> Split {
        match self {
            Self::Latents(set) => split_latents(set, config.held_out_share),
            Self::Pictures(data) => split(data, config.held_out_share),
        }
    }

    /// Embedded captions or pictures, where there are some.
    pub fn contexts(self) -> Option<&'a Contexts> {
        match self {
            Self::Latents(set) => set.contexts(),
            Self::Pictures(_) => None,
        }
    }
}

impl TrainingData<'_> {
    /// Channels, height and width of a sample.
    pub fn shape(&self, config: &DiffusionTraining) -> [usize; 3] {
        match self {
            Self::Latents(set) => [set.manifest().channels, set.manifest().height, set.manifest().width],
            Self::Pictures(_) => [3, config.pictures.size, config.pictures.size],
        }
    }

    /// Class names by label; empty when unlabelled.
    pub fn class_names(&self) -> &[String] {
        match self {
            Self::Latents(set) => set.class_names(),
            Self::Pictures(data) => data.class_names(),
        }
    }

    /// Names of binary attributes; empty where there are none.
    pub fn attribute_names(&self) -> &[String] {
        match self {
            Self::Latents(set) => &set.manifest().attribute_names,
            Self::Pictures(data) => &data.summary().attribute_names,
        }
    }

    /// What turns a model's samples back into these data.
    pub fn scaling(&self) -> LatentScaling {
        match self {
            Self::Latents(set) => LatentScaling {
                scale: set.manifest().scale.clone(),
                shift: set.manifest().shift.clone(),
                autoencoder_sha256: set.manifest().autoencoder_sha256.clone(),
            },
            Self::Pictures(_) => LatentScaling::pixels(),
        }
    }

    /// Refuses settings under which these data cannot be read.
    pub(super) fn check(&self, config: &DiffusionTraining) -> Result<()> {
        match self {
            _ if self.trained(config).is_some_and(|items| items.is_empty()) => {
                let message = "`held_out_share`: nothing is left to train on";
                Err(Error::Config(message.into()))
            }
            Self::Pictures(data) if data.is_empty() => Err(Error::Config("the data set holds no pictures to train on".into())),
            Self::Pictures(_) if config.pictures.size == 0 => {
                Err(Error::Config("`pictures.size`: expected 1 or more, got 0".into()))
            }
            Self::Pictures(_) if !(0.0..=1.0).contains(&config.pictures.augment) => {
                Err(Error::Config(format!("`pictures.augment`: expected a probability, got {}", config.pictures.augment)))
            }
            Self::Latents(_) if config.pictures.augment > 0.0 => {
                Err(Error::Config("`pictures.augment` transforms pictures, and these are latents: set it to 0".into()))
            }
            _ => Ok(()),
        }
    }
}

/// What a model is shown of `data` under `config`.
///
/// # Errors
/// If the data have no such images, or others.
pub(super) fn image_input(config: &DiffusionTraining, data: TrainingData<'_>) -> Result<Option<ImageInput>> {
    let Some(condition) = &config.image else { return Ok(None) };
    let shape = match data {
        TrainingData::Latents(set) => stored_shape(condition, set)?,
        TrainingData::Pictures(_) => derived_shape(condition, config.pictures.size)?,
    };
    Ok(Some(ImageInput { condition: condition.clone(), shape, dropout: config.image_dropout }))
}

/// The shape of the images beside latents, if they are those of the condition.
fn stored_shape(condition: &ImageCondition, set: &LatentSet) -> Result<[usize; 3]> {
    let (wanted, option) = match *condition {
        ImageCondition::LowRes { factor, .. } => (ImageKind::LowRes { factor }, format!("--low-res {factor}")),
        ImageCondition::Inpaint => (ImageKind::Inpaint, "--inpaint-masks 4".to_string()),
        ImageCondition::Map { classes, .. } => (ImageKind::Map { classes }, format!("--maps DIR --map-classes {classes}")),
    };
    let there = set.images().map(LatentImages::source);
    match there {
        Some(source) if source.image == wanted => Ok(source.shape),
        there => {
            let got = there.map_or("none".to_string(), |source| source.image.to_string());
            let expected = format!("`image` expects {wanted} beside the latents, got {got}");
            Err(Error::Config(format!("{expected}: encode the images with `strata encode {option}`")))
        }
    }
}

/// The shape of images that are made from pictures of `size` pixels when they are trained on.
fn derived_shape(condition: &ImageCondition, size: usize) -> Result<[usize; 3]> {
    match *condition {
        ImageCondition::LowRes { factor, .. } if factor > 0 && size.is_multiple_of(factor) => {
            Ok([3, size / factor, size / factor])
        }
        ImageCondition::LowRes { factor, .. } => {
            Err(Error::Config(format!("`pictures.size`: expected a multiple of `image.factor`, {factor}, got {size}")))
        }
        ImageCondition::Inpaint => Ok([4, size, size]),
        ImageCondition::Map { .. } => {
            Err(Error::Config("`image`: maps are stored beside latents: use `strata encode --maps` and --latents".into()))
        }
    }
}

/// Samples in a seeded order.
pub(super) enum Source<'a> {
    Latents { set: &'a LatentSet, rows: Rows, affine: Vec<(f32, f32)>, seed: u64 },
    Pictures { data: &'a Dataset, stream: Box<PictureStream> },
}

/// Which latents, in a seeded order.
pub(super) struct Rows {
    order: Order,
    /// Some of them; none where all are drawn.
    some: Option<Vec<usize>>,
}

impl Rows {
    fn new(set: &LatentSet, seed: u64, some: Option<Vec<usize>>) -> Self {
        Self { order: Order::new(some.as_ref().map_or(set.len(), Vec::len), seed), some }
    }

    fn at(&self, position: u64) -> usize {
        let i = self.order.at(position);
        self.some.as_ref().map_or(i, |some| some[i])
    }
}

/// Samples of one batch, end to end, with what is known of each.
#[derive(Default)]
pub(super) struct Samples {
    pub(super) x0: Vec<f32>,
    pub(super) labels: Vec<Option<u32>>,
    pub(super) attributes: Vec<Vec<i8>>,
    /// Captions of latents; empty where they have none.
    pub(super) captions: Vec<String>,
    /// Which latents they are; empty for pictures.
    pub(super) items: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn latents(set: &'a LatentSet, seed: u64, some: Option<Vec<usize>>) -> Self {
        let manifest = set.manifest();
        let channel = |values: &[f32], c: usize| if values.len() == 1 { values[0] } else { values[c] };
        let affine = (0..manifest.channels).map(|c| (channel(&manifest.scale, c), channel(&manifest.shift, c))).collect();
        Self::Latents { set, rows: Rows::new(set, seed, some), affine, seed }
    }

    /// Pictures of `data`, some or all, from the position `start` on.
    pub(super) fn pictures(
        (data, some): (&'a Dataset, Option<Vec<usize>>),
        config: &DiffusionTraining,
        (start, ranks): (u64, Ranks),
        progress: &dyn Progress,
    ) -> Result<Self> {
        let settings = &config.pictures;
        let transform = Transform { size: settings.size, crop: settings.crop, filter: settings.filter };
        let options = LoaderOptions {
            batch: config.batch / ranks.count,
            rank: ranks.rank,
            ranks: ranks.count,
            seed: config.seed,
            flip: settings.flip,
            start,
            max_bad: settings.max_bad,
            ..LoaderOptions::default()
        };
        let items = some.unwrap_or_else(|| (0..data.len()).collect());
        progress.start("reading pictures", items.len() as u64, "images");
        let stream = PictureStream::new(data, &items, transform, options, &|done| progress.advance(done, ""))?;
        progress.finish();
        Ok(Self::Pictures { data, stream: Box::new(stream) })
    }

    /// The samples at `positions`, which are those of this process from `first` on; `attributes`: whether theirs are wanted.
    pub(super) fn batch(&mut self, first: u64, positions: &[u64], attributes: bool) -> Result<Samples> {
        match self {
            Self::Latents { set, rows, affine, seed } => {
                let mut out = Samples::default();
                for &p in positions {
                    let item = rows.at(p);
                    push_latent((set, item), affine, Key::new(*seed, "posterior").index(p), &mut out.x0)?;
                    out.items.push(item);
                    out.labels.push(set.label(item));
                    out.captions.push(set.caption(item).unwrap_or_default().to_string());
                    out.attributes.push(if attributes { set.attributes(item).to_vec() } else { Vec::new() });
                }
                Ok(out)
            }
            Self::Pictures { data, stream } => {
                let n = positions.len();
                let batch = stream.batch(first, n)?;
                let of = |&i: &usize| if attributes { Ok(data.info(i)?.attributes) } else { Ok(Vec::new()) };
                let attributes = batch.indices.iter().map(of).collect::<Result<_>>()?;
                Ok(Samples { x0: channels_first(&batch.pixels, n), labels: batch.labels, attributes, ..Samples::default() })
            }
        }
    }
}

/// Packed RGB bytes of `n` pictures as planes in [-1, 1].
fn channels_first(pixels: &[u8], n: usize) -> Vec<f32> {
    let mut x0 = Vec::with_capacity(pixels.len());
    for picture in pixels.chunks_exact((pixels.len() / n.max(1)).max(3)) {
        for channel in 0..3 {
            x0.extend(picture.iter().skip(channel).step_by(3).map(|&v| f32::from(v) / 127.5 - 1.0));
        }
    }
    x0
}

/// A fresh sample of the posterior, shifted and scaled: `(mean + exp(logvar / 2) noise - shift) scale`.
fn push_latent((set, item): (&LatentSet, usize), affine: &[(f32, f32)], key: Key, out: &mut Vec<f32>) -> Result<()> {
    let moments = set.moments(item)?;
    let area = set.manifest().height * set.manifest().width;
    let n = affine.len() * area;
    let (mean, logvar) = moments.split_at(n);
    let noise = if logvar.is_empty() { Vec::new() } else { key.normal(n) };
    for (i, mean) in mean.iter().enumerate() {
        let deviation = logvar.get(i).map_or(0.0, |v| (0.5 * v.clamp(-30.0, 20.0)).exp() * noise[i]);
        let (scale, shift) = affine[i / area];
        out.push((mean + deviation - shift) * scale);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use strata_datasets::DatasetOptions;

    use super::*;

    #[test]
    fn what_is_held_out_is_not_trained_on() -> Result<()> {
        let emoji = Dataset::open("emoji", &DatasetOptions::default())?;
        let data = TrainingData::Pictures(&emoji);
        let config = DiffusionTraining { held_out_share: 0.2, evaluate_images: 50, ..DiffusionTraining::default() };
        let (trained, held_out) = (data.trained(&config).unwrap_or_default(), data.held_out(&config));
        assert_eq!(held_out.len(), 50);
        assert!(trained.len() > emoji.len() / 2 && held_out.iter().all(|item| !trained.contains(item)));
        assert!(!held_out.is_sorted(), "of all classes, not the first alone");
        let rows = Rows { order: Order::new(trained.len(), 0), some: Some(trained.clone()) };
        assert!((0..3000).all(|position| trained.contains(&rows.at(position))));
        assert_eq!(data.trained(&DiffusionTraining::default()), None);
        Ok(())
    }

    #[test]
    fn planes_of_two_pictures() {
        let x0 = channels_first(&[0, 255, 0, 255, 255, 0, 0, 0, 255, 255, 0, 0], 2);
        assert_eq!(x0, [-1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0]);
    }
}
