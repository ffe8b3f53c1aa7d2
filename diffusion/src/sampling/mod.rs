//! Sampling from a trained model: seeds and classes in, latents out.

mod cost;
mod networks;
mod options;

use std::{cell::RefCell, ops::Range};

use candle_core::Tensor;
use strata_training::{Interrupt, Progress};

use self::{cost::Counts, networks::denoiser};
pub use self::{
    cost::SampleCost,
    options::{GuidanceOptions, Prompts, SampleOptions, ShownImages, Start},
};
use crate::{
    Error, Result,
    denoiser::{Denoiser, Estimate},
    masked::Masked,
    model::Model,
    sampler::{Run, SeededNoise},
};

/// A job of sampling.
pub struct Sampling<'a> {
    /// Draws.
    pub model: &'a Model,
    /// Instead of "no class", a worse model to move away from (autoguidance, Karras et al. 2024), for samples of the same shape.
    pub worse: Option<&'a Model>,
    /// What to draw and how.
    pub options: &'a SampleOptions,
    /// Sees how many samples are done.
    pub progress: &'a dyn Progress,
    /// Ends it with [`Error::Interrupted`].
    pub interrupt: &'a Interrupt,
}

/// Where samples go.
pub trait Receiver {
    /// A finished batch: `x` [B, C, H, W] are the samples `rows` of the options' seeds, scaled as the model was trained on them.
    fn batch(&mut self, rows: Range<usize>, x: &Tensor) -> Result<()>;

    /// A batch on its way, after every step of the sampler.
    fn step(&mut self, _step: &Step<'_>) -> Result<()> {
        Ok(())
    }
}

/// What is known of a batch on its way.
pub struct Step<'a> {
    /// Which of the options' seeds.
    pub rows: Range<usize>,
    /// Steps done, from 1.
    pub done: usize,
    /// The noise level of the last evaluation.
    pub sigma: f64,
    /// The network's last estimate of the clean samples: [B, C, H, W].
    pub x0: &'a Tensor,
}

impl Sampling<'_> {
    /// Draws all samples, batch by batch. They do not depend on the batch size beyond rounding: batches of samplers with adaptive steps,
    /// which would look at all of a batch, hold one sample.
    ///
    /// # Errors
    /// If the options cannot be used, a value is not finite (with the step and sigma where it appeared), the receiver fails, or it is
    /// interrupted.
    pub fn run(&self, receiver: &mut dyn Receiver) -> Result<SampleCost> {
        let options = self.options;
        options.validate(self.model, self.worse)?;
        let sigmas = options.sigmas(self.model)?;
        let counts = Counts::new(self.model, self.worse);
        let (n, size) = (options.seeds.len(), if options.sampler.is_adaptive() { 1 } else { options.batch });
        self.progress.start("sampling", n as u64, "images");
        for first in (0..n).step_by(size) {
            let rows = first..(first + size).min(n);
            let x = self.batch(rows.clone(), &sigmas, &counts, receiver)?;
            let end = rows.end as u64;
            receiver.batch(rows, &x)?;
            self.progress.advance(end, "");
        }
        self.progress.finish();
        counts.cost(self.model, self.worse)
    }

    fn batch(&self, rows: Range<usize>, sigmas: &[f64], counts: &Counts, receiver: &mut dyn Receiver) -> Result<Tensor> {
        let options = self.options;
        let mut noise = SeededNoise::new(options.seeds[rows.clone()].to_vec());
        let shape = self.model.config().shape;
        let unit = noise.initial(&shape, self.model.store().device())?;
        let network = denoiser(self, rows.clone(), counts)?;
        let (x, network): (Tensor, Box<dyn Denoiser + '_>) = match &options.start {
            None => ((&unit * sigmas[0])?, network),
            Some(start) => {
                let x0 = start.x0.unsqueeze(0)?.broadcast_as(unit.shape())?.contiguous()?;
                let noisy = (&unit * sigmas[0])?;
                // From pure noise nothing of the picture is left but what the mask keeps.
                let x = if start.strength < 1.0 { (&x0 + noisy)? } else { noisy };
                match &start.mask {
                    Some(mask) => (x, Box::new(Masked::new(network, &x0, &mask.unsqueeze(0)?, &noise)?)),
                    None => (x, network),
                }
            }
        };
        let last = Remember { denoiser: network, last: RefCell::default() };
        let steps = sigmas.len() - 1;
        let mut observe = |i: usize, _: &Tensor| {
            if self.interrupt.is_set() {
                return Err(Error::Interrupted);
            }
            if let Some((sigma, x0)) = &*last.last.borrow() {
                receiver.step(&Step { rows: rows.clone(), done: i + 1, sigma: *sigma, x0 })?;
            }
            self.progress.advance(rows.start as u64, &format!("step {}/{steps}", i + 1));
            Ok(())
        };
        options.sampler.sample(Run { denoiser: &last, sigmas, noise: &mut noise, observe: &mut observe }, x)
    }
}

/// Keeps the last estimate.
struct Remember<D> {
    denoiser: D,
    last: RefCell<Option<(f64, Tensor)>>,
}

impl<D: Denoiser> Denoiser for Remember<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.x0)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let estimate = self.denoiser.estimate(x, sigma)?;
        *self.last.borrow_mut() = Some((sigma, estimate.x0.clone()));
        Ok(estimate)
    }
}

#[cfg(test)]
mod tests;
