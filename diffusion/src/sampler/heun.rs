//! Heun's method in sigma (Karras et al. 2022, Algorithm 1).

use candle_core::Tensor;

use super::{Run, combine};
use crate::Result;

/// The trapezoid of the slopes at both ends; the step to 0 is Euler's. Order 2, two evaluations a step.
pub fn heun(run: &mut Run, mut x: Tensor) -> Result<Tensor> {
    for (i, s, t) in run.steps() {
        x = heun_step(run, i, &x, (s, t))?;
        run.observe(i, &x)?;
    }
    Ok(x)
}

/// One step from s to t.
pub(super) fn heun_step(run: &Run, i: usize, x: &Tensor, (s, t): (f64, f64)) -> Result<Tensor> {
    let d = run.slope(i, x, s)?;
    let euler = combine(&[(1.0, x), (t - s, &d)])?;
    if t == 0.0 {
        return Ok(euler);
    }
    let d_prime = run.slope(i, &euler, t)?;
    combine(&[(1.0, x), (0.5 * (t - s), &d), (0.5 * (t - s), &d_prime)])
}
