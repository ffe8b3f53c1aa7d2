//! One batch of training: a function of the configuration and the position in the run, nothing else.

use candle_core::{Device, Tensor};
use strata_datasets::{LatentSet, Order};
use strata_nn::random::{Key, uniform_f64};

use super::DiffusionTraining;
use crate::{Result, noise::NoiseSampler};

/// Draws batches: the sample at a position of the run decides its latent, class, noise level and noise by itself.
pub struct Batches<'a> {
    latents: &'a LatentSet,
    order: Order,
    noise: NoiseSampler,
    seed: u64,
    classes: bool,
    class_dropout: f64,
    /// Scale and shift of each channel.
    affine: Vec<(f32, f32)>,
    /// Positions of a latent.
    area: usize,
}

/// A batch of B samples.
pub struct Batch {
    /// `[B, C, H, W]`: clean latents, scaled.
    pub x0: Tensor,
    /// `[B, C, H, W]`: standard normal noise.
    pub eps: Tensor,
    /// Noise levels.
    pub sigmas: Vec<f64>,
    /// Classes; `None` where dropped or unknown.
    pub labels: Vec<Option<u32>>,
}

impl<'a> Batches<'a> {
    /// Batches of `latents` under `config`, whose stages are cut by `noise`; with the latents' classes, or without.
    pub fn new(latents: &'a LatentSet, config: &DiffusionTraining, noise: NoiseSampler, classes: bool) -> Self {
        let manifest = latents.manifest();
        let channel = |values: &[f32], c: usize| if values.len() == 1 { values[0] } else { values[c] };
        let affine = (0..manifest.channels).map(|c| (channel(&manifest.scale, c), channel(&manifest.shift, c))).collect();
        Self {
            order: Order::new(latents.len(), config.seed),
            latents,
            noise,
            seed: config.seed,
            classes,
            class_dropout: config.class_dropout,
            affine,
            area: manifest.height * manifest.width,
        }
    }

    /// The `n` samples from `position` (in images) on.
    pub fn at(&self, position: u64, n: usize, device: &Device) -> Result<Batch> {
        let manifest = self.latents.manifest();
        let (c, h, w) = (manifest.channels, manifest.height, manifest.width);
        let positions: Vec<u64> = (position..position + n as u64).collect();
        let mut x0 = Vec::with_capacity(n * c * h * w);
        let (mut sigmas, mut labels) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for &p in &positions {
            let item = self.order.at(p);
            self.push_latent(item, Key::new(self.seed, "posterior").index(p), &mut x0)?;
            let mut draws = Key::new(self.seed, "noise-level").index(p).generator();
            sigmas.push(self.noise.sigma(uniform_f64(&mut draws)));
            let dropped = uniform_f64(&mut draws) < self.class_dropout;
            labels.push(self.latents.label(item).filter(|_| self.classes && !dropped));
        }
        let eps = Key::new(self.seed, "noise").normal_rows(&positions, &[c, h, w], device)?;
        Ok(Batch { x0: Tensor::from_vec(x0, (n, c, h, w), device)?, eps, sigmas, labels })
    }

    /// A fresh sample of the posterior, shifted and scaled: `(mean + exp(logvar / 2) noise - shift) scale`.
    fn push_latent(&self, item: usize, key: Key, out: &mut Vec<f32>) -> Result<()> {
        let moments = self.latents.moments(item)?;
        let n = self.affine.len() * self.area;
        let (mean, logvar) = moments.split_at(n);
        let noise = if logvar.is_empty() { Vec::new() } else { key.normal(n) };
        for (i, mean) in mean.iter().enumerate() {
            let deviation = logvar.get(i).map_or(0.0, |v| (0.5 * v.clamp(-30.0, 20.0)).exp() * noise[i]);
            let (scale, shift) = self.affine[i / self.area];
            out.push((mean + deviation - shift) * scale);
        }
        Ok(())
    }
}
