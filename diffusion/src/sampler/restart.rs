//! Restart sampling (Xu et al. 2023): Heun's method that goes back to a higher noise level a few times, which contracts the errors of
//! the steps before.

use candle_core::Tensor;

use super::{Run, combine, heun::heun_step};
use crate::{Result, grid};

/// Where and how often Heun's method goes back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Restart {
    /// Times.
    pub count: usize,
    /// It goes back from the first level of the run at or below this sigma, ...
    pub low: f64,
    /// ... to this one.
    pub high: f64,
    /// Heun's steps from there down again, over Karras' levels.
    pub steps: usize,
}

impl Default for Restart {
    /// One interval amid the noise levels where pictures take shape, in few steps.
    fn default() -> Self {
        Self { count: 2, low: 0.3, high: 2.0, steps: 4 }
    }
}

/// Deterministic but for the noise of the restarts, of which there is none where the run does not pass `low`, or `high` is not above
/// it. `2 count steps` evaluations more than Heun's.
pub fn restart(run: &mut Run, mut x: Tensor, settings: &Restart) -> Result<Tensor> {
    let mut pending = true;
    for (i, s, t) in run.steps() {
        x = heun_step(run, i, &x, (s, t))?;
        if pending && t > 0.0 && t <= settings.low && settings.high > t {
            pending = false;
            for k in 0..settings.count {
                x = settings.again(run, (i, run.sigmas.len() + k), &x, t)?;
            }
        }
        run.observe(i, &x)?;
    }
    Ok(x)
}

impl Restart {
    /// Up to `high` by fresh noise, and down again to t.
    fn again(&self, run: &mut Run, (step, draw): (usize, usize), x: &Tensor, t: f64) -> Result<Tensor> {
        let noise = run.draw(draw, x)?;
        let lift = ((self.high - t) * (self.high + t)).sqrt();
        let mut x = combine(&[(1.0, x), (lift, &noise)])?;
        let mut levels = grid::karras(self.steps.max(1) + 1, t, self.high, 7.0)?;
        levels.pop();
        for pair in levels.windows(2) {
            x = heun_step(run, step, &x, (pair[0], pair[1]))?;
        }
        Ok(x)
    }
}
