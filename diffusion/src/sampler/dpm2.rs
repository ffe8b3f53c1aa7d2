//! DPM2: the midpoint rule in ln sigma of Karras et al. 2022's slope, with or without ancestral noise.

use candle_core::Tensor;

use super::{Run, ancestral::ancestral_split, combine};
use crate::Result;

/// The slope at the geometric mean of both ends carries the whole step; the step to 0 is Euler's. With `eta` > 0 the step goes
/// lower and fresh noise lifts it again; draws at every step then. Order 2 when `eta` is 0, two evaluations a step.
pub fn dpm2(run: &mut Run, mut x: Tensor, eta: f64) -> Result<Tensor> {
    for (i, s, t) in run.steps() {
        let (up, down) = ancestral_split(s, t, eta);
        let mut d = run.slope(i, &x, s)?;
        if down > 0.0 {
            let mid = (s * down).sqrt();
            let half = combine(&[(1.0, &x), (mid - s, &d)])?;
            d = run.slope(i, &half, mid)?;
        }
        x = combine(&[(1.0, &x), (down - s, &d)])?;
        if eta > 0.0 {
            let noise = run.draw(i, &x)?;
            x = combine(&[(1.0, &x), (up, &noise)])?;
        }
        run.observe(i, &x)?;
    }
    Ok(x)
}
