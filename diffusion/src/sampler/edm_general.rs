//! The general sampler of Karras et al. 2022's ablations: any time map, scaling, and second-order rule.

use candle_core::Tensor;

use super::{Churn, Run, combine};
use crate::Result;

/// sigma as a function of the time in which the steps are straight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeMap {
    /// sigma = t (EDM).
    Linear,
    /// sigma = sqrt(t) (VE).
    Root,
    /// sigma = sqrt(exp(beta_d t²/2 + beta_min t) - 1) (VP).
    Vp {
        /// The slope of beta.
        beta_d: f64,
        /// beta at 0.
        beta_min: f64,
    },
}

/// The scale s(t) of the state whose ODE is solved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// 1.
    None,
    /// 1/sqrt(1 + sigma²).
    Vp,
}

/// Settings of [`edm_general`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EdmGeneral {
    /// The time.
    pub map: TimeMap,
    /// The scale of the state.
    pub scaling: Scaling,
    /// None is Euler; else the second evaluation is at the fraction alpha of the step: 1 is Heun, 1/2 the midpoint, 2/3 Ralston.
    pub alpha: Option<f64>,
    /// Noise added before the steps.
    pub churn: Churn,
}

impl TimeMap {
    /// sigma(t).
    pub fn sigma(self, t: f64) -> f64 {
        match self {
            Self::Linear => t,
            Self::Root => t.sqrt(),
            Self::Vp { beta_d, beta_min } => (0.5 * beta_d * t * t + beta_min * t).exp_m1().sqrt(),
        }
    }

    /// The t of a sigma.
    pub fn t(self, sigma: f64) -> f64 {
        match self {
            Self::Linear => sigma,
            Self::Root => sigma * sigma,
            Self::Vp { beta_d, beta_min } => {
                let log = (sigma * sigma).ln_1p();
                ((beta_min * beta_min + 2.0 * beta_d * log).sqrt() - beta_min) / beta_d
            }
        }
    }

    /// d sigma / d t.
    fn derivative(self, t: f64) -> f64 {
        match self {
            Self::Linear => 1.0,
            Self::Root => 0.5 / t.sqrt(),
            Self::Vp { beta_d, beta_min } => {
                let sigma = self.sigma(t);
                0.5 * (beta_min + beta_d * t) * (sigma + 1.0 / sigma)
            }
        }
    }
}

impl EdmGeneral {
    fn scale(&self, t: f64) -> f64 {
        match self.scaling {
            Scaling::None => 1.0,
            Scaling::Vp => 1.0 / self.map.sigma(t).hypot(1.0),
        }
    }

    /// The slope of the scaled state y = s x: (sigma'/sigma + s'/s) y - (sigma' s/sigma) x0.
    fn slope(&self, run: &Run, step: usize, y: &Tensor, t: f64) -> Result<Tensor> {
        let (sigma, s, rate) = (self.map.sigma(t), self.scale(t), self.map.derivative(t));
        let x0 = run.denoise(step, &y.affine(1.0 / s, 0.0)?, sigma)?;
        // s'/s = -sigma sigma' s² for the VP scale.
        let shrink = if self.scaling == Scaling::Vp { sigma * rate * s * s } else { 0.0 };
        combine(&[(rate / sigma - shrink, y), (-rate * s / sigma, &x0)])
    }

    fn step(&self, run: &Run, i: usize, y: &Tensor, (t, next): (f64, f64)) -> Result<Tensor> {
        let h = next - t;
        let d = self.slope(run, i, y, t)?;
        match self.alpha {
            Some(alpha) if next > 0.0 => {
                let inside = combine(&[(1.0, y), (alpha * h, &d)])?;
                let d_prime = self.slope(run, i, &inside, t + alpha * h)?;
                let w = h / (2.0 * alpha);
                combine(&[(1.0, y), (h - w, &d), (w, &d_prime)])
            }
            _ => combine(&[(1.0, y), (h, &d)]),
        }
    }
}

/// Steps that are straight in t, of the state scaled by s(t); the step to 0 is Euler's. Draws at every step when `s_churn` > 0.
pub fn edm_general(run: &mut Run, x: Tensor, settings: &EdmGeneral) -> Result<Tensor> {
    let n = run.sigmas.len() - 1;
    let map = settings.map;
    let mut y = (x * settings.scale(map.t(run.sigmas[0])))?;
    for (i, sigma, next) in run.steps() {
        let (mut t, next) = (map.t(sigma), map.t(next));
        if settings.churn.s_churn > 0.0 {
            let noise = run.draw(i, &y)?;
            let gamma = settings.churn.gamma(map.sigma(t), n);
            if gamma > 0.0 {
                let raised = map.t(map.sigma(t) * (1.0 + gamma));
                let fresh = (map.sigma(raised).powi(2) - map.sigma(t).powi(2)).max(0.0).sqrt();
                let s = settings.scale(raised);
                y = combine(&[(s / settings.scale(t), &y), (fresh * s * settings.churn.s_noise, &noise)])?;
                t = raised;
            }
        }
        y = settings.step(run, i, &y, (t, next))?;
        run.observe(i, &y.affine(1.0 / settings.scale(next), 0.0)?)?;
    }
    Ok(y.affine(1.0 / settings.scale(map.t(run.sigmas[n])), 0.0)?)
}
