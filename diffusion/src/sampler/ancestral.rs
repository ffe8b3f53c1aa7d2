//! Steps that replace a part of the noise: DDIM with eta, Euler ancestral, and consistency-model sampling.

use candle_core::Tensor;

use super::{Run, combine};
use crate::{Result, denoiser::Clip};

/// Settings of [`ancestral`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ancestral {
    /// How much of the noise is replaced: 0 is DDIM or Euler; 1 is DDPM with the posterior's variance, which is Euler ancestral.
    pub eta: f64,
    /// Factor on the fresh noise (LDM's temperature); 1 keeps the marginals.
    pub noise_scale: f64,
    /// Clipping of x0 alone: eps stays what the denoiser's x0 implies. (To clip both, wrap the denoiser in
    /// [`crate::denoiser::Clipped`].)
    pub clip: Option<Clip>,
}

impl Default for Ancestral {
    fn default() -> Self {
        Self { eta: 1.0, noise_scale: 1.0, clip: None }
    }
}

/// The fresh part of the noise in a step: eta sqrt(t²(s² - t²))/s, and the part that is kept, whose squares sum to t².
pub fn ancestral_split(s: f64, t: f64, eta: f64) -> (f64, f64) {
    let up = (eta * t * ((s - t) * (s + t)).max(0.0).sqrt() / s).min(t);
    (up, ((t - up) * (t + up)).sqrt())
}

/// x' = x0 + down eps + up noise (Song et al. 2021, Eq. 12, in sigma). Draws at every step when eta > 0.
pub fn ancestral(run: &mut Run, mut x: Tensor, settings: Ancestral) -> Result<Tensor> {
    for (i, s, t) in run.steps() {
        let x0 = run.denoise(i, &x, s)?;
        let (up, down) = ancestral_split(s, t, settings.eta);
        let target = settings.clip.map_or(Ok(x0.clone()), |clip| clip.apply(&x0))?;
        x = combine(&[(1.0, &target), (down / s, &x), (-down / s, &x0)])?;
        if settings.eta > 0.0 {
            let noise = run.draw(i, &x)?;
            x = combine(&[(1.0, &x), (up * settings.noise_scale, &noise)])?;
        }
        run.observe(i, &x)?;
    }
    Ok(x)
}

/// x' = x0 + sigma' noise: all the noise is fresh (Song et al. 2023, Algorithm 1). Draws at every step.
pub fn renoise(run: &mut Run, mut x: Tensor) -> Result<Tensor> {
    for (i, s, t) in run.steps() {
        let x0 = run.denoise(i, &x, s)?;
        let noise = run.draw(i, &x)?;
        x = combine(&[(1.0, &x0), (t, &noise)])?;
        run.observe(i, &x)?;
    }
    Ok(x)
}
