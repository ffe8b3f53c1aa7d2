//! Where samplers take their noise from.

use candle_core::{Device, Tensor};
use strata_nn::random::Key;

use crate::{Error, Result};

/// A source of standard normal noise. A sampler draws at most once a step.
pub trait NoiseSource {
    /// Noise for a step, in the shape, dtype and place of `like`: [B, ...].
    fn draw(&mut self, step: usize, like: &Tensor) -> Result<Tensor>;
}

/// Noise whose row i depends on the i-th seed, the step and the purpose alone: not on the batch that the sample is drawn in.
#[derive(Clone, Debug)]
pub struct SeededNoise {
    key: Key,
    seeds: Vec<u64>,
}

impl SeededNoise {
    /// One seed per sample.
    pub fn new(seeds: Vec<u64>) -> Self {
        Self { key: Key::new(0, "sampler"), seeds }
    }

    /// Another stream of the same seeds, for example for an inpainted region.
    #[must_use]
    pub fn purpose(&self, purpose: &str) -> Self {
        Self { key: self.key.child(purpose), seeds: self.seeds.clone() }
    }

    /// The noise that sampling begins with, float32 [seeds, shape...]; multiply by the first sigma.
    pub fn initial(&self, shape: &[usize], device: &Device) -> Result<Tensor> {
        Ok(self.key.child("initial").normal_rows(&self.seeds, shape, device)?)
    }
}

impl NoiseSource for SeededNoise {
    fn draw(&mut self, step: usize, like: &Tensor) -> Result<Tensor> {
        let rows = like.dim(0)?;
        if rows != self.seeds.len() {
            return Err(Error::Config(format!("noise: expected one seed per sample, {rows}, got {}", self.seeds.len())));
        }
        let noise = self.key.step(step as u64).normal_rows(&self.seeds, &like.dims()[1..], like.device())?;
        Ok(noise.to_dtype(like.dtype())?)
    }
}

/// For samplers that draw none: drawing is an error.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNoise;

impl NoiseSource for NoNoise {
    fn draw(&mut self, step: usize, _: &Tensor) -> Result<Tensor> {
        Err(Error::Config(format!("noise: this sampler draws noise (first at step {step}), and no source of noise was given")))
    }
}
