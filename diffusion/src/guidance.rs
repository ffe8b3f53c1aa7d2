//! Guidance: denoisers over denoisers.

use candle_core::{DType, Tensor};

use crate::{
    Result,
    denoiser::{Clip, Denoiser, Estimate},
};

/// Two estimates of x0: one to move towards and one to move away from. For classifier-free guidance (Ho & Salimans 2022) the
/// second has no condition, or a negative one; for autoguidance (Karras et al. 2024) it is a worse network.
pub trait Pair {
    /// The estimate to move towards.
    fn conditional(&self, x: &Tensor, sigma: f64) -> Result<Estimate>;
    /// Both estimates, the one to move towards first. One batch of twice the size, or one after the other.
    fn both(&self, x: &Tensor, sigma: f64) -> Result<(Estimate, Tensor)>;
}

impl<P: Pair + ?Sized> Pair for Box<P> {
    fn conditional(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        (**self).conditional(x, sigma)
    }

    fn both(&self, x: &Tensor, sigma: f64) -> Result<(Estimate, Tensor)> {
        (**self).both(x, sigma)
    }
}

/// Two denoisers, evaluated one after the other.
pub struct Sequential<A, B> {
    /// The one to move towards.
    pub conditional: A,
    /// The one to move away from.
    pub unconditional: B,
}

impl<A: Denoiser, B: Denoiser> Pair for Sequential<A, B> {
    fn conditional(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        self.conditional.estimate(x, sigma)
    }

    fn both(&self, x: &Tensor, sigma: f64) -> Result<(Estimate, Tensor)> {
        Ok((self.conditional.estimate(x, sigma)?, self.unconditional.denoise(x, sigma)?))
    }
}

/// x0_u + scale (x0_c - x0_u): the same as guiding eps, v or F, which are linear in x0 at one sigma.
pub struct Guided<P> {
    /// The two estimates.
    pub pair: P,
    /// How far; 1 is the conditional estimate alone.
    pub scale: f64,
    /// The sigmas (low, high], where guidance acts; elsewhere the conditional estimate stands (Kynkäänniemi et al. 2024).
    pub interval: Option<(f64, f64)>,
    /// How much of the standard deviation of eps is taken back to the conditional one's (Lin et al. 2024, phi); 0 is none.
    pub rescale: f64,
    /// Clipping of the guided x0.
    pub clip: Option<Clip>,
}

impl<P: Pair> Guided<P> {
    /// Guidance at every sigma, without rescaling.
    pub fn new(pair: P, scale: f64) -> Self {
        Self { pair, scale, interval: None, rescale: 0.0, clip: None }
    }

    fn acts_at(&self, sigma: f64) -> bool {
        self.scale != 1.0 && self.interval.is_none_or(|(low, high)| sigma > low && sigma <= high)
    }

    fn guided(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        if !self.acts_at(sigma) {
            return self.pair.conditional(x, sigma);
        }
        let (conditional, u) = self.pair.both(x, sigma)?;
        let c = conditional.x0;
        let x0 = (u.affine(1.0 - self.scale, 0.0)? + c.affine(self.scale, 0.0)?)?;
        let variance_share = conditional.variance_share;
        if self.rescale == 0.0 {
            return Ok(Estimate { x0, variance_share });
        }
        // sigma eps = x - x0, and the ratio of standard deviations does not know the factor.
        let (noise, noise_c) = ((x - x0)?, (x - c)?);
        let ratio = (std_per_sample(&noise_c)? / std_per_sample(&noise)?)?.affine(self.rescale, 1.0 - self.rescale)?;
        Ok(Estimate { x0: (x - noise.broadcast_mul(&ratio)?)?, variance_share })
    }
}

impl<P: Pair> Denoiser for Guided<P> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.x0)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let estimate = self.guided(x, sigma)?;
        let Some(clip) = self.clip else { return Ok(estimate) };
        Ok(Estimate { x0: clip.apply(&estimate.x0)?, ..estimate })
    }
}

/// The standard deviation over all but the batch axis: [B, 1, ...] of x's rank.
fn std_per_sample(x: &Tensor) -> Result<Tensor> {
    let dims: Vec<usize> = (1..x.rank()).collect();
    let wide = x.to_dtype(if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(dims.as_slice())?)?;
    Ok(centred.sqr()?.mean_keepdim(dims.as_slice())?.sqrt()?.to_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;
    use crate::denoiser::FnDenoiser;

    fn constant(value: f64) -> impl Denoiser {
        FnDenoiser(move |x: &Tensor, _| Ok(Tensor::full(value, x.shape(), &Device::Cpu)?))
    }

    #[test]
    fn acts_inside_its_interval_only() {
        let pair = Sequential { conditional: constant(2.0), unconditional: constant(1.0) };
        let guided = Guided { interval: Some((0.5, 3.0)), ..Guided::new(pair, 4.0) };
        let x = Tensor::zeros((1, 2), DType::F64, &Device::Cpu).unwrap();
        let at = |sigma| guided.denoise(&x, sigma).unwrap().to_vec2::<f64>().unwrap()[0][0];
        assert_eq!([at(0.4), at(0.5), at(1.0), at(3.0), at(4.0)], [2.0, 2.0, 5.0, 5.0, 2.0]);
    }

    #[test]
    fn full_rescale_restores_the_deviation() {
        let scaled = |f: f64| FnDenoiser(move |x: &Tensor, _| Ok((x * f)?));
        let pair = Sequential { conditional: scaled(0.5), unconditional: scaled(0.9) };
        let guided = Guided { rescale: 1.0, ..Guided::new(pair, 3.0) };
        let x = Tensor::new(&[[1.0, -2.0, 4.0]], &Device::Cpu).unwrap();
        let noise = (&x - guided.denoise(&x, 1.0).unwrap()).unwrap().to_vec2::<f64>().unwrap();
        for (n, want) in noise[0].iter().zip([0.5, -1.0, 2.0]) {
            assert!((n - want).abs() < 1e-12);
        }
    }
}
