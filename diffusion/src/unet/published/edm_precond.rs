//! EDM's four wrappers around a network.

use super::edm::EdmUNetConfig;
use crate::{
    Error, Result,
    denoiser::{Parametrization, Preconditioning},
    schedule::Schedule,
    schedule_discrete::{BetaCurve, Discrete, DiscreteConfig},
};

/// A wrapper with its constants (Karras et al. 2022, Table 1).
#[derive(Clone, Debug, PartialEq)]
pub enum EdmPrecond {
    /// `EDMPrecond`.
    Edm {
        /// Standard deviation of the data; 0.5.
        sigma_data: f64,
    },
    /// `VPPrecond`: eps, told (M - 1) t of the linear VP schedule.
    Vp {
        /// beta(1) - beta(0); 19.9.
        beta_d: f64,
        /// beta(0); 0.1.
        beta_min: f64,
        /// 1000.
        m: usize,
        /// The smallest t of training; 1e-5.
        epsilon_t: f64,
    },
    /// `VEPrecond`: -eps, told ln(sigma / 2).
    Ve,
    /// `iDDPMPrecond`: eps, told the index of the nearest noise level.
    Iddpm {
        /// Noise levels, the largest first; the last is 0.
        u: Vec<f64>,
        /// The cosine's offset; 0.008.
        c_2: f64,
    },
}

impl EdmPrecond {
    pub(super) fn new(config: &EdmUNetConfig) -> Result<Self> {
        let m = config.m.unwrap_or(1000);
        match config.precond.as_str() {
            "EDMPrecond" => Ok(Self::Edm { sigma_data: config.sigma_data.unwrap_or(0.5) }),
            "VPPrecond" => Ok(Self::Vp {
                beta_d: config.beta_d.unwrap_or(19.9),
                beta_min: config.beta_min.unwrap_or(0.1),
                m,
                epsilon_t: config.epsilon_t.unwrap_or(1e-5),
            }),
            "VEPrecond" => Ok(Self::Ve),
            "iDDPMPrecond" => {
                let c_2 = config.c_2.unwrap_or(0.008);
                Ok(Self::Iddpm { u: cosine_levels(m, config.c_1.unwrap_or(0.001), c_2), c_2 })
            }
            other => {
                Err(Error::Config(format!("`precond`: expected EDMPrecond, VPPrecond, VEPrecond or iDDPMPrecond, got `{other}`")))
            }
        }
    }

    /// The coefficients at a noise level sigma > 0.
    pub fn at(&self, sigma: f64) -> Preconditioning {
        match self {
            Self::Edm { sigma_data } => {
                let schedule = Schedule::Edm { sigma_min: 0.002, sigma_max: 80.0 };
                Parametrization::F { sigma_data: *sigma_data }.at(&schedule, sigma)
            }
            Self::Vp { m, .. } => {
                let schedule = self.vp_schedule();
                let c = Parametrization::Eps.at(&schedule, sigma);
                Preconditioning { c_noise: (*m as f64 - 1.0) * schedule.t(sigma), ..c }
            }
            Self::Ve => Preconditioning { c_skip: 1.0, c_out: sigma, c_in: 1.0, c_noise: (0.5 * sigma).ln() },
            Self::Iddpm { u, .. } => {
                let nearest = |best: usize, j: usize| if (sigma - u[j]).abs() < (sigma - u[best]).abs() { j } else { best };
                let j = (1..u.len()).fold(0, nearest);
                let c_noise = u.len() as f64 - 2.0 - j as f64;
                Preconditioning { c_skip: 1.0, c_out: -sigma, c_in: 1.0 / sigma.hypot(1.0), c_noise }
            }
        }
    }

    /// What a model is told so that it uses the network as the wrapper does. Between the levels of `iDDPMPrecond` a model's label is
    /// fractional where the wrapper's is rounded.
    ///
    /// # Errors
    /// If the labels are scaled otherwise than a schedule's are.
    pub fn of_model(&self) -> Result<(Parametrization, Schedule)> {
        match self {
            Self::Edm { sigma_data } => {
                Ok((Parametrization::F { sigma_data: *sigma_data }, Schedule::Edm { sigma_min: 0.002, sigma_max: 80.0 }))
            }
            Self::Vp { m: 1000, .. } => Ok((Parametrization::Eps, self.vp_schedule())),
            Self::Vp { m, .. } => Err(Error::Config(format!("`M`: a model's labels are made for 1000, got {m}"))),
            Self::Ve => Ok((Parametrization::NegatedEps, Schedule::Ve { sigma_min: 0.02, sigma_max: 100.0 })),
            Self::Iddpm { u, c_2 } => {
                let (steps, cosine_s) = (u.len() - 1, *c_2);
                let config = DiscreteConfig { curve: BetaCurve::Cosine, steps, cosine_s, ..DiscreteConfig::default() };
                Ok((Parametrization::Eps, Schedule::Ldm(Discrete::new(config)?)))
            }
        }
    }

    fn vp_schedule(&self) -> Schedule {
        let Self::Vp { beta_d, beta_min, epsilon_t, .. } = *self else { return Schedule::vp() };
        Schedule::VpLinear { beta_min, beta_max: beta_min + beta_d, t_min: epsilon_t }
    }
}

/// The noise levels of the cosine schedule, no step of which loses more than a factor `c_1` of the signal's power.
fn cosine_levels(m: usize, c_1: f64, c_2: f64) -> Vec<f64> {
    let alpha_bar = |j: usize| (std::f64::consts::FRAC_PI_2 * j as f64 / m as f64 / (c_2 + 1.0)).sin().powi(2);
    let mut u = vec![0.0; m + 1];
    for j in (1..=m).rev() {
        u[j - 1] = ((u[j] * u[j] + 1.0) / (alpha_bar(j - 1) / alpha_bar(j)).max(c_1) - 1.0).sqrt();
    }
    u
}
