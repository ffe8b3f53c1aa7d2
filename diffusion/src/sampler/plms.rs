//! Pseudo linear multistep (Liu et al. 2022): Adams-Bashforth with the weights of an even grid on eps.

use candle_core::Tensor;

use super::{Run, combine};
use crate::Result;

/// The extrapolated slope from the newest-first slopes: Adams-Bashforth of order 1 to 4.
pub(super) fn extrapolate(slopes: &[Tensor]) -> Result<Tensor> {
    const WEIGHTS: [&[f64]; 4] =
        [&[1.0], &[1.5, -0.5], &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0], &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0]];
    let weights = WEIGHTS[slopes.len().clamp(1, 4) - 1];
    combine(&weights.iter().copied().zip(slopes).collect::<Vec<_>>())
}

/// The first step is Heun's, or Euler's where it ends at 0; the later ones extrapolate up to four slopes. One evaluation more than
/// there are steps.
pub fn plms(run: &mut Run, mut x: Tensor) -> Result<Tensor> {
    let mut slopes: Vec<Tensor> = Vec::new();
    for (i, s, t) in run.steps() {
        let e = run.slope(i, &x, s)?;
        slopes.insert(0, e.clone());
        slopes.truncate(4);
        let d = if slopes.len() == 1 && t > 0.0 {
            let e2 = run.slope(i, &combine(&[(1.0, &x), (t - s, &e)])?, t)?;
            combine(&[(0.5, &e), (0.5, &e2)])?
        } else {
            extrapolate(&slopes)?
        };
        x = combine(&[(1.0, &x), (t - s, &d)])?;
        run.observe(i, &x)?;
    }
    Ok(x)
}
