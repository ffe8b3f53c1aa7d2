//! Group norm and layer norm.

use candle_core::{D, Tensor};

use crate::{Result, ops::Activation};

pub(crate) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    scale_shift: Option<(&Tensor, &Tensor)>,
    activation: Activation,
) -> Result<Tensor> {
    let (b, c) = (x.dim(0)?, x.dim(D::Minus1)?);
    let h = x.reshape((b, (), groups, c / groups))?;
    let h = h.broadcast_sub(&h.mean_keepdim((1, 3))?)?;
    let variance = h.sqr()?.mean_keepdim((1, 3))?;
    let h = h.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape((b, (), c))?;
    let mut h = h.broadcast_mul(weight)?.broadcast_add(bias)?;
    if let Some((scale, shift)) = scale_shift {
        h = h.broadcast_mul(&(scale + 1.0)?.reshape((b, 1, c))?)?.broadcast_add(&shift.reshape((b, 1, c))?)?;
    }
    let h = h.reshape(x.shape())?;
    match activation {
        Activation::Identity => Ok(h),
        Activation::Silu => Ok(h.silu()?),
    }
}

pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let h = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = h.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(h.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)?)
}
