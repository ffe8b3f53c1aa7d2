//! Ancestral sampling of a variance-preserving chain (Ho et al. 2020).

use candle_core::Tensor;

use super::{Run, combine};
use crate::Result;

/// The variance of p(x_{t-1} | x_t) around the posterior's mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdpmVariance {
    /// 0: the posterior's variance; 1: beta; in between: interpolated (LDM's `v_posterior`).
    pub beta_share: f64,
    /// Whether noise is added also in a step that ends at sigma 0, as a chain whose last index is above 0 does.
    pub noise_at_end: bool,
}

impl DdpmVariance {
    /// The posterior's variance.
    pub const SMALL: Self = Self { beta_share: 0.0, noise_at_end: false };
    /// beta itself.
    pub const LARGE: Self = Self { beta_share: 1.0, noise_at_end: false };

    /// Standard deviation of the fresh noise in a step from s to t, in the scaling x = x0 + sigma eps.
    fn deviation(self, s: f64, t: f64) -> f64 {
        let fresh = (s - t) * (s + t);
        let small = fresh * (t / s).powi(2);
        let beta = fresh * (1.0 + t * t) / (1.0 + s * s);
        ((1.0 - self.beta_share) * small + self.beta_share * beta).sqrt()
    }
}

/// x' = x0 + (sigma'²/sigma²)(x - x0) + noise. Draws at every step, but not in the last where that ends at 0.
pub fn ddpm(run: &mut Run, mut x: Tensor, variance: DdpmVariance) -> Result<Tensor> {
    for (i, s, t) in run.steps() {
        let x0 = run.denoise(i, &x, s)?;
        let keep = (t / s).powi(2);
        x = combine(&[(keep, &x), (1.0 - keep, &x0)])?;
        if t > 0.0 || variance.noise_at_end {
            let noise = run.draw(i, &x)?;
            x = combine(&[(1.0, &x), (variance.deviation(s, t), &noise)])?;
        }
        run.observe(i, &x)?;
    }
    Ok(x)
}
