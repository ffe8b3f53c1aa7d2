//! Noise schedules: a schedule's own time t to and from sigma, in float64 on the host.
//!
//! Every kernel is written `x_t = s_t (x0 + sigma_t eps)`: `s` is the signal scale, `s * sigma` the standard deviation of
//! the noise, `lambda = -ln sigma` half the log-SNR. A network that was trained with a schedule sees `s x` and a label.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, schedule_discrete::Discrete};

/// The largest sigma that stands for "no signal at all" (zero-terminal-SNR betas, rectified flow at t = 1).
pub const SIGMA_CAP: f64 = 1e8;

/// A noise schedule. `t` grows with the noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// Variance preserving, beta linear in t in (0, 1] (Song et al. 2021): sigma² = exp(beta_min t + (beta_max - beta_min) t²/2) - 1.
    VpLinear {
        /// beta(0); 0.1 in Song et al. 2021.
        beta_min: f64,
        /// beta(1); 20 in Song et al. 2021.
        beta_max: f64,
        /// The smallest time that sampling ends at and training draws; 1e-3 as EDM's `epsilon_s`.
        #[serde(default = "default_t_min")]
        t_min: f64,
    },
    /// Sub-variance-preserving (Song et al. 2021): the noise has standard deviation 1 - exp(-I(t)).
    SubVp {
        /// beta(0).
        beta_min: f64,
        /// beta(1).
        beta_max: f64,
        /// The smallest time.
        #[serde(default = "default_t_min")]
        t_min: f64,
    },
    /// Variance exploding (Song et al. 2021): sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1].
    Ve {
        /// sigma(0).
        sigma_min: f64,
        /// sigma(1).
        sigma_max: f64,
    },
    /// sigma = t (Karras et al. 2022).
    Edm {
        /// Where sampling ends before the step to 0.
        sigma_min: f64,
        /// Where sampling begins.
        sigma_max: f64,
    },
    /// N discrete betas (Ho et al. 2020, Rombach et al. 2022), with t = (index + 1) / N and ln s linear in between.
    Ldm(Discrete),
    /// Rectified flow: x_t = (1 - t) x0 + t eps.
    Flow {
        /// The smallest time.
        #[serde(default = "default_t_min")]
        t_min: f64,
    },
}

fn default_t_min() -> f64 {
    1e-3
}

impl Default for Schedule {
    fn default() -> Self {
        Self::vp()
    }
}

impl std::str::FromStr for Schedule {
    type Err = Error;

    /// A schedule with its published constants: one of `Schedule::NAMES`.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "vp" => Ok(Self::vp()),
            "sub-vp" => Ok(Self::SubVp { beta_min: 0.1, beta_max: 20.0, t_min: 1e-3 }),
            "ve" => Ok(Self::Ve { sigma_min: 0.02, sigma_max: 100.0 }),
            "edm" => Ok(Self::Edm { sigma_min: 0.002, sigma_max: 80.0 }),
            "ldm" => Ok(Self::Ldm(Discrete::default())),
            "flow" => Ok(Self::Flow { t_min: 1e-3 }),
            _ => Err(Error::Config(format!("schedule: expected one of {}, got `{name}`", Self::NAMES.join(", ")))),
        }
    }
}

/// ln(exp(I)) of the VP family: the integral of beta from 0 to t.
fn beta_integral(beta_min: f64, beta_max: f64, t: f64) -> f64 {
    beta_min * t + 0.5 * (beta_max - beta_min) * t * t
}

/// The t at which the integral of beta is `integral`: the positive root, in a form without cancellation.
fn beta_integral_inverse(beta_min: f64, beta_max: f64, integral: f64) -> f64 {
    2.0 * integral / (beta_min + (beta_min * beta_min + 2.0 * (beta_max - beta_min) * integral).sqrt())
}

impl Schedule {
    /// What `from_str` knows.
    pub const NAMES: [&str; 6] = ["vp", "sub-vp", "ve", "edm", "ldm", "flow"];

    /// The VP schedule of Song et al. 2021: beta from 0.1 to 20.
    pub fn vp() -> Self {
        Self::VpLinear { beta_min: 0.1, beta_max: 20.0, t_min: 1e-3 }
    }

    /// Errors if a constant is out of its range: names it with the expectation.
    pub fn validate(&self) -> Result<()> {
        let ok = match *self {
            Self::VpLinear { beta_min, beta_max, t_min } | Self::SubVp { beta_min, beta_max, t_min } => {
                beta_min > 0.0 && beta_max >= beta_min && beta_max.is_finite() && t_min > 0.0 && t_min < 1.0
            }
            Self::Ve { sigma_min, sigma_max } | Self::Edm { sigma_min, sigma_max } => {
                sigma_min > 0.0 && sigma_max > sigma_min && sigma_max.is_finite()
            }
            Self::Ldm(_) => true,
            Self::Flow { t_min } => t_min > 0.0 && t_min < 1.0,
        };
        let expected = "expected 0 < beta_min <= beta_max, 0 < t_min < 1, 0 < sigma_min < sigma_max, all finite";
        if ok { Ok(()) } else { Err(Error::Config(format!("schedule: {expected}, got {self:?}"))) }
    }

    /// sigma at the schedule's own time.
    pub fn sigma(&self, t: f64) -> f64 {
        match *self {
            Self::VpLinear { beta_min, beta_max, .. } => beta_integral(beta_min, beta_max, t).exp_m1().sqrt(),
            Self::SubVp { beta_min, beta_max, .. } => 2.0 * (0.5 * beta_integral(beta_min, beta_max, t)).sinh(),
            Self::Ve { sigma_min, sigma_max } => sigma_min * (sigma_max / sigma_min).powf(t),
            Self::Edm { .. } => t,
            Self::Ldm(ref discrete) => discrete.sigma(t),
            Self::Flow { .. } => (t / (1.0 - t)).min(SIGMA_CAP),
        }
    }

    /// The schedule's own time at which sigma is reached; the inverse of [`Self::sigma`].
    pub fn t(&self, sigma: f64) -> f64 {
        match *self {
            Self::VpLinear { beta_min, beta_max, .. } => beta_integral_inverse(beta_min, beta_max, (sigma * sigma).ln_1p()),
            Self::SubVp { beta_min, beta_max, .. } => beta_integral_inverse(beta_min, beta_max, 2.0 * (0.5 * sigma).asinh()),
            Self::Ve { sigma_min, sigma_max } => (sigma / sigma_min).ln() / (sigma_max / sigma_min).ln(),
            Self::Edm { .. } => sigma,
            Self::Ldm(ref discrete) => discrete.t(sigma),
            Self::Flow { .. } => sigma / (1.0 + sigma),
        }
    }

    /// The signal scale s at sigma: the state of the schedule's own process is `s (x0 + sigma eps)`.
    pub fn scale(&self, sigma: f64) -> f64 {
        match *self {
            Self::VpLinear { .. } | Self::Ldm(_) => 1.0 / sigma.hypot(1.0),
            // exp(-I/2) with I/2 = asinh(sigma/2).
            Self::SubVp { .. } => (-(0.5 * sigma).asinh()).exp(),
            Self::Ve { .. } | Self::Edm { .. } => 1.0,
            Self::Flow { .. } => 1.0 / (1.0 + sigma),
        }
    }

    /// Half the log-SNR.
    pub fn lambda(&self, t: f64) -> f64 {
        -self.sigma(t).ln()
    }

    /// The noise label that a network trained with this schedule sees (`c_noise`): VP 999 t; VE ln(sigma/2); EDM ln(sigma)/4;
    /// discrete betas the index, which may be fractional; flow 1000 t.
    pub fn label(&self, sigma: f64) -> f64 {
        match self {
            Self::VpLinear { .. } | Self::SubVp { .. } => 999.0 * self.t(sigma),
            Self::Ve { .. } => (0.5 * sigma).ln(),
            Self::Edm { .. } => 0.25 * sigma.ln(),
            Self::Ldm(discrete) => discrete.label(sigma),
            Self::Flow { .. } => 1000.0 * self.t(sigma),
        }
    }

    /// The times between which training draws and sampling runs, smallest first.
    pub fn t_range(&self) -> (f64, f64) {
        match *self {
            Self::VpLinear { t_min, .. } | Self::SubVp { t_min, .. } | Self::Flow { t_min } => (t_min, 1.0),
            Self::Ve { .. } => (0.0, 1.0),
            Self::Edm { sigma_min, sigma_max } => (sigma_min, sigma_max),
            Self::Ldm(ref discrete) => (1.0 / discrete.len() as f64, 1.0),
        }
    }

    /// The noise levels between which training draws and sampling runs, smallest first.
    pub fn sigma_range(&self) -> (f64, f64) {
        let (lo, hi) = self.t_range();
        (self.sigma(lo), self.sigma(hi))
    }

    /// sigma for a number uniform in [0, 1): uniform in the schedule's own time, except for VE and EDM, whose times are
    /// unbounded scales: uniform in ln sigma.
    pub fn sigma_from_uniform(&self, u: f64) -> f64 {
        match self {
            Self::Edm { sigma_min, sigma_max } => sigma_min * (sigma_max / sigma_min).powf(u),
            Self::Ldm(discrete) => discrete.sigmas()[((u * discrete.len() as f64) as usize).min(discrete.len() - 1)],
            _ => {
                let (lo, hi) = self.t_range();
                self.sigma(lo + u * (hi - lo))
            }
        }
    }

    /// d ln sigma / du at `sigma`, where u is what [`Self::sigma_from_uniform`] takes (but for the part of the times below `t_min`).
    pub fn log_sigma_slope(&self, sigma: f64) -> f64 {
        let beta = |beta_min: f64, beta_max: f64| beta_min + (beta_max - beta_min) * self.t(sigma);
        match *self {
            Self::VpLinear { beta_min, beta_max, .. } => 0.5 * beta(beta_min, beta_max) * (1.0 + sigma.powi(-2)),
            Self::SubVp { beta_min, beta_max, .. } => 0.5 * beta(beta_min, beta_max) * (1.0 + 4.0 * sigma.powi(-2)).sqrt(),
            Self::Ve { sigma_min, sigma_max } | Self::Edm { sigma_min, sigma_max } => (sigma_max / sigma_min).ln(),
            Self::Ldm(ref discrete) => {
                let (before, at) = discrete.step_before(sigma);
                (at / before).ln() * discrete.len() as f64
            }
            Self::Flow { .. } => (1.0 + sigma).powi(2) / sigma,
        }
    }

    /// What the squared error in x0 at `sigma` contributes to the variational bound: half of what the signal-to-noise ratio loses in
    /// a step of a discrete schedule, or in a unit of time of a continuous one (Kingma et al. 2021). The first step, which is the
    /// likelihood of the data, counts as the second.
    pub fn variational_weight(&self, sigma: f64) -> f64 {
        match self {
            Self::Ldm(discrete) => {
                let (before, at) = discrete.step_before(sigma);
                0.5 * (before.powi(-2) - at.powi(-2))
            }
            _ => self.log_sigma_slope(sigma) / (sigma * sigma),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_slope_is_the_derivative() {
        for name in Schedule::NAMES {
            let schedule: Schedule = name.parse().unwrap();
            for u in [0.2, 0.5, 0.8] {
                // A discrete schedule is constant between its steps.
                let h = if name == "ldm" { 0.5e-3 } else { 1e-6 };
                let [below, at, above] = [u - h, u, u + h].map(|u| schedule.sigma_from_uniform(u));
                let slope = (above / below).ln() / (2.0 * h);
                let got = schedule.log_sigma_slope(at);
                assert!((got / slope - 1.0).abs() < 3e-3, "{name} at {u}: {got}, expected {slope}");
            }
        }
    }

    #[test]
    fn the_variational_weight_of_eps_is_the_published_one() {
        let schedule: Schedule = "ldm".parse().unwrap();
        let betas = crate::schedule_discrete::DiscreteConfig::default().betas().unwrap();
        let alpha_bar = crate::schedule_discrete::alphas_cumprod(&betas);
        for i in [1, 10, 700] {
            // beta² / (2 posterior_variance alpha (1 - alpha_bar)) of Ho et al. 2020.
            let posterior = betas[i] * (1.0 - alpha_bar[i - 1]) / (1.0 - alpha_bar[i]);
            let expected = betas[i].powi(2) / (2.0 * posterior * (1.0 - betas[i]) * (1.0 - alpha_bar[i]));
            let sigma = ((1.0 - alpha_bar[i]) / alpha_bar[i]).sqrt();
            let got = schedule.variational_weight(sigma) * sigma * sigma;
            assert!((got / expected - 1.0).abs() < 1e-6, "{i}: {got}, expected {expected}");
        }
    }

    #[test]
    fn t_inverts_sigma() {
        for name in Schedule::NAMES {
            let schedule: Schedule = name.parse().unwrap();
            schedule.validate().unwrap();
            let (lo, hi) = schedule.t_range();
            for i in 0..=100 {
                let t = lo + (hi - lo) * f64::from(i) / 100.0;
                let back = schedule.t(schedule.sigma(t));
                assert!((back - t).abs() < 1e-7 * hi, "{name}: {t} -> {back}");
            }
        }
    }

    #[test]
    fn scale_is_consistent_with_the_process() {
        let sub: Schedule = "sub-vp".parse().unwrap();
        let integral = beta_integral(0.1, 20.0, 0.4);
        let sigma = sub.sigma(0.4);
        assert!((sub.scale(sigma) - (-0.5 * integral).exp()).abs() < 1e-12);
        assert!((sub.scale(sigma) * sigma - (1.0 - (-integral).exp())).abs() < 1e-12);
        let vp = Schedule::vp();
        assert!((vp.scale(vp.sigma(0.4)) - (-0.5 * integral).exp()).abs() < 1e-12);
    }

    #[test]
    fn toml_round_trip_and_unknown_keys() {
        for name in Schedule::NAMES {
            let schedule: Schedule = name.parse().unwrap();
            let text = toml::to_string(&schedule).unwrap();
            assert_eq!(toml::from_str::<Schedule>(&text).unwrap(), schedule, "{text}");
            assert!(toml::from_str::<Schedule>(&format!("{text}\nbeta_mix = 1\n")).is_err(), "{name}");
        }
        assert!("vpp".parse::<Schedule>().is_err());
        assert!(Schedule::Edm { sigma_min: 2.0, sigma_max: 1.0 }.validate().is_err());
    }
}
