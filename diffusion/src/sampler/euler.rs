//! Euler's method in sigma, which is DDIM without noise (Song et al. 2021) in every scaling.

use candle_core::Tensor;

use super::{Run, combine};
use crate::Result;

/// x' = x0 + (sigma'/sigma) (x - x0). Order 1, one evaluation a step.
pub fn euler(run: &mut Run, mut x: Tensor) -> Result<Tensor> {
    for (i, s, t) in run.steps() {
        let x0 = run.denoise(i, &x, s)?;
        x = combine(&[(t / s, &x), (1.0 - t / s, &x0)])?;
        run.observe(i, &x)?;
    }
    Ok(x)
}
