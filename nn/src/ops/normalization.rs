//! Group norm and layer norm.

use candle_core::{D, Tensor};

use crate::{Error, Result};

/// What follows a group norm in the same operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity,
    /// `x · sigmoid(x)`.
    Silu,
}

/// Group norm (Wu & He 2018), channels last, then optionally scale-shift per sample, then an activation:
/// `act(norm(x) · weight + bias)` or `act((norm(x) · weight + bias) · (1 + scale) + shift)`.
/// x: `[B, ..., C]`, weight and bias: `[C]`, scale and shift: `[B, C]`. The variance is biased and taken in two passes.
///
/// # Errors
/// If the shapes do not agree or C is not divisible by `groups`.
pub fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    scale_shift: Option<(&Tensor, &Tensor)>,
    activation: Activation,
) -> Result<Tensor> {
    let (b, c) = check(x, weight, bias, groups, scale_shift)?;
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

/// Layer norm over the last dimension. x: `[..., C]`, weight and bias: `[C]`.
///
/// # Errors
/// If the shapes do not agree.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let c = x.dims().last().copied().unwrap_or(0);
    for (argument, t) in [("weight", weight), ("bias", bias)] {
        if t.dims() != [c] {
            return Err(Error::argument("layer_norm", argument, format!("[{c}]"), t.dims()));
        }
    }
    let h = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = h.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(h.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)?)
}

fn check(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    scale_shift: Option<(&Tensor, &Tensor)>,
) -> Result<(usize, usize)> {
    let (Some(&b), Some(&c), true) = (x.dims().first(), x.dims().last(), x.rank() >= 2) else {
        return Err(Error::argument("group_norm", "x", "[B, ..., C]", x.dims()));
    };
    if groups == 0 || c % groups != 0 {
        return Err(Error::argument("group_norm", "groups", format!("a divisor of {c} channels"), groups));
    }
    for (argument, t) in [("weight", weight), ("bias", bias)] {
        if t.dims() != [c] {
            return Err(Error::argument("group_norm", argument, format!("[{c}]"), t.dims()));
        }
    }
    for t in scale_shift.iter().flat_map(|(s, t)| [s, t]) {
        if t.dims() != [b, c] {
            return Err(Error::argument("group_norm", "scale_shift", format!("[{b}, {c}]"), t.dims()));
        }
    }
    Ok((b, c))
}
