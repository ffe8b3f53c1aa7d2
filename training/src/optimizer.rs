//! AdamW and Adam over groups of parameters, with a global clip and the skipping of broken steps.

use std::collections::{HashMap, HashSet};

use candle_core::{DType, Device, Tensor, TensorId, Var, backprop::GradStore};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use strata_nn::params::Parameter;

use crate::{
    Error, Result,
    adam::{Rates, State},
    card::{self, Work},
    checkpoint::check_names,
    ema::{Average, Ema, average_all},
    gradients::{NormType, Sanitize, clip_factor, sanitized_norm, total_norm},
};

/// The optimizer's settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Learning rate before the schedule's multiplier.
    pub lr: f64,
    /// Decay of the running mean of gradients, in [0, 1).
    pub beta1: f64,
    /// Decay of the running mean of squared gradients, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the bias-corrected second moment.
    pub eps: f64,
    /// Weight decay per unit of learning rate.
    pub weight_decay: f64,
    /// Divides by the largest second moment seen so far (Reddi et al. 2018).
    pub amsgrad: bool,
    /// Weight decay shrinks the parameter (AdamW) instead of entering the gradient (Adam with L2).
    pub decoupled: bool,
    /// What takes the place of non-finite gradient values; without it such a step is skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<Sanitize>,
}

impl Default for AdamWConfig {
    /// Kingma & Ba 2015 with the decoupled decay 0.01 of PyTorch's AdamW, which latent diffusion trains with.
    fn default() -> Self {
        Self {
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            amsgrad: false,
            decoupled: true,
            sanitize: None,
        }
    }
}

impl AdamWConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// The first value out of its range, with its name.
    pub fn validate(&self) -> Result<()> {
        let betas = 0.0..1.0;
        let checks = [
            ("lr", self.lr, "at least 0", self.lr >= 0.0),
            ("beta1", self.beta1, "in [0, 1)", betas.contains(&self.beta1)),
            ("beta2", self.beta2, "in [0, 1)", betas.contains(&self.beta2)),
            ("eps", self.eps, "at least 0", self.eps >= 0.0),
            ("weight_decay", self.weight_decay, "at least 0", self.weight_decay >= 0.0),
        ];
        for (name, value, expected, ok) in checks {
            if !ok || !value.is_finite() {
                return Err(Error::Config(format!("optimizer `{name}`: expected a number {expected}, got {value}")));
            }
        }
        Ok(())
    }
}

/// Variables that share a learning rate and a weight decay.
#[derive(Clone, Debug)]
pub struct Group {
    /// Names and variables, float32 or float64.
    pub parameters: Vec<(String, Var)>,
    /// Learning rate before the schedule's multiplier.
    pub lr: f64,
    /// Weight decay per unit of learning rate.
    pub weight_decay: f64,
}

/// What one step is done with.
#[derive(Clone, Copy, Debug)]
pub struct StepOptions {
    /// Factor on every group's learning rate, from the schedule.
    pub lr_multiplier: f64,
    /// The gradients are scaled down to this common Euclidean norm.
    pub max_grad_norm: Option<f64>,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self { lr_multiplier: 1.0, max_grad_norm: None }
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Euclidean norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Whether the gradients were not finite, so that nothing was changed.
    pub skipped: bool,
}

#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    group: usize,
    /// Steps that this parameter had a gradient in: the k of the bias corrections.
    steps: u64,
    state: State,
}

/// Adam with its state. A parameter without a gradient in a step keeps its value and its moments.
#[derive(Debug)]
pub struct Optimizer {
    config: AdamWConfig,
    rates: Vec<(f64, f64)>,
    slots: Vec<Slot>,
    steps: u64,
    skipped: u64,
    skipped_in_a_row: u64,
}

impl Optimizer {
    /// One group with the learning rate and weight decay of `config`.
    ///
    /// # Errors
    /// A setting out of its range, or a parameter that is neither float32 nor float64.
    pub fn new(parameters: Vec<Parameter>, config: AdamWConfig) -> Result<Self> {
        let parameters = parameters.into_iter().map(|p| (p.name().to_string(), p.var().clone())).collect();
        Self::with_groups(vec![Group { parameters, lr: config.lr, weight_decay: config.weight_decay }], config)
    }

    /// Several groups; their rates take the place of those in `config`.
    ///
    /// # Errors
    /// As [`Self::new`]; a name that occurs twice.
    pub fn with_groups(groups: Vec<Group>, config: AdamWConfig) -> Result<Self> {
        config.validate()?;
        let mut optimizer = Self { config, rates: Vec::new(), slots: Vec::new(), steps: 0, skipped: 0, skipped_in_a_row: 0 };
        let mut names = HashSet::new();
        for (group, Group { parameters, lr, weight_decay }) in groups.into_iter().enumerate() {
            AdamWConfig { lr, weight_decay, ..config }.validate()?;
            optimizer.rates.push((lr, weight_decay));
            for (name, var) in parameters {
                if !names.insert(name.clone()) {
                    return Err(Error::Config(format!("parameter `{name}` is in the optimizer twice")));
                }
                let state = State::new(&var, config.amsgrad)?;
                optimizer.slots.push(Slot { name, var, group, steps: 0, state });
            }
        }
        Ok(optimizer)
    }

    /// Steps taken, without the skipped ones.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps skipped because a gradient was not finite.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How many of the last steps, without a gap, were skipped.
    pub fn skipped_in_a_row(&self) -> u64 {
        self.skipped_in_a_row
    }

    /// One step along `grads`. If any of them is not finite (and [`AdamWConfig::sanitize`] is not set), nothing is
    /// changed and the step is counted as skipped.
    ///
    /// # Errors
    /// A gradient of another shape or dtype than its parameter.
    pub fn step(&mut self, grads: &GradStore, options: StepOptions) -> Result<StepReport> {
        self.step_with(grads, options, &mut [])
    }

    /// [`Self::step`] and [`Ema::update`] after `batch` images, the same numbers in one sweep over memory: each stretch of a
    /// parameter is averaged while it is in the cache. A skipped step updates the average as well.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_and_average(&mut self, grads: &GradStore, options: StepOptions, ema: &mut Ema, batch: u64) -> Result<StepReport> {
        let mut report = None;
        ema.update_in_parts(batch, |averages| {
            report = Some(self.step_with(grads, options, averages)?);
            Ok(())
        })?;
        report.ok_or_else(|| Error::Config("the optimizer made no step".into()))
    }

    fn step_with(&mut self, grads: &GradStore, options: StepOptions, averages: &mut [(Var, Average<'_>)]) -> Result<StepReport> {
        let grads: Vec<Option<Tensor>> = self
            .slots
            .iter()
            .map(|slot| grads.get(&slot.var).map(Tensor::contiguous).transpose())
            .collect::<candle_core::Result<_>>()?;
        let present: Vec<Tensor> = grads.iter().flatten().cloned().collect();
        let grad_norm = match (card::norm(&present, self.config.sanitize)?, self.config.sanitize) {
            (Some(norm), _) => norm,
            (None, Some(sanitize)) => sanitized_norm(&present, sanitize)?,
            (None, None) => total_norm(&present, NormType::L2)?,
        };
        if !grad_norm.is_finite() {
            self.skipped += 1;
            self.skipped_in_a_row += 1;
            average_all(averages.iter_mut().collect())?;
            return Ok(StepReport { grad_norm, skipped: true });
        }
        let clip = options.max_grad_norm.map_or(1.0, |max| clip_factor(grad_norm, max));
        let mut averages: HashMap<TensorId, _> = averages.iter_mut().map(|pair| (pair.0.id(), pair)).collect();
        let work: Vec<_> = self
            .slots
            .iter_mut()
            .zip(&grads)
            .filter_map(|(slot, grad)| {
                let grad = grad.as_ref()?;
                slot.steps += 1;
                let (lr, weight_decay) = self.rates[slot.group];
                let rates = rates(&self.config, lr * options.lr_multiplier, weight_decay, clip, slot.steps);
                let average = averages.remove(&slot.var.id()).map(|(_, average)| average);
                Some(Work { var: &slot.var, state: &mut slot.state, grad, rates, average })
            })
            .collect();
        card::step(work)?.into_par_iter().try_for_each(Work::step)?;
        average_all(averages.into_values().collect())?;
        self.steps += 1;
        self.skipped_in_a_row = 0;
        Ok(StepReport { grad_norm, skipped: false })
    }

    /// The state for a checkpoint: `<parameter>.exp_avg`, `.exp_avg_sq`, `.max_exp_avg_sq` (AMSGrad) in the parameter's
    /// shape, `<parameter>.step`, and the counters `steps`, `skipped`, `skipped_in_a_row` (int64, one element).
    ///
    /// # Errors
    /// If a copy cannot be made.
    pub fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let count =
            |name: &str, n: u64| -> Result<(String, Tensor)> { Ok((name.to_string(), Tensor::new(&[n as i64], &Device::Cpu)?)) };
        let mut tensors =
            vec![count("steps", self.steps)?, count("skipped", self.skipped)?, count("skipped_in_a_row", self.skipped_in_a_row)?];
        for slot in &self.slots {
            let named = slot.state.tensors(&slot.var)?.into_iter();
            tensors.extend(named.map(|(suffix, t)| (format!("{}.{suffix}", slot.name), t)));
            tensors.push(count(&format!("{}.step", slot.name), slot.steps)?);
        }
        Ok(tensors)
    }

    /// Takes up the state of [`Self::tensors`]; nothing is changed unless every name and shape agrees.
    ///
    /// # Errors
    /// Every missing, unexpected and mis-shaped tensor at once.
    pub fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let wanted: HashMap<String, Tensor> = self.tensors()?.into_iter().collect();
        check_names(&wanted, tensors, "the optimizer state")?;
        let fetch = |name: &str| {
            tensors.get(name).cloned().ok_or_else(|| Error::Config(format!("missing `{name}` in the optimizer state")))
        };
        let count = |name: &str| -> Result<u64> {
            let values = fetch(name)?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
            Ok(values.first().copied().unwrap_or(0) as u64)
        };
        for slot in &mut self.slots {
            slot.steps = count(&format!("{}.step", slot.name))?;
            slot.state.load(&slot.var, |suffix| fetch(&format!("{}.{suffix}", slot.name)))?;
        }
        self.steps = count("steps")?;
        self.skipped = count("skipped")?;
        self.skipped_in_a_row = count("skipped_in_a_row")?;
        Ok(())
    }
}

fn rates(config: &AdamWConfig, lr: f64, weight_decay: f64, clip: f64, k: u64) -> Rates {
    let AdamWConfig { beta1, beta2, eps, decoupled, sanitize, .. } = *config;
    Rates { beta1, beta2, eps, decoupled, lr, weight_decay, clip, k, sanitize }
}
