//! Quantities of a chain of discrete betas: the posterior q(x_{t-1} | x_t, x0), and weights of the loss.

use crate::schedule_discrete::alphas_cumprod;

/// The Gaussian q(x_{t-1} | x_t, x0) of every index (Ho et al. 2020, Eq. 7).
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// alpha_bar of the index before; 1 for the first.
    pub alphas_cumprod_prev: Vec<f64>,
    /// Variance.
    pub variance: Vec<f64>,
    /// Its logarithm, the variance held at 1e-20 or above.
    pub log_variance_clipped: Vec<f64>,
    /// Factor of x0 in the mean.
    pub mean_x0: Vec<f64>,
    /// Factor of x_t in the mean.
    pub mean_x_t: Vec<f64>,
}

impl Posterior {
    /// From the betas. `beta_share` (LDM's `v_posterior`) moves the variance from the posterior's (0) to beta (1).
    pub fn new(betas: &[f64], beta_share: f64) -> Self {
        let bar = alphas_cumprod(betas);
        let previous: Vec<f64> = std::iter::once(1.0).chain(bar.iter().copied()).take(bar.len()).collect();
        let each = |f: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
            betas.iter().zip(bar.iter().zip(&previous)).map(|(&beta, (&a, &p))| f(beta, a, p)).collect()
        };
        let variance = each(&|beta, a, p| (1.0 - beta_share) * beta * (1.0 - p) / (1.0 - a) + beta_share * beta);
        Self {
            log_variance_clipped: variance.iter().map(|v| v.max(1e-20).ln()).collect(),
            mean_x0: each(&|beta, a, p| beta * p.sqrt() / (1.0 - a)),
            mean_x_t: each(&|beta, a, p| (1.0 - p) * (1.0 - beta).sqrt() / (1.0 - a)),
            variance,
            alphas_cumprod_prev: previous,
        }
    }

    /// LDM's weights of the variational bound (`lvlb_weights`) for a network that predicts eps, or x0. They are computed from
    /// buffers rounded to float32, and the first is a copy of the second.
    pub fn bound_weights(&self, betas: &[f64], predicts_x0: bool) -> Vec<f32> {
        let bar = alphas_cumprod(betas);
        let weight = |i: usize| {
            let (beta, a, v) = (betas[i] as f32, bar[i] as f32, self.variance[i] as f32);
            // The published x0 form subtracts from 2, not from 1.
            if predicts_x0 {
                (0.5 * f64::from(a).sqrt() / (2.0 - f64::from(a))) as f32
            } else {
                let alpha = (1.0 - betas[i]) as f32;
                beta * beta / (2.0 * v * alpha * (1.0 - a))
            }
        };
        let mut weights: Vec<f32> = (0..betas.len()).map(weight).collect();
        if weights.len() > 1 {
            weights[0] = weights[1];
        }
        weights
    }
}

/// Min-SNR weights of the squared error of (eps, v, x0) at a noise level (Hang et al. 2023).
pub fn min_snr_weights(snr: f64, gamma: f64) -> (f64, f64, f64) {
    let m = snr.min(gamma);
    (m / snr, m / (snr + 1.0), m)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_a_noiseless_x_t_is_x0() {
        // x_t = sqrt(alpha_bar) x0 must be carried to sqrt(alpha_bar_prev) x0.
        let betas = [0.1, 0.2, 0.3];
        let (posterior, bar) = (Posterior::new(&betas, 0.0), alphas_cumprod(&betas));
        for (i, a) in bar.iter().enumerate() {
            let mean = posterior.mean_x0[i] + posterior.mean_x_t[i] * a.sqrt();
            assert!((mean - posterior.alphas_cumprod_prev[i].sqrt()).abs() < 1e-12);
        }
        assert_eq!(posterior.variance[0], 0.0);
        assert_eq!(min_snr_weights(10.0, 5.0), (0.5, 5.0 / 11.0, 5.0));
    }
}
