//! The exponential moving average of the parameters, with the decay of the three published systems.

use std::collections::HashMap;

use candle_core::{DType, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use strata_nn::params::{ParamStore, Parameter};

use crate::{
    Error, Result, card,
    host::{Real, on_host},
    power_ema,
    sweep::Blend,
};

/// How much of the old average an update keeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EmaSchedule {
    /// Always `decay`.
    Constant {
        /// In [0, 1].
        decay: f64,
    },
    /// min(decay, (1+u)/(10+u)) at update u = 1, 2, ... (latent diffusion).
    LdmWarmup {
        /// In [0, 1].
        decay: f64,
    },
    /// 0.5^(batch/h) with the half-life h, capped at `rampup_ratio` times the images seen (Karras et al. 2022).
    HalfLife {
        /// In images; may be infinite.
        half_life_images: f64,
        /// Absent: no ramp.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rampup_ratio: Option<f64>,
        /// Whether the images seen include the batch of this update (they do in Karras et al. 2024, not in 2022).
        #[serde(default)]
        batch_counts: bool,
    },
    /// A power-function profile of a width relative to the length of the training (Karras et al. 2024).
    Power {
        /// Standard deviation of the profile relative to the images seen, in (0, 0.3002].
        relative_width: f64,
    },
}

impl EmaSchedule {
    /// Checks every range.
    ///
    /// # Errors
    /// The first value out of its range, with its name.
    pub fn validate(&self) -> Result<()> {
        let (name, value, expected, ok) = match *self {
            Self::Constant { decay } | Self::LdmWarmup { decay } => ("decay", decay, "in [0, 1]", (0.0..=1.0).contains(&decay)),
            Self::HalfLife { rampup_ratio: Some(r), .. } if !(r >= 0.0 && r.is_finite()) => {
                ("rampup_ratio", r, "at least 0", false)
            }
            Self::HalfLife { half_life_images: h, .. } => ("half_life_images", h, "at least 0", h >= 0.0),
            Self::Power { relative_width } => return power_ema::exponent(relative_width).map(|_| ()),
        };
        if ok { Ok(()) } else { Err(Error::Config(format!("ema `{name}`: expected a number {expected}, got {value}"))) }
    }

    /// The factor of the old average in the update that follows `at`, with `batch` images.
    fn decay(&self, at: EmaCounters, batch: u64) -> Result<f64> {
        Ok(match *self {
            Self::Constant { decay } => decay,
            Self::LdmWarmup { decay } => {
                let u = (at.updates + 1) as f64;
                decay.min((1.0 + u) / (10.0 + u))
            }
            Self::HalfLife { half_life_images, rampup_ratio, batch_counts } => {
                let seen = (at.seen_images + if batch_counts { batch } else { 0 }) as f64;
                let half_life = rampup_ratio.map_or(half_life_images, |ratio| half_life_images.min(seen * ratio));
                0.5f64.powf(batch as f64 / half_life.max(1e-8))
            }
            Self::Power { relative_width } => {
                power_ema::decay(power_ema::exponent(relative_width)?, batch, at.seen_images + batch)
            }
        })
    }
}

/// Where an average stands; part of a checkpoint's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmaCounters {
    /// Updates done.
    pub updates: u64,
    /// Images seen.
    pub seen_images: u64,
}

/// The average of one parameter in one update.
#[derive(Debug)]
pub(crate) struct Average<'a> {
    pub tensor: &'a mut Tensor,
    decay: f64,
}

impl Average<'_> {
    pub fn blend<T: Real>(&self) -> Blend<T> {
        Blend { decay: T::from_double(self.decay), weight: T::from_double(1.0 - self.decay) }
    }

    /// e ← decay e + (1 - decay) p.
    pub fn update(&mut self, var: &Var) -> Result<()> {
        match self.tensor.dtype() {
            DType::F32 if on_host(self.tensor) => self.tensor.inplace_op2(var, &self.blend::<f32>())?,
            DType::F64 if on_host(self.tensor) => self.tensor.inplace_op2(var, &self.blend::<f64>())?,
            _ => {
                let p = var.as_detached_tensor().affine(1.0 - self.decay, 0.0)?;
                *self.tensor = (self.tensor.affine(self.decay, 0.0)? + p)?;
            }
        }
        Ok(())
    }
}

/// Updates every average once, those on a card together.
pub(crate) fn average_all(pairs: Vec<&mut card::Pair<'_>>) -> Result<()> {
    card::blend(pairs)?.into_par_iter().try_for_each(|(var, average)| average.update(var))
}

/// The average of every parameter of a store, in its precision; it begins as a copy.
#[derive(Debug)]
pub struct Ema {
    schedule: EmaSchedule,
    slots: Vec<(String, Var, Tensor)>,
    /// What the slots are of, where they are parameters: in the order of the slots.
    parameters: Vec<Parameter>,
    counters: EmaCounters,
}

impl Ema {
    /// An average that begins as a copy of the parameters, frozen ones included.
    ///
    /// # Errors
    /// A schedule out of its range.
    pub fn new(store: &ParamStore, schedule: EmaSchedule) -> Result<Self> {
        let parameters = store.parameters();
        let variables = parameters.iter().map(|p| (p.name().to_string(), p.var().clone())).collect();
        Ok(Self { parameters, ..Self::of_variables(variables, schedule)? })
    }

    /// The same over named variables, float32 or float64.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_variables(variables: Vec<(String, Var)>, schedule: EmaSchedule) -> Result<Self> {
        schedule.validate()?;
        let slots = variables
            .into_iter()
            .map(|(name, var)| {
                let copy = var.as_detached_tensor().copy()?;
                Ok((name, var, copy))
            })
            .collect::<Result<_>>()?;
        Ok(Self { schedule, slots, parameters: Vec::new(), counters: EmaCounters::default() })
    }

    /// e ← decay e + (1 - decay) p after a step of `batch` images; returns the decay. Frozen parameters (running statistics, fixed
    /// frequencies) are copied: an average would leave a constant by rounding alone.
    ///
    /// # Errors
    /// Those of candle.
    pub fn update(&mut self, batch: u64) -> Result<f64> {
        self.update_in_parts(batch, |parts| average_all(parts.iter_mut().collect()))
    }

    /// The same, each average updated by `f`: exactly once.
    pub(crate) fn update_in_parts(&mut self, batch: u64, f: impl FnOnce(&mut [(Var, Average<'_>)]) -> Result<()>) -> Result<f64> {
        let decay = self.schedule.decay(self.counters, batch)?;
        let parameters = &self.parameters;
        let frozen = |i: usize| parameters.get(i).is_some_and(|p: &Parameter| !p.is_trainable());
        let slots = self.slots.iter_mut().enumerate();
        let mut parts: Vec<_> = slots
            .map(|(i, (_, var, tensor))| (var.clone(), Average { tensor, decay: if frozen(i) { 0.0 } else { decay } }))
            .collect();
        f(&mut parts)?;
        self.counters.updates += 1;
        self.counters.seen_images += batch;
        Ok(decay)
    }

    /// Updates done and images seen, for the checkpoint's state.
    pub fn counters(&self) -> EmaCounters {
        self.counters
    }

    /// Continues from elsewhere, for example with an average that begins late in a training.
    pub fn set_counters(&mut self, counters: EmaCounters) {
        self.counters = counters;
    }

    /// The averages under the parameters' names, in order of creation: a weight file of the network. Later updates
    /// change these tensors; copy them to keep them.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.slots.iter().map(|(name, _, average)| (name.clone(), average.clone())).collect()
    }

    /// Takes up saved averages and counters; nothing is changed unless every name and shape agrees.
    ///
    /// # Errors
    /// Every missing, unexpected and mis-shaped tensor at once.
    pub fn load(&mut self, tensors: &HashMap<String, Tensor>, counters: EmaCounters) -> Result<()> {
        let wanted: HashMap<String, Tensor> = self.tensors().into_iter().collect();
        crate::checkpoint::check_names(&wanted, tensors, "the average")?;
        for (name, _, average) in &mut self.slots {
            if let Some(t) = tensors.get(name.as_str()) {
                *average = t.to_dtype(average.dtype())?.to_device(average.device())?.copy()?;
            }
        }
        self.counters = counters;
        Ok(())
    }
}
