//! How a sample's error is weighted.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, denoiser::Parametrization, schedule::Schedule};

/// How a sample's squared error in x0 is weighted. Whatever the network predicts, a weight means the same: its answer is compared on
/// its own target, and the factor between the two errors is taken into account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Weighting {
    /// `(sigma² + sigma_data²) / (sigma sigma_data)²` (Karras et al. 2022): the network's own error, unweighted, under EDM.
    #[default]
    Edm,
    /// `1 / sigma²`: the error in eps, unweighted (Ho et al. 2020); score-SDE's loss (Song et al. 2021).
    Eps,
    /// 1: the error in x0, unweighted.
    X0,
    /// The network's own error, unweighted, whatever it predicts: latent diffusion's simple loss, a rectified flow's loss.
    Network,
    /// `min(1 / sigma², gamma)` (Hang et al. 2023).
    MinSnr {
        /// Signal-to-noise ratio above which the weight grows no more; 5 in the paper.
        gamma: f64,
    },
    /// `1 / (sigma² + 1 / gamma)`, the same without a corner (Crowson et al. 2024).
    SoftMinSnr {
        /// As in min-SNR; 4 in the paper.
        gamma: f64,
    },
    /// g(t)² times the error in the score (Song et al. 2021, "Maximum likelihood training"): with times drawn uniformly a bound on
    /// the likelihood. That is `2 (d ln sigma / dt) / sigma²` for every schedule. Sigma drawn log-uniformly with the weights `eps` is
    /// the same loss by importance sampling.
    Likelihood,
}

/// What weights depend on beside sigma.
#[derive(Clone, Copy, Debug)]
pub struct Weighed<'a> {
    /// What the network predicts.
    pub parametrization: Parametrization,
    /// The schedule that it is trained with.
    pub schedule: &'a Schedule,
}

impl Weighting {
    /// The weight at `sigma` of the squared error in x0.
    pub fn weight(self, sigma: f64, of: Weighed<'_>) -> f64 {
        let snr = 1.0 / (sigma * sigma);
        match self {
            Self::Edm => {
                let sigma_data = of.parametrization.sigma_data();
                snr + 1.0 / (sigma_data * sigma_data)
            }
            Self::Eps => snr,
            Self::X0 => 1.0,
            Self::Network => of.parametrization.at(of.schedule, sigma).c_out.powi(-2),
            Self::MinSnr { gamma } => snr.min(gamma),
            Self::SoftMinSnr { gamma } => 1.0 / (sigma * sigma + 1.0 / gamma),
            Self::Likelihood => 2.0 * of.schedule.log_sigma_slope(sigma) * snr,
        }
    }

    /// # Errors
    /// If a value cannot be used.
    pub fn validate(self) -> Result<()> {
        match self {
            Self::MinSnr { gamma } | Self::SoftMinSnr { gamma } if !(gamma > 0.0 && gamma.is_finite()) => {
                Err(Error::Config(format!("`weighting`: expected a gamma above 0, got {gamma}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(weighting: Weighting, sigma: f64, parametrization: Parametrization, schedule: &Schedule) -> f64 {
        weighting.weight(sigma, Weighed { parametrization, schedule })
    }

    #[test]
    fn the_network_s_own_error_is_what_each_paper_minimises() {
        let (vp, flow) = (Schedule::vp(), Schedule::Flow { t_min: 1e-3 });
        for sigma in [0.03, 0.8, 20.0f64] {
            let network = |p, schedule: &Schedule| weight(Weighting::Network, sigma, p, schedule);
            let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b} at {sigma}");
            close(network(Parametrization::Eps, &vp), weight(Weighting::Eps, sigma, Parametrization::Eps, &vp));
            close(network(Parametrization::X0, &vp), 1.0);
            // v: the SNR plus 1 (Salimans & Ho 2022); a flow: ((1 + sigma) / sigma)².
            close(network(Parametrization::V, &vp), 1.0 / sigma.powi(2) + 1.0);
            close(network(Parametrization::Velocity, &flow), ((1.0 + sigma) / sigma).powi(2));
            let f = Parametrization::F { sigma_data: 0.5 };
            close(network(f, &vp), weight(Weighting::Edm, sigma, f, &vp));
        }
    }

    #[test]
    fn bounded_weights() {
        let vp = Schedule::vp();
        let at = |w: Weighting, sigma| weight(w, sigma, Parametrization::Eps, &vp);
        assert_eq!(at(Weighting::MinSnr { gamma: 5.0 }, 0.1), 5.0);
        assert_eq!(at(Weighting::MinSnr { gamma: 5.0 }, 1.0), 1.0);
        assert_eq!(at(Weighting::SoftMinSnr { gamma: 4.0 }, 0.5), 2.0);
        assert!(at(Weighting::SoftMinSnr { gamma: 4.0 }, 1e-6) <= 4.0);
        assert!(Weighting::MinSnr { gamma: 0.0 }.validate().is_err());
    }

    /// g² / b² of the stochastic differential equations, by their own formulas.
    #[test]
    fn likelihood_weights_are_the_squared_diffusion() {
        let t = 0.4;
        let (beta, integral) = (0.1 + 19.9 * t, 0.1 * t + 0.5 * 19.9 * t * t);
        let vp = beta / (1.0 - f64::exp(-integral));
        let sub_vp = beta * (1.0 - f64::exp(-2.0 * integral)) / (1.0 - f64::exp(-integral)).powi(2);
        let ve = 2.0 * f64::ln(100.0 / 0.02);
        for (name, expected) in [("vp", vp), ("sub-vp", sub_vp), ("ve", ve)] {
            let Ok(schedule) = name.parse::<Schedule>() else { unreachable!() };
            let sigma = schedule.sigma(t);
            let got = weight(Weighting::Likelihood, sigma, Parametrization::Eps, &schedule) * sigma * sigma;
            assert!((got / expected - 1.0).abs() < 1e-9, "{name}: {got}, expected {expected}");
        }
    }
}
