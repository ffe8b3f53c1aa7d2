//! What the samples of a batch are shown: drawn from what lies beside latents, or made from the pictures.

use candle_core::{Device, Tensor};
use strata_conditioning::{ImageCondition, ImageInput, Shown, random_mask, smaller, with_hole};
use strata_datasets::LatentSet;
use strata_nn::random::{Key, uniform_f64};

use crate::{Error, Result, model::LatentScaling};

/// Makes [`Shown`] a function of the position in the run.
pub(super) struct Images {
    input: ImageInput,
    key: Key,
    latents: LatentScaling,
}

impl Images {
    pub(super) fn new(input: &ImageInput, seed: u64, latents: &LatentScaling) -> Self {
        Self { input: input.clone(), key: Key::new(seed, "images"), latents: latents.clone() }
    }

    /// For the latents `items` of `set`, which stand at `positions`.
    pub(super) fn stored(&self, set: &LatentSet, positions: &[u64], items: &[usize], device: &Device) -> Result<Shown> {
        let images = set.images().ok_or_else(|| Error::Config("the latents have no images beside them".into()))?;
        let variants = images.source().variants as f64;
        let mut values = Vec::new();
        for (item, &p) in items.iter().zip(positions) {
            let drawn = uniform_f64(&mut self.key.child("variant").index(p).generator());
            values.extend(images.get(*item, (drawn * variants) as usize)?);
        }
        let [c, h, w] = self.input.shape;
        let raw = Tensor::from_vec(values, (items.len(), c, h, w), device)?;
        let raw = match self.input.condition {
            ImageCondition::LowRes { .. } => raw.affine(1.0 / 127.5, -1.0)?,
            ImageCondition::Inpaint => {
                let latents = self.latents.apply(&raw.narrow(1, 0, c - 1)?.contiguous()?)?;
                Tensor::cat(&[&latents, &raw.narrow(1, c - 1, 1)?], 1)?
            }
            ImageCondition::Map { .. } => raw,
        };
        self.shown(raw, positions)
    }

    /// For pictures in [-1, 1], `[B, 3, S, S]`, which stand at `positions`.
    pub(super) fn derived(&self, pictures: &Tensor, positions: &[u64]) -> Result<Shown> {
        let raw = match self.input.condition {
            ImageCondition::LowRes { factor, .. } => smaller(pictures, factor)?,
            _ => {
                let mask = self.masks(pictures, positions)?;
                Tensor::cat(&[&with_hole(pictures, &mask)?, &mask], 1)?
            }
        };
        self.shown(raw, positions)
    }

    /// `[B, 1, S, S]`: 1 in the hole, -1 elsewhere.
    fn masks(&self, pictures: &Tensor, positions: &[u64]) -> Result<Tensor> {
        let (rows, _, side, _) = pictures.dims4()?;
        let mut values = Vec::with_capacity(rows * side * side);
        for &p in positions {
            let mask = random_mask(self.key.child("mask").index(p), side);
            values.extend(mask.into_iter().map(|drawn| if drawn { 1f32 } else { -1.0 }));
        }
        Ok(Tensor::from_vec(values, (rows, 1, side, side), pictures.device())?)
    }

    /// Noised and dropped as the condition has it.
    fn shown(&self, raw: Tensor, positions: &[u64]) -> Result<Shown> {
        let draw = |purpose: &str, p: &u64| uniform_f64(&mut self.key.child(purpose).index(*p).generator());
        let shown = positions.iter().map(|p| draw("dropout", p) >= self.input.dropout).collect();
        let most = self.input.condition.max_noise();
        let noise: Vec<f32> = positions.iter().map(|p| (most * draw("noise-level", p)) as f32).collect();
        Ok(Shown { images: noised(raw, &noise, self.key.child("noise"), positions)?, noise, shown })
    }
}

/// `images` `[B, C, h, w]` with noise of the deviations `noise`, whose row i is decided by `key` and `indices[i]`.
pub(crate) fn noised(images: Tensor, noise: &[f32], key: Key, indices: &[u64]) -> Result<Tensor> {
    if noise.iter().all(|n| *n == 0.0) {
        return Ok(images);
    }
    let eps = key.normal_rows(indices, &images.dims()[1..], images.device())?;
    let deviations = Tensor::from_slice(noise, (noise.len(), 1, 1, 1), images.device())?;
    Ok((images + eps.broadcast_mul(&deviations)?)?)
}
