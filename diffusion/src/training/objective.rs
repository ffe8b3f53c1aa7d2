//! What a training minimises: a weighted distance on the network's own target, with what latent diffusion and EDM2 add to it.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::{
    ops,
    params::{Init, ParamStore, Parameter},
    random::Key,
};

use super::{Batch, DiffusionTraining};
use crate::{
    Error, Result,
    model::{Model, row_factors},
    schedule::Schedule,
    weighting::Weighed,
};

/// How the network's answer is compared with its target, elementwise and then averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Distance {
    /// Squared error.
    #[default]
    L2,
    /// Absolute error.
    L1,
    /// `d² / 2` up to `delta`, a line beyond.
    Huber {
        /// Where the line begins.
        delta: f64,
    },
}

impl Distance {
    fn per_sample(self, answer: &Tensor, target: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::L2 => ops::mse_loss(answer, target)?,
            Self::L1 => ops::l1_loss(answer, target)?,
            Self::Huber { delta } => ops::huber_loss(answer, target, delta)?,
        })
    }
}

/// A learned logarithm u of a loss's variance at each noise level: `loss exp(-u) + u` is minimised, which balances the levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogVariance {
    /// None: u = 0.
    #[default]
    None,
    /// A number for each index of a discrete schedule (latent diffusion).
    PerStep,
    /// A linear map of 128 random waves of ln sigma / 4 (Karras et al. 2024).
    Continuous,
}

/// Waves of [`LogVariance::Continuous`].
const WAVES: usize = 128;

/// The loss of a training with its own parameters.
pub struct Objective<'a> {
    config: &'a DiffusionTraining,
    store: ParamStore,
    log_variance: Option<Parameter>,
}

/// One number per sample, `[B]` each.
pub struct Losses {
    /// What is minimised.
    pub objective: Tensor,
    /// The weighted distance alone, without a graph: what is logged.
    pub weighted: Tensor,
    /// Mean squared error in x0, without a graph.
    pub x0_error: Tensor,
}

impl<'a> Objective<'a> {
    /// # Errors
    /// If a learned log-variance for each step is asked for without steps.
    pub fn new(config: &'a DiffusionTraining, device: &Device) -> Result<Self> {
        let store = ParamStore::new(config.seed, device);
        let numbers = match (config.log_variance, &config.schedule) {
            (LogVariance::None, _) => 0,
            (LogVariance::PerStep, Schedule::Ldm(discrete)) => discrete.len(),
            (LogVariance::PerStep, _) => {
                let message = "`log_variance`: per-step needs the schedule ldm, which has steps; use continuous";
                return Err(Error::Config(message.into()));
            }
            (LogVariance::Continuous, _) => WAVES,
        };
        let log_variance = (numbers > 0).then(|| store.root().param("log_variance", numbers, Init::ZEROS)).transpose()?;
        Ok(Self { config, store, log_variance })
    }

    /// Parameters of the loss itself.
    pub fn store(&self) -> &ParamStore {
        &self.store
    }

    /// The losses of a batch. `train`: the key of the dropout, which is off without one.
    ///
    /// # Errors
    /// If the model does not fit the batch.
    pub fn losses(&self, model: &Model, batch: &Batch, train: Option<Key>) -> Result<Losses> {
        let config = self.config;
        let (answer, target) = answer_and_target(model, batch, train)?;
        let of = Weighed { parametrization: config.parametrization, schedule: &config.schedule };
        let rows = |f: &dyn Fn(f64) -> f64| -> Result<Tensor> { Ok(row_factors(&batch.sigmas, &batch.x0, f)?.flatten_all()?) };
        // An error in x0 is c_out times the error on the network's own target.
        let squared = |s: f64| model.preconditioning(s).c_out.powi(2);
        let weights = rows(&|s| config.weighting.weight(s, of) * squared(s))?;
        let distance = config.loss.per_sample(&answer, &target)?;
        let weighted = (&distance * weights)?;
        let plain = match config.loss {
            Distance::L2 => distance,
            _ => ops::mse_loss(&answer, &target)?,
        };
        let mut objective = match &self.log_variance {
            None => weighted.clone(),
            Some(numbers) => {
                let u = self.log_variances(numbers, &batch.sigmas)?;
                ((&weighted * u.neg()?.exp()?)? + u)?
            }
        };
        if config.variational_weight > 0.0 {
            let bound = rows(&|s| config.variational_weight * config.schedule.variational_weight(s) * squared(s))?;
            objective = (objective + (&plain * bound)?)?;
        }
        let x0_error = (plain.detach() * rows(&squared)?)?;
        Ok(Losses { objective, weighted: weighted.detach(), x0_error })
    }

    /// u at each sigma, `[B]`.
    fn log_variances(&self, numbers: &Parameter, sigmas: &[f64]) -> Result<Tensor> {
        let device = self.store.device();
        if let (LogVariance::PerStep, Schedule::Ldm(discrete)) = (self.config.log_variance, &self.config.schedule) {
            let last = discrete.len() - 1;
            let steps: Vec<u32> =
                sigmas.iter().map(|s| (discrete.label(*s).round().max(0.0) as usize).min(last) as u32).collect();
            return Ok(numbers.get().index_select(&Tensor::from_vec(steps, sigmas.len(), device)?, 0)?);
        }
        let key = Key::new(self.config.seed, "log-variance");
        let (frequencies, phases) = (key.normal(WAVES), key.child("phase").uniform(WAVES));
        let wave = |c: f64, i: usize| {
            let angle = std::f64::consts::TAU * (f64::from(frequencies[i]) * c + f64::from(phases[i]));
            ((2.0 / WAVES as f64).sqrt() * angle.cos()) as f32
        };
        let waves: Vec<f32> =
            sigmas.iter().flat_map(|s| (0..WAVES).map(|i| wave(0.25 * s.ln(), i)).collect::<Vec<_>>()).collect();
        let waves = Tensor::from_vec(waves, (sigmas.len(), WAVES), device)?;
        Ok(waves.broadcast_mul(&numbers.get())?.sum(1)?)
    }
}

/// The network's answer to a batch, and its own target `(x0 - c_skip x) / c_out`, on which errors stay accurate where c_out is
/// small: `[B, C, H, W]` each.
fn answer_and_target(model: &Model, batch: &Batch, train: Option<Key>) -> Result<(Tensor, Tensor)> {
    let (sigmas, x0) = (&batch.sigmas, &batch.x0);
    let x = (x0 + batch.eps.broadcast_mul(&row_factors(sigmas, x0, |s| s)?)?)?;
    let mut condition = match &batch.context {
        Some(context) => model.text_condition(context)?,
        None => model.condition(&batch.labels, &batch.attributes)?,
    };
    condition.augment = batch.augment.clone();
    let condition = model.with_images(condition, batch.images.as_ref(), sigmas.len())?;
    let answer = model.network(&x, sigmas, &condition, train)?;
    let skipped = x.broadcast_mul(&row_factors(sigmas, x0, |s| model.preconditioning(s).c_skip)?)?;
    let target = (x0 - skipped)?.broadcast_mul(&row_factors(sigmas, x0, |s| 1.0 / model.preconditioning(s).c_out)?)?;
    Ok((answer, target))
}

/// Mean squared error of every sample of a batch on the network's own target, `[B]`, without a weight. `train`: the key of the
/// dropout, which is off without one.
///
/// # Errors
/// If the model does not fit the batch.
pub fn network_errors(model: &Model, batch: &Batch, train: Option<Key>) -> Result<Tensor> {
    let (answer, target) = answer_and_target(model, batch, train)?;
    Ok(ops::mse_loss(&answer, &target)?)
}
