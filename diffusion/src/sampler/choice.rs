//! The samplers by name.

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
    /// [`ddpm()`] with the network's own variance.
    DdpmLearned,
    /// [`renoise()`].
    Renoise,
    /// [`heun()`].
    Heun,
    /// [`edm()`].
    Edm(Churn),
    /// [`edm_general()`] in sigma, without a scale.
    EdmGeneral {
        /// Where the second evaluation lies in the step: 1 is Heun, 1/2 the midpoint, 2/3 Ralston; 0 leaves it out (Euler).
        alpha: f64,
        /// Noise added before the steps.
        churn: Churn,
    },
    /// [`restart()`].
    Restart(Restart),
    /// [`predictor_corrector()`].
    PredictorCorrector(PredictorCorrector),
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

const DATA: Dpm =
    Dpm { prediction: Prediction::Data, form: Form::Midpoint, stochastic: false, published_third: false, published_noise: false };
const NOISE: Dpm = Dpm { prediction: Prediction::Noise, ..DATA };
const SDE: Dpm = Dpm { stochastic: true, ..DATA };
const CHURN: Churn = Churn { s_churn: 0.0, s_min: 0.0, s_max: f64::INFINITY, s_noise: 1.0 };
const RESTART: Restart = Restart { count: 2, low: 0.3, high: 2.0, steps: 4 };
const PC: PredictorCorrector =
    PredictorCorrector { predictor: Predictor::ReverseDiffusion, langevin: LangevinStep::Annealed, snr: 0.16, corrections: 1 };
const PC_ANCESTRAL: PredictorCorrector = PredictorCorrector { predictor: Predictor::Ancestral, ..PC };
/// Steps below which multistep methods end with lower orders.
const FEW_STEPS: usize = 15;

pub(super) const NAMED: [(&str, Sampler); 34] = [
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
    ("ddpm-learned", Sampler::DdpmLearned),
    ("renoise", Sampler::Renoise),
    ("heun", Sampler::Heun),
    ("edm", Sampler::Edm(CHURN)),
    ("edm-general", Sampler::EdmGeneral { alpha: 1.0, churn: CHURN }),
    ("restart", Sampler::Restart(RESTART)),
    ("pc", Sampler::PredictorCorrector(PC)),
    ("pc-ancestral", Sampler::PredictorCorrector(PC_ANCESTRAL)),
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

    /// Whether it draws noise on the way.
    pub fn is_stochastic(&self) -> bool {
        match *self {
            Self::Ddim { eta } | Self::EulerAncestral { eta } | Self::Dpm2 { eta } => eta > 0.0,
            Self::Edm(churn) | Self::EdmGeneral { churn, .. } => churn.s_churn > 0.0,
            Self::Multistep { solver, .. } | Self::Singlestep { solver, .. } => solver.stochastic,
            Self::Ddpm { .. } | Self::DdpmLearned | Self::Renoise | Self::Restart(_) | Self::PredictorCorrector(_) => true,
            _ => false,
        }
    }

    /// Whether the states decide its steps: then a sample depends on those that it is drawn with.
    pub fn is_adaptive(&self) -> bool {
        matches!(self, Self::Adaptive { .. })
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
            Self::Ddpm { beta_share } => ddpm(run, x, DdpmVariance { beta_share, ..DdpmVariance::SMALL }),
            Self::DdpmLearned => ddpm(run, x, DdpmVariance::LEARNED),
            Self::Renoise => renoise(run, x),
            Self::Heun => heun(run, x),
            Self::Edm(churn) => edm(run, x, churn),
            Self::EdmGeneral { alpha, churn } => {
                let alpha = (alpha > 0.0).then_some(alpha);
                edm_general(run, x, &EdmGeneral { map: TimeMap::Linear, scaling: Scaling::None, alpha, churn })
            }
            Self::Restart(settings) => restart(run, x, &settings),
            Self::PredictorCorrector(settings) => predictor_corrector(run, x, &settings),
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
