//! Heun's method with churn (Karras et al. 2022, Algorithm 2).

use candle_core::Tensor;

use super::{Run, combine, heun::heun_step};
use crate::Result;

/// How much noise is added before a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// S_churn: the amount over all steps; 0 makes the sampler deterministic.
    pub s_churn: f64,
    /// The smallest sigma that is churned.
    pub s_min: f64,
    /// The largest sigma that is churned.
    pub s_max: f64,
    /// Factor on the added noise; slightly above 1 counteracts the loss of detail.
    pub s_noise: f64,
}

impl Default for Churn {
    /// No churn.
    fn default() -> Self {
        Self { s_churn: 0.0, s_min: 0.0, s_max: f64::INFINITY, s_noise: 1.0 }
    }
}

impl Churn {
    /// gamma: the share by which sigma is raised before one of `steps` steps.
    pub(super) fn gamma(&self, sigma: f64, steps: usize) -> f64 {
        let inside = (self.s_min..=self.s_max).contains(&sigma);
        if inside { (self.s_churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0) } else { 0.0 }
    }
}

/// Raises sigma to (1 + gamma) sigma by fresh noise, then takes Heun's step. Draws at every step when `s_churn` > 0, also where
/// gamma is 0, so that a window does not shift the noise of later steps.
pub fn edm(run: &mut Run, mut x: Tensor, churn: Churn) -> Result<Tensor> {
    let n = run.sigmas.len() - 1;
    for (i, s, t) in run.steps() {
        let raised = s * (1.0 + churn.gamma(s, n));
        if churn.s_churn > 0.0 {
            let noise = run.draw(i, &x)?;
            x = combine(&[(1.0, &x), (((raised - s) * (raised + s)).sqrt() * churn.s_noise, &noise)])?;
        }
        x = heun_step(run, i, &x, (raised, t))?;
        run.observe(i, &x)?;
    }
    Ok(x)
}
