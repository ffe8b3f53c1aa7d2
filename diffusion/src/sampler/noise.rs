//! Where samplers take their noise from.

use candle_core::{Device, Tensor};
use strata_nn::random::Key;

use crate::{Error, Result};

/// A source of standard normal noise. A sampler draws each index once; most draw once a step, by the step's own.
pub trait NoiseSource {
    /// The noise of an index, in the shape, dtype and place of `like`: [B, ...].
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

impl SeededNoise {
    /// Noise for a level instead of a step, in the shape, dtype and place of `like`: the same whenever it is asked for.
    pub fn of_level(&self, sigma: f64, like: &Tensor) -> Result<Tensor> {
        self.rows(self.key.child("level").step(sigma.to_bits()), like)
    }

    fn rows(&self, key: Key, like: &Tensor) -> Result<Tensor> {
        let rows = like.dim(0)?;
        if rows != self.seeds.len() {
            return Err(Error::Config(format!("noise: expected one seed per sample, {rows}, got {}", self.seeds.len())));
        }
        Ok(key.normal_rows(&self.seeds, &like.dims()[1..], like.device())?.to_dtype(like.dtype())?)
    }
}

impl NoiseSource for SeededNoise {
    fn draw(&mut self, step: usize, like: &Tensor) -> Result<Tensor> {
        self.rows(self.key.step(step as u64), like)
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
