//! Pseudo linear multistep (Liu et al. 2022): Adams-Bashforth with the weights of an even grid on eps.

use candle_core::Tensor;

use super::{Run, combine};
use crate::Result;

/// The extrapolated slope from the newest-first slopes: Adams-Bashforth of order 1 to 4.
fn extrapolate(slopes: &[Tensor]) -> Result<Tensor> {
    const WEIGHTS: [&[f64]; 4] =
        [&[1.0], &[1.5, -0.5], &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0], &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0]];
    let weights = WEIGHTS[slopes.len().clamp(1, 4) - 1];
    combine(&weights.iter().copied().zip(slopes).collect::<Vec<_>>())
}

/// The first step is Heun's, or Euler's where it ends at 0; the later ones extrapolate up to four slopes. One evaluation more than
/// there are steps.
pub fn plms(run: &mut Run, x: Tensor) -> Result<Tensor> {
    plms_after(run, x, Vec::new(), 0)
}

/// [`plms`] with the newest-first slopes of earlier steps, of which there were `offset`.
fn plms_after(run: &mut Run, mut x: Tensor, mut slopes: Vec<Tensor>, offset: usize) -> Result<Tensor> {
    for (i, s, t) in run.steps().skip(offset) {
        let e = run.slope(i, &x, s)?;
        let d = if slopes.is_empty() && t > 0.0 {
            let e2 = run.slope(i, &combine(&[(1.0, &x), (t - s, &e)])?, t)?;
            combine(&[(0.5, &e), (0.5, &e2)])?
        } else {
            let newest: Vec<Tensor> = std::iter::once(e.clone()).chain(slopes.iter().cloned()).collect();
            extrapolate(&newest)?
        };
        slopes.insert(0, e);
        slopes.truncate(3);
        x = combine(&[(1.0, &x), (t - s, &d)])?;
        run.observe(i, &x)?;
    }
    Ok(x)
}

/// PNDM: as many pseudo Runge-Kutta steps as there are `middles` (the sigma in the middle of each of the first steps), then
/// [`plms`] steps. Four evaluations a Runge-Kutta step.
pub fn pndm_runge_kutta(run: &mut Run, mut x: Tensor, middles: &[f64]) -> Result<Tensor> {
    let mut slopes = Vec::new();
    for ((i, s, t), &middle) in run.steps().zip(middles) {
        let e1 = run.slope(i, &x, s)?;
        let e2 = run.slope(i, &combine(&[(1.0, &x), (middle - s, &e1)])?, middle)?;
        let e3 = run.slope(i, &combine(&[(1.0, &x), (middle - s, &e2)])?, middle)?;
        let e4 = run.slope(i, &combine(&[(1.0, &x), (t - s, &e3)])?, t)?;
        let w = (t - s) / 6.0;
        x = combine(&[(1.0, &x), (w, &e1), (2.0 * w, &e2), (2.0 * w, &e3), (w, &e4)])?;
        slopes.insert(0, e1);
        slopes.truncate(3);
        run.observe(i, &x)?;
    }
    plms_after(run, x, slopes, middles.len())
}
