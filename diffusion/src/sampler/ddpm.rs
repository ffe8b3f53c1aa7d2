//! Ancestral sampling of a variance-preserving chain (Ho et al. 2020), with a fixed variance or a learned one.

use candle_core::Tensor;

use super::{Run, combine};
use crate::{Error, Result};

/// The variance of p(x_{t-1} | x_t) around the posterior's mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdpmVariance {
    /// 0: the posterior's variance; 1: beta; in between: interpolated (LDM's `v_posterior`).
    pub beta_share: f64,
    /// The network's own variance instead (Nichol & Dhariwal 2021): an error if the denoiser has none.
    pub learned: bool,
    /// Whether noise is added also in a step that ends at sigma 0, as a chain whose last index is above 0 does.
    pub noise_at_end: bool,
}

impl DdpmVariance {
    /// The posterior's variance.
    pub const SMALL: Self = Self { beta_share: 0.0, learned: false, noise_at_end: false };
    /// beta itself.
    pub const LARGE: Self = Self { beta_share: 1.0, learned: false, noise_at_end: false };
    /// The network's.
    pub const LEARNED: Self = Self { beta_share: 0.0, learned: true, noise_at_end: false };

    /// The posterior's variance and beta in a step from s to t, in the scaling x = x0 + sigma eps.
    fn bounds(s: f64, t: f64) -> (f64, f64) {
        let fresh = (s - t) * (s + t);
        (fresh * (t / s).powi(2), fresh * (1.0 + t * t) / (1.0 + s * s))
    }

    /// The fresh noise of a step, of the right deviation.
    fn scaled(self, noise: &Tensor, share: Option<&Tensor>, (s, t): (f64, f64)) -> Result<Tensor> {
        let (small, beta) = Self::bounds(s, t);
        let Some(share) = share.filter(|_| self.learned) else {
            return combine(&[(((1.0 - self.beta_share) * small + self.beta_share * beta).sqrt(), noise)]);
        };
        // The mean of the logarithms; at t = 0, where the lower one is infinite, beta alone.
        if small == 0.0 {
            return combine(&[(beta.sqrt(), noise)]);
        }
        let deviation = share.affine(0.5 * (beta / small).ln(), 0.5 * small.ln())?.exp()?;
        Ok((noise * deviation)?)
    }
}

/// x' = x0 + (sigma'²/sigma²)(x - x0) + noise. Draws at every step, but not in the last where that ends at 0.
pub fn ddpm(run: &mut Run, mut x: Tensor, variance: DdpmVariance) -> Result<Tensor> {
    for (i, s, t) in run.steps() {
        let estimate = run.estimate(i, &x, s)?;
        if variance.learned && estimate.variance_share.is_none() {
            return Err(Error::Config("ddpm: the learned variance is asked for, but the network did not learn one".into()));
        }
        let keep = (t / s).powi(2);
        x = combine(&[(keep, &x), (1.0 - keep, &estimate.x0)])?;
        if t > 0.0 || variance.noise_at_end {
            let noise = run.draw(i, &x)?;
            let noise = variance.scaled(&noise, estimate.variance_share.as_ref(), (s, t))?;
            x = combine(&[(1.0, &x), (1.0, &noise)])?;
        }
        run.observe(i, &x)?;
    }
    Ok(x)
}
