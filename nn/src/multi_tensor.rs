//! One pass over all parameters on a card: Adam with its average, the average alone, and the norm of the gradients.
//!
//! A launch for each of hundreds of tensors would cost more than the arithmetic. On the CPU the sweeps of `strata-training` do
//! the same; these functions are for tensors that [`applies`] answers true for, and refuse others.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// One tensor of a step; all tensors are float32, contiguous, of one shape, on one card.
#[derive(Clone, Copy, Debug)]
pub struct AdamTensor<'a> {
    /// Changed in place.
    pub parameter: &'a Tensor,
    /// Its gradient.
    pub gradient: &'a Tensor,
    /// Running mean of gradients, changed in place.
    pub mean: &'a Tensor,
    /// Running mean of squared gradients, changed in place.
    pub square: &'a Tensor,
    /// Largest `square` so far (AMSGrad), changed in place.
    pub peak: Option<&'a Tensor>,
    /// Exponential average of the parameter, changed in place.
    pub average: Option<&'a Tensor>,
    /// lr / (1 - beta1^k)
    pub step_size: f32,
    /// sqrt(1 - beta2^k)
    pub root_correction2: f32,
    /// 1 - lr weight_decay when decoupled, else 1
    pub shrink: f32,
    /// weight decay added to the gradient, when it is not decoupled
    pub l2: f32,
}

/// What all tensors of a step share.
#[derive(Clone, Copy, Debug)]
pub struct AdamWith {
    /// Decay of the mean.
    pub beta1: f32,
    /// 1 - beta1, rounded once.
    pub one_minus_beta1: f32,
    /// Decay of the squares.
    pub beta2: f32,
    /// 1 - beta2, rounded once.
    pub one_minus_beta2: f32,
    /// Added to the root.
    pub eps: f32,
    /// Factor on the gradients.
    pub clip: f32,
    /// In place of NaN, +infinity and -infinity among the gradients.
    pub replace: Option<[f32; 3]>,
    /// Factor of the old average.
    pub decay: f32,
    /// Factor of the new parameter in the average.
    pub weight: f32,
}

impl<'a> AdamTensor<'a> {
    fn all(&self) -> Vec<&'a Tensor> {
        let Self { parameter, gradient, mean, square, peak, average, .. } = *self;
        [Some(parameter), Some(gradient), Some(mean), Some(square), peak, average].into_iter().flatten().collect()
    }
}

/// Whether the functions here work on this tensor: contiguous float32 on a card, in a build that has the kernels.
pub fn applies(t: &Tensor) -> bool {
    let card = t.device().is_cuda() && cfg!(feature = "cuda") || t.device().is_cpu() && cfg!(feature = "emulate");
    card && t.dtype() == DType::F32 && t.is_contiguous()
}

fn check<'a>(op: &'static str, groups: impl Iterator<Item = Vec<&'a Tensor>>) -> Result<()> {
    for group in groups {
        for t in &group {
            if !applies(t) || t.dims() != group[0].dims() || !t.device().same_device(group[0].device()) {
                let expected = format!("contiguous float32 {:?} on a card", group[0].dims());
                return Err(Error::argument(
                    op,
                    "tensors",
                    expected,
                    format!("{:?} {:?} on {:?}", t.dtype(), t.dims(), t.device().location()),
                ));
            }
        }
    }
    Ok(())
}

/// p ← shrink p - step_size m / (sqrt(v) / root_correction2 + eps) after both moments have taken in the clipped gradient
/// (Kingma & Ba 2015, Algorithm 1; Loshchilov & Hutter 2019, Algorithm 2), then average ← decay average + weight p.
///
/// # Errors
/// Tensors that do not fit each other or [`applies`] is false for.
pub fn adam(tensors: &[AdamTensor<'_>], with: &AdamWith) -> Result<()> {
    check("adam", tensors.iter().map(AdamTensor::all))?;
    kernels::adam(tensors, with)
}

/// average ← decay average + weight parameter, for each pair (average, parameter).
///
/// # Errors
/// As [`adam`].
pub fn blend(pairs: &[(&Tensor, &Tensor)], decay: f32, weight: f32) -> Result<()> {
    check("blend", pairs.iter().map(|(a, p)| vec![*a, *p]))?;
    kernels::blend(pairs, decay, weight)
}

/// The sum of the squares of all elements of all tensors, in float64, in an order that depends on the shapes alone. `replace`: as
/// in [`AdamWith`].
///
/// # Errors
/// As [`adam`].
pub fn squared_sum(tensors: &[Tensor], replace: Option<[f32; 3]>) -> Result<f64> {
    check("squared_sum", tensors.iter().map(|t| vec![t]))?;
    kernels::squares(tensors, replace)
}

#[cfg(any(feature = "cuda", feature = "emulate"))]
mod kernels {
    use super::{AdamTensor, AdamWith, Result, Tensor};
    use crate::ops::optimizer;

    pub fn adam(tensors: &[AdamTensor<'_>], with: &AdamWith) -> Result<()> {
        Ok(optimizer::adam(tensors, with)?)
    }

    pub fn blend(pairs: &[(&Tensor, &Tensor)], decay: f32, weight: f32) -> Result<()> {
        Ok(optimizer::blend(pairs, decay, weight)?)
    }

    pub fn squares(tensors: &[Tensor], replace: Option<[f32; 3]>) -> Result<f64> {
        Ok(optimizer::squares(tensors, replace)?)
    }
}

/// A build without kernels: `check` lets nothing but an empty list pass.
#[cfg(not(any(feature = "cuda", feature = "emulate")))]
mod kernels {
    use super::{AdamTensor, AdamWith, Result, Tensor};

    pub fn adam(_: &[AdamTensor<'_>], _: &AdamWith) -> Result<()> {
        Ok(())
    }

    pub fn blend(_: &[(&Tensor, &Tensor)], _: f32, _: f32) -> Result<()> {
        Ok(())
    }

    pub fn squares(_: &[Tensor], _: Option<[f32; 3]>) -> Result<f64> {
        Ok(0.0)
    }
}
