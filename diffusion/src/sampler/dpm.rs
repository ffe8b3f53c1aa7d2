//! The exponential integrators that DPM-Solver and DPM-Solver++ share (Lu et al. 2022a, 2022b), in sigma.
//!
//! A step from s to t goes h = ln(s/t) in lambda. The solution is a multiple of x plus the integral of an exponential times the
//! prediction f, whose Taylor polynomial in lambda gives the weights.

use candle_core::Tensor;

use super::combine;
use crate::Result;

/// What the integrator's polynomial approximates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prediction {
    /// eps (DPM-Solver).
    Noise,
    /// x0 (DPM-Solver++).
    #[default]
    Data,
}

/// The weight of the first difference in a second-order step, and the shape of a third-order singlestep one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The midpoint-like form (`dpmsolver` in the paper's code, `midpoint` elsewhere).
    #[default]
    Midpoint,
    /// The Taylor form (`taylor`, `heun` elsewhere).
    Taylor,
}

/// An integrator.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dpm {
    /// What is integrated.
    pub prediction: Prediction,
    /// How the first difference is weighed.
    pub form: Form,
    /// Whether the reverse SDE is solved instead of the ODE; draws at every step.
    pub stochastic: bool,
    /// Multistep of order 3 only: weigh the second difference as the published code does instead of by Taylor's formula: by half
    /// of it, and for the SDE with another constant. That reproduces published samples, and is of order 2 in the limit.
    pub published_third: bool,
    /// Singlestep SDE moves only: fresh noise for every evaluation, as diffusers draws it, instead of one path's increments. That
    /// reproduces its samples, and a move of order 2 is then hardly better than one of order 1.
    pub published_noise: bool,
}

/// The differences of f over a step, as derivatives in lambda times h and h².
#[derive(Default)]
pub(super) struct Differences {
    pub first: Option<Tensor>,
    pub second: Option<Tensor>,
}

impl Prediction {
    /// f from x and x0.
    pub(super) fn of(self, x: &Tensor, x0: &Tensor, sigma: f64) -> Result<Tensor> {
        match self {
            Self::Data => Ok(x0.clone()),
            Self::Noise => combine(&[(1.0 / sigma, x), (-1.0 / sigma, x0)]),
        }
    }
}

/// Weights of x, f, h f', h² f'' and the noise in a step.
struct Weights {
    x: f64,
    f: f64,
    midpoint: f64,
    taylor: f64,
    second: f64,
    noise: f64,
}

impl Dpm {
    fn weights(&self, s: f64, t: f64) -> Weights {
        let h = (s / t).ln();
        match (self.prediction, self.stochastic) {
            (Prediction::Data, false) => {
                let e1 = (-h).exp_m1();
                let e2 = e1 / h + 1.0;
                Weights { x: t / s, f: -e1, midpoint: -0.5 * e1, taylor: e2, second: 0.5 - e2 / h, noise: 0.0 }
            }
            (Prediction::Noise, false) => {
                let e1 = s - t;
                let e2 = e1 / h - t;
                Weights { x: 1.0, f: -e1, midpoint: -0.5 * e1, taylor: -e2, second: 0.5 * t - e2 / h, noise: 0.0 }
            }
            (Prediction::Data, true) => {
                let m = -(-2.0 * h).exp_m1();
                let taylor = 1.0 - m / (2.0 * h);
                Weights {
                    x: (-h).exp() * t / s,
                    f: m,
                    midpoint: 0.5 * m,
                    taylor,
                    second: 0.5 - taylor / (2.0 * h),
                    noise: t * m.sqrt(),
                }
            }
            (Prediction::Noise, true) => {
                let e1 = s - t;
                let e2 = e1 / h - t;
                let noise = ((s - t) * (s + t)).sqrt();
                Weights { x: 1.0, f: -2.0 * e1, midpoint: -e1, taylor: -2.0 * e2, second: t - 2.0 * e2 / h, noise }
            }
        }
    }

    /// What a move from s to t makes of noise that was in x at s, and the deviation of the noise that it adds.
    pub(super) fn noise_weights(&self, s: f64, t: f64) -> (f64, f64) {
        let w = self.weights(s, t);
        (w.x, w.noise)
    }

    fn second_weight(&self, w: &Weights, s: f64, t: f64) -> f64 {
        match (self.published_third, self.stochastic) {
            (false, _) => w.second,
            (true, false) => 0.5 * w.second,
            (true, true) => 0.5 * (-0.5 - w.taylor / (2.0 * (s / t).ln())),
        }
    }

    /// x at t from x and f at s, the differences of f and, for the SDE, noise of the deviation that [`Self::noise_weights`] tells.
    pub(super) fn step(
        &self,
        (x, s, t): (&Tensor, f64, f64),
        f: &Tensor,
        d: &Differences,
        noise: Option<&Tensor>,
    ) -> Result<Tensor> {
        let w = self.weights(s, t);
        let mut terms = vec![(w.x, x), (w.f, f)];
        if let Some(first) = &d.first {
            // Beyond order 2 there is the Taylor form only.
            let third = d.second.is_some();
            terms.push((if third || self.form == Form::Taylor { w.taylor } else { w.midpoint }, first));
        }
        if let Some(second) = &d.second {
            terms.push((self.second_weight(&w, s, t), second));
        }
        if let Some(noise) = noise {
            terms.push((1.0, noise));
        }
        combine(&terms)
    }
}
