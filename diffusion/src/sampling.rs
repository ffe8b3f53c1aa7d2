//! Sampling from a trained model: seeds and classes in, latents out.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Tensor};
use strata_conditioning::Condition;
use strata_training::{Interrupt, Progress};

use crate::{
    Error, Result,
    denoiser::Denoiser,
    grid,
    guidance::{Guided, Pair},
    model::Model,
    sampler::{Run, Sampler, SeededNoise},
};

/// What to draw and how.
#[derive(Clone, Debug)]
pub struct SampleOptions {
    /// One per sample; it alone decides the sample's noise.
    pub seeds: Vec<u64>,
    /// One per sample; `None` for no class.
    pub labels: Vec<Option<u32>>,
    /// Samples per forward pass.
    pub batch: usize,
    /// Steps of the sampler.
    pub steps: usize,
    /// The solver.
    pub sampler: Sampler,
    /// Classifier-free guidance; 1 is none (Ho & Salimans 2022).
    pub guidance: f64,
    /// Smallest noise level before the final 0.
    pub sigma_min: f64,
    /// Largest noise level.
    pub sigma_max: f64,
}

impl SampleOptions {
    /// # Errors
    /// If a value cannot be used, or the model does not fit.
    pub fn validate(&self, model: &Model) -> Result<()> {
        let wrong =
            |key: &str, expected: &str, got: String| Err(Error::Config(format!("`{key}`: expected {expected}, got {got}")));
        if self.steps == 0 {
            return wrong("steps", "1 or more", "0".into());
        }
        if self.batch == 0 {
            return wrong("batch", "1 or more", "0".into());
        }
        if self.seeds.len() != self.labels.len() {
            return wrong("labels", &format!("one for each of {} seeds", self.seeds.len()), self.labels.len().to_string());
        }
        if !(self.sigma_min > 0.0 && self.sigma_max > self.sigma_min && self.sigma_max.is_finite()) {
            return wrong("sigma_min, sigma_max", "0 < sigma_min < sigma_max", format!("{}, {}", self.sigma_min, self.sigma_max));
        }
        if !self.guidance.is_finite() {
            return wrong("guidance", "a finite number", self.guidance.to_string());
        }
        if self.guidance != 1.0 && model.config().classes == 0 {
            return Err(Error::Config(format!(
                "guidance {} needs a condition, but the model is unconditional: leave guidance out",
                self.guidance
            )));
        }
        if self.guidance != 1.0 && self.labels.iter().all(Option::is_none) {
            return Err(Error::Config(format!("guidance {} needs a condition, but no class is asked for", self.guidance)));
        }
        Ok(())
    }

    /// The noise levels of the steps: Karras et al. 2022, Eq. 5, with rho 7, then 0.
    ///
    /// # Errors
    /// If the range is empty.
    pub fn sigmas(&self) -> Result<Vec<f64>> {
        if self.steps == 1 {
            return Ok(vec![self.sigma_max, 0.0]);
        }
        grid::karras(self.steps, self.sigma_min, self.sigma_max, 7.0)
    }
}

/// What sampling cost: evaluations of each stage's decoder, one per sample and call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SampleCost {
    /// Stage 1 first.
    pub evaluations_per_stage: Vec<u64>,
}

/// Draws all samples, batch by batch; `on_batch(first, latents [B, C, H, W])` receives them as the model was trained on them
/// (scaled latents). The samples do not depend on the batch size beyond rounding.
///
/// # Errors
/// If the options cannot be used, a value is not finite, `on_batch` fails, or it is interrupted ([`Error::Interrupted`]).
pub fn sample(
    model: &Model,
    options: &SampleOptions,
    progress: &dyn Progress,
    interrupt: &Interrupt,
    on_batch: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
) -> Result<SampleCost> {
    options.validate(model)?;
    let sigmas = options.sigmas()?;
    let counts: Vec<AtomicU64> = (0..model.stages()).map(|_| AtomicU64::new(0)).collect();
    progress.start("sampling", options.seeds.len() as u64, "images");
    for first in (0..options.seeds.len()).step_by(options.batch) {
        let last = (first + options.batch).min(options.seeds.len());
        let x = sample_batch(model, options, first..last, &sigmas, &counts, interrupt)?;
        on_batch(first, &x)?;
        progress.advance(last as u64, "");
    }
    progress.finish();
    Ok(SampleCost { evaluations_per_stage: counts.into_iter().map(AtomicU64::into_inner).collect() })
}

fn sample_batch(
    model: &Model,
    options: &SampleOptions,
    rows: std::ops::Range<usize>,
    sigmas: &[f64],
    counts: &[AtomicU64],
    interrupt: &Interrupt,
) -> Result<Tensor> {
    let device = model.store().device();
    let mut noise = SeededNoise::new(options.seeds[rows.clone()].to_vec());
    let x = (noise.initial(&model.config().shape, device)? * sigmas[0])?;
    let labels = &options.labels[rows];
    let denoisers = Classes {
        model,
        conditional: model.condition(labels)?,
        both: model.condition(&[labels, &vec![None; labels.len()]].concat())?,
        counts,
    };
    let guided = Guided::new(denoisers, options.guidance);
    let mut observe = |_: usize, _: &Tensor| if interrupt.is_set() { Err(Error::Interrupted) } else { Ok(()) };
    options.sampler.sample(Run { denoiser: &guided as &dyn Denoiser, sigmas, noise: &mut noise, observe: &mut observe }, x)
}

/// The model under classes, and under "no class": both in one batch of twice the size.
struct Classes<'a> {
    model: &'a Model,
    conditional: Condition,
    both: Condition,
    counts: &'a [AtomicU64],
}

impl Classes<'_> {
    fn evaluate(&self, x: &Tensor, sigma: f64, condition: &Condition) -> Result<Tensor> {
        let rows = x.dim(0)?;
        self.counts[self.model.stage(sigma)].fetch_add(rows as u64, Ordering::Relaxed);
        let answer = self.model.denoise(&x.to_dtype(DType::F32)?, &vec![sigma; rows], condition)?;
        Ok(answer.to_dtype(x.dtype())?)
    }
}

impl Pair for Classes<'_> {
    fn conditional(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.evaluate(x, sigma, &self.conditional)
    }

    fn both(&self, x: &Tensor, sigma: f64) -> Result<(Tensor, Tensor)> {
        let rows = x.dim(0)?;
        let x0 = self.evaluate(&Tensor::cat(&[x, x], 0)?, sigma, &self.both)?;
        Ok((x0.narrow(0, 0, rows)?, x0.narrow(0, rows, rows)?))
    }
}
