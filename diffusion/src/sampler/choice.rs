//! The samplers by name.

use std::{fmt, str::FromStr};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{Error, Result, schedule::Schedule};

/// A sampler with its settings. As text: a name of [`Sampler::names`], and where it has settings, `name:key=value,key=value`, for example
/// `ddim:eta=0.5` or `edm:s_churn=40,s_noise=1.003`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sampler {
    /// [`euler()`].
    Euler,
    /// [`ancestral()`] without noise unless eta is set.
    Ddim {
        /// Share of fresh noise.
        eta: f64,
    },
    /// [`ancestral()`].
    EulerAncestral {
        /// Share of fresh noise.
        eta: f64,
    },
    /// [`ddpm()`]: 0 the posterior's variance, 1 beta.
    Ddpm {
        /// Between the two.
        beta_share: f64,
    },
    /// [`renoise()`].
    Renoise,
    /// [`heun()`].
    Heun,
    /// [`edm()`].
    Edm(Churn),
    /// [`dpm2()`].
    Dpm2 {
        /// Share of fresh noise.
        eta: f64,
    },
    /// [`lms()`].
    Lms {
        /// How many slopes.
        order: usize,
    },
    /// [`plms()`].
    Plms,
    /// [`multistep()`].
    Multistep {
        /// The integrator.
        solver: Dpm,
        /// Up to 3.
        order: usize,
    },
    /// [`singlestep()`].
    Singlestep {
        /// The integrator.
        solver: Dpm,
        /// Up to 3.
        order: usize,
    },
    /// [`adaptive()`]; a last sigma of 0 is reached by one more step.
    Adaptive {
        /// The integrator.
        solver: Dpm,
        /// 2 or 3.
        order: usize,
        /// Absolute tolerance.
        atol: f64,
        /// Relative tolerance.
        rtol: f64,
    },
    /// [`unipc()`].
    UniPc {
        /// Of the predictor.
        order: usize,
    },
    /// [`deis()`].
    Deis {
        /// Up to 4.
        order: usize,
    },
}

const DATA: Dpm = Dpm { prediction: Prediction::Data, form: Form::Midpoint, stochastic: false, published_third: false };
const NOISE: Dpm = Dpm { prediction: Prediction::Noise, ..DATA };
const SDE: Dpm = Dpm { stochastic: true, ..DATA };
const CHURN: Churn = Churn { s_churn: 0.0, s_min: 0.0, s_max: f64::INFINITY, s_noise: 1.0 };
/// Steps below which multistep methods end with lower orders.
const FEW_STEPS: usize = 15;

const NAMED: [(&str, Sampler); 29] = [
    ("dpmpp-2m", Sampler::Multistep { solver: DATA, order: 2 }),
    ("dpmpp-3m", Sampler::Multistep { solver: DATA, order: 3 }),
    ("dpmpp-2s", Sampler::Singlestep { solver: DATA, order: 2 }),
    ("dpmpp-3s", Sampler::Singlestep { solver: DATA, order: 3 }),
    ("dpmpp-adaptive", Sampler::Adaptive { solver: DATA, order: 3, atol: 0.0078, rtol: 0.05 }),
    ("sde-dpmpp-1", Sampler::Multistep { solver: SDE, order: 1 }),
    ("sde-dpmpp-2m", Sampler::Multistep { solver: SDE, order: 2 }),
    ("sde-dpmpp-3m", Sampler::Multistep { solver: SDE, order: 3 }),
    ("sde-dpmpp-2s", Sampler::Singlestep { solver: SDE, order: 2 }),
    ("dpm-solver-1", Sampler::Singlestep { solver: NOISE, order: 1 }),
    ("dpm-solver-2", Sampler::Singlestep { solver: NOISE, order: 2 }),
    ("dpm-solver-3", Sampler::Singlestep { solver: NOISE, order: 3 }),
    ("dpm-solver-2m", Sampler::Multistep { solver: NOISE, order: 2 }),
    ("dpm-solver-3m", Sampler::Multistep { solver: NOISE, order: 3 }),
    ("dpm-solver-adaptive", Sampler::Adaptive { solver: NOISE, order: 3, atol: 0.0078, rtol: 0.05 }),
    ("euler", Sampler::Euler),
    ("euler-ancestral", Sampler::EulerAncestral { eta: 1.0 }),
    ("ddim", Sampler::Ddim { eta: 0.0 }),
    ("ddpm", Sampler::Ddpm { beta_share: 0.0 }),
    ("renoise", Sampler::Renoise),
    ("heun", Sampler::Heun),
    ("edm", Sampler::Edm(CHURN)),
    ("dpm2", Sampler::Dpm2 { eta: 0.0 }),
    ("dpm2-ancestral", Sampler::Dpm2 { eta: 1.0 }),
    ("lms", Sampler::Lms { order: 4 }),
    ("plms", Sampler::Plms),
    ("unipc", Sampler::UniPc { order: 2 }),
    ("unipc-3", Sampler::UniPc { order: 3 }),
    ("deis", Sampler::Deis { order: 3 }),
];

impl Default for Sampler {
    /// DPM-Solver++(2M): good at 15 to 25 evaluations without settings.
    fn default() -> Self {
        Self::Multistep { solver: DATA, order: 2 }
    }
}

impl Sampler {
    /// Every name, the default first.
    pub fn names() -> Vec<&'static str> {
        NAMED.iter().map(|(name, _)| *name).collect()
    }

    /// The settings that may follow the name.
    fn settings(&mut self) -> Vec<(&'static str, &mut f64)> {
        match self {
            Self::Ddim { eta } | Self::EulerAncestral { eta } | Self::Dpm2 { eta } => vec![("eta", eta)],
            Self::Ddpm { beta_share } => vec![("beta_share", beta_share)],
            Self::Adaptive { atol, rtol, .. } => vec![("atol", atol), ("rtol", rtol)],
            Self::Edm(churn) => vec![
                ("s_churn", &mut churn.s_churn),
                ("s_min", &mut churn.s_min),
                ("s_max", &mut churn.s_max),
                ("s_noise", &mut churn.s_noise),
            ],
            _ => Vec::new(),
        }
    }

    /// Whether it draws noise on the way.
    pub fn is_stochastic(&self) -> bool {
        match *self {
            Self::Ddim { eta } | Self::EulerAncestral { eta } | Self::Dpm2 { eta } => eta > 0.0,
            Self::Edm(churn) => churn.s_churn > 0.0,
            Self::Multistep { solver, .. } | Self::Singlestep { solver, .. } => solver.stochastic,
            Self::Ddpm { .. } | Self::Renoise => true,
            _ => false,
        }
    }

    /// Samples x0 (or the state at the last of `run.sigmas`) from `x = x0 + sigmas[0] eps`: [B, ...], float32 or float64.
    /// `run.sigmas`: n + 1 levels for n steps, never rising, all but the last above 0. Errors on other levels, and with the step and
    /// sigma where the denoiser's answer is not finite.
    pub fn sample(&self, mut run: Run, x: Tensor) -> Result<Tensor> {
        check_sigmas(run.sigmas)?;
        let (sigmas, n) = (run.sigmas, run.sigmas.len() - 1);
        let run = &mut run;
        match *self {
            Self::Euler => euler(run, x),
            Self::Ddim { eta } | Self::EulerAncestral { eta } => ancestral(run, x, Ancestral { eta, ..Default::default() }),
            Self::Ddpm { beta_share } => ddpm(run, x, DdpmVariance { beta_share, noise_at_end: false }),
            Self::Renoise => renoise(run, x),
            Self::Heun => heun(run, x),
            Self::Edm(churn) => edm(run, x, churn),
            Self::Dpm2 { eta } => dpm2(run, x, eta),
            Self::Lms { order } => lms(run, x, order),
            Self::Plms => plms(run, x),
            Self::Multistep { solver, order } => multistep(run, x, solver, &final_orders(n, order, FEW_STEPS)),
            Self::Singlestep { solver, order } => {
                let orders = orders_to(sigmas, order);
                singlestep(run, x, solver, &orders, Form::Taylor)
            }
            Self::Adaptive { solver, order, atol, rtol } => {
                let schedule = Schedule::vp();
                adaptive_to_zero(run, x, &Adaptive { solver, order, atol, rtol, schedule })
            }
            Self::UniPc { order } => unipc(run, x, &UniPc { order, lower_order_final: n < FEW_STEPS, ..Default::default() }),
            Self::Deis { order } => deis(run, x, &final_orders(n, order, FEW_STEPS)),
        }
    }
}

/// The orders of a singlestep run whose last step, where it ends at 0, must be a move of its own.
fn orders_to(sigmas: &[f64], order: usize) -> Vec<usize> {
    let n = sigmas.len() - 1;
    if sigmas[n] > 0.0 {
        return singlestep_orders(n, order);
    }
    let mut orders = singlestep_orders(n - 1, order);
    orders.push(1);
    orders
}

/// Adaptive steps to the last sigma above 0, and Euler's from there.
fn adaptive_to_zero(run: &mut Run, x: Tensor, settings: &Adaptive) -> Result<Tensor> {
    let all = run.sigmas;
    let n = all.len() - 1;
    if all[n] > 0.0 {
        return adaptive(run, x, settings);
    }
    run.sigmas = &all[..n];
    let x = adaptive(run, x, settings)?;
    run.sigmas = &all[n - 1..];
    euler(run, x)
}

fn check_sigmas(sigmas: &[f64]) -> Result<()> {
    let wrong = |got: String| {
        Err(Error::Config(format!("sigmas: expected at least 2, finite, never rising, above 0 but for the last, got {got}")))
    };
    if sigmas.len() < 2 {
        return wrong(format!("{} of them: at least one step is needed", sigmas.len()));
    }
    for (i, pair) in sigmas.windows(2).enumerate() {
        let [s, t] = [pair[0], pair[1]];
        if !(s.is_finite() && s > 0.0 && t >= 0.0 && t <= s) {
            return wrong(format!("{s} then {t} at step {i}"));
        }
    }
    Ok(())
}

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let Some((_, sampler)) = NAMED.iter().find(|(n, _)| *n == name) else {
            let nearest = NAMED.iter().map(|(n, _)| *n).min_by_key(|n| edit_distance(n, name)).unwrap_or_default();
            let all = Self::names().join(", ");
            return Err(Error::Config(format!("unknown sampler `{name}`, did you mean `{nearest}`? known: {all}")));
        };
        let mut sampler = *sampler;
        for item in settings.split(',').filter(|item| !item.is_empty()) {
            set(&mut sampler, name, item)?;
        }
        Ok(sampler)
    }
}

/// Sets one `key=value`.
fn set(sampler: &mut Sampler, name: &str, item: &str) -> Result<()> {
    let (key, value) = item.split_once('=').unwrap_or((item, ""));
    let mut settings = sampler.settings();
    let known: Vec<&str> = settings.iter().map(|(k, _)| *k).collect();
    let target = settings.iter_mut().find(|(k, _)| *k == key.trim());
    match (target, value.trim().parse::<f64>()) {
        (Some((_, slot)), Ok(number)) if number >= 0.0 => **slot = number,
        (Some(_), _) => {
            return Err(Error::Config(format!("sampler `{name}`: `{key}` expected a number of at least 0, got `{value}`")));
        }
        (None, _) => {
            let known = if known.is_empty() { "no settings".to_owned() } else { known.join(", ") };
            return Err(Error::Config(format!("sampler `{name}`: unknown setting `{key}`; it has {known}")));
        }
    }
    Ok(())
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMED.iter().find(|(_, sampler)| sampler == self) {
            return f.write_str(name);
        }
        let mut own = *self;
        let values: Vec<(&str, f64)> = own.settings().into_iter().map(|(k, v)| (k, *v)).collect();
        for (name, sampler) in NAMED {
            let mut with_own = sampler;
            let defaults: Vec<f64> = with_own.settings().into_iter().map(|(_, v)| *v).collect();
            with_own.settings().into_iter().zip(&values).for_each(|((_, slot), (_, value))| *slot = *value);
            if with_own != *self {
                continue;
            }
            let differing: Vec<String> =
                values.iter().zip(defaults).filter(|((_, v), d)| v != d).map(|((k, v), _)| format!("{k}={v}")).collect();
            let colon = if differing.is_empty() { "" } else { ":" };
            return write!(f, "{name}{colon}{}", differing.join(","));
        }
        write!(f, "{self:?}")
    }
}

impl TryFrom<String> for Sampler {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Sampler> for String {
    fn from(sampler: Sampler) -> Self {
        sampler.to_string()
    }
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in Sampler::names() {
            assert_eq!(name.parse::<Sampler>().unwrap().to_string(), name);
        }
        for text in ["ddim:eta=0.5", "edm:s_churn=40,s_noise=1.003"] {
            assert_eq!(text.parse::<Sampler>().unwrap().to_string(), text);
        }
        assert_eq!(Sampler::default().to_string(), Sampler::names()[0]);
    }

    #[test]
    fn errors_name_the_nearest() {
        let message = |text: &str| text.parse::<Sampler>().unwrap_err().to_string();
        assert!(message("dpmp-2m").contains("did you mean `dpmpp-2m`?"));
        assert!(message("ddim:etta=1").contains("unknown setting `etta`; it has eta"));
        assert!(message("ddim:eta=x").contains("expected a number"));
        assert!(message("euler:eta=1").contains("no settings"));
    }
}
