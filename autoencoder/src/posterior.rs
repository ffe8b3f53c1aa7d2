//! The diagonal Gaussian that a KL encoder answers.

use candle_core::Tensor;

use crate::{Error, Result};

/// N(mean, exp(logvar)) per element (Kingma & Welling 2014), channels first: each tensor is `[B, Z, h, w]` float32.
#[derive(Clone, Debug)]
pub struct Posterior {
    mean: Tensor,
    logvar: Tensor,
}

impl Posterior {
    /// moments: `[B, 2Z, h, w]`, mean then log-variance; the log-variance is clamped to [-30, 20] (Rombach et al. 2022).
    ///
    /// # Errors
    /// If the number of channels is odd.
    pub fn new(moments: &Tensor) -> Result<Self> {
        let (_, c, _, _) = moments.dims4()?;
        if !c.is_multiple_of(2) {
            return Err(Error::input("moments", "an even number of channels, mean then log-variance", moments.dims()));
        }
        let (mean, logvar) = (moments.narrow(1, 0, c / 2)?, moments.narrow(1, c / 2, c / 2)?);
        Ok(Self { mean: mean.contiguous()?, logvar: clamp(&logvar.contiguous()?, -30.0, 20.0)? })
    }

    /// The most probable latent: the mean.
    pub fn mode(&self) -> &Tensor {
        &self.mean
    }

    /// The clamped log-variance.
    pub fn logvar(&self) -> &Tensor {
        &self.logvar
    }

    /// `mean + exp(logvar / 2) · noise`; noise: `[B, Z, h, w]`, standard normal.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        Ok((&self.mean + ((&self.logvar * 0.5)?.exp()? * noise)?)?)
    }

    /// KL divergence to N(0, 1) per sample, `½ Σ (mean² + exp(logvar) - 1 - logvar)` in nats: `[B]`.
    pub fn kl(&self) -> Result<Tensor> {
        let terms = ((self.mean.sqr()? + self.logvar.exp()?)? - (&self.logvar + 1.0)?)?;
        Ok((terms.flatten_from(1)?.sum(1)? * 0.5)?)
    }
}

/// Clamps with gradient 1 inside [lo, hi] and 0 outside.
fn clamp(x: &Tensor, lo: f64, hi: f64) -> Result<Tensor> {
    let inside = (x.ge(lo)? * x.le(hi)?)?;
    Ok(inside.where_cond(x, &x.detach().clamp(lo, hi)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn kl_of_the_standard_normal_is_zero() -> Result<()> {
        let p = Posterior::new(&Tensor::zeros((2, 6, 3, 2), candle_core::DType::F32, &Device::Cpu)?)?;
        assert_eq!(p.kl()?.to_vec1::<f32>()?, [0.0, 0.0]);
        assert_eq!(p.mode().dims(), [2, 3, 3, 2]);
        Ok(())
    }

    #[test]
    fn a_clamped_log_variance_gets_no_gradient() -> Result<()> {
        let moments = Var::from_slice(&[0f32, 0., 0., -31., 1., 25.], (1, 6, 1, 1), &Device::Cpu)?;
        let grads = Posterior::new(moments.as_tensor())?.logvar().sum_all()?.backward()?;
        let g = grads.get(&moments).map(|g| g.flatten_all()?.to_vec1::<f32>()).transpose()?;
        assert_eq!(g, Some(vec![0., 0., 0., 0., 1., 0.]));
        Ok(())
    }
}
