//! Sampling around a known region (Lugmayr et al. 2022 without resampling; LDM's mask).

use candle_core::Tensor;

use super::{NoiseSource, Run};
use crate::Result;

/// What is known of the samples.
pub struct Known<'a> {
    /// The clean samples, of the state's shape.
    pub x0: &'a Tensor,
    /// 1 where they are known, 0 where not; broadcasts to the state's shape.
    pub mask: &'a Tensor,
    /// The noise that the known region is given at every step.
    pub noise: &'a mut dyn NoiseSource,
}

/// A source whose steps count from another one's.
struct Later<'a> {
    noise: &'a mut dyn NoiseSource,
    by: usize,
}

impl NoiseSource for Later<'_> {
    fn draw(&mut self, step: usize, like: &Tensor) -> Result<Tensor> {
        self.noise.draw(step + self.by, like)
    }
}

/// Before every step the known region is replaced by the known x0 with fresh noise; `step` then takes one step. It may be any sampler
/// that needs no history: `|run, x| euler(run, x)`. A multistep one falls back to order 1.
pub fn inpaint(
    run: &mut Run,
    mut x: Tensor,
    known: &mut Known,
    mut step: impl FnMut(&mut Run, Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let unknown = known.mask.affine(-1.0, 1.0)?;
    for (i, pair) in run.sigmas.windows(2).enumerate() {
        let noisy = (known.x0 + (known.noise.draw(i, known.x0)? * pair[0])?)?;
        x = (noisy.broadcast_mul(known.mask)? + x.broadcast_mul(&unknown)?)?;
        let mut noise = Later { noise: &mut *run.noise, by: i };
        let mut observe = |_: usize, x: &Tensor| (run.observe)(i, x);
        x = step(&mut Run { denoiser: run.denoiser, sigmas: pair, noise: &mut noise, observe: &mut observe }, x)?;
    }
    Ok(x)
}
