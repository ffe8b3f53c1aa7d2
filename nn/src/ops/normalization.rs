//! Group norm and layer norm.

use std::sync::OnceLock;

use candle_core::Tensor;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use super::{
    composed,
    cpu::{self, group_norm::GroupNorm, kernel::apply3, layer_norm::LayerNorm},
    not_empty,
    precision::{is_narrow, widened},
};
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
    on_card!([x] => {
        let norm = cuda::GroupNorm {
            shape: x.dims().to_vec(),
            samples: b,
            rows: x.elem_count() / (b * c),
            channels: c,
            groups,
            eps,
            per_sample: scale_shift.is_some(),
            silu: activation == Activation::Silu,
        };
        let (weight, bias) = (widened(weight)?, widened(bias)?);
        let folded = scale_shift.map(|(s, t)| folded(&weight, &bias, &widened(s)?, &widened(t)?)).transpose()?;
        let (weight, bias) = folded.unwrap_or((weight, bias));
        cuda::group_norm(norm, x, &weight, &bias)
    });
    if is_narrow(x) {
        let wide = scale_shift.map(|(s, t)| Ok::<_, Error>((widened(s)?, widened(t)?))).transpose()?;
        let (weight, bias, scale_shift) = (widened(weight)?, widened(bias)?, wide.as_ref().map(|(s, t)| (s, t)));
        return Ok(group_norm(&widened(x)?, &weight, &bias, groups, eps, scale_shift, activation)?.to_dtype(x.dtype())?);
    }
    if !cpu::applies(&[x, weight, bias]) || scale_shift.is_some_and(|(s, t)| !cpu::applies(&[s, t])) {
        return composed::normalization::group_norm(x, weight, bias, groups, eps, scale_shift, activation);
    }
    let kernel = GroupNorm {
        shape: x.dims().to_vec(),
        samples: b,
        rows: x.elem_count() / (b * c),
        channels: c,
        groups,
        eps,
        per_sample: scale_shift.is_some(),
        silu: activation == Activation::Silu,
        moments: OnceLock::new(),
    };
    let Some((scale, shift)) = scale_shift else { return apply3(kernel, x, weight, bias) };
    let (weight, bias) = folded(weight, bias, scale, shift)?;
    apply3(kernel, x, &weight, &bias)
}

/// (n w + b)(1 + s) + t = n [w (1 + s)] + [b (1 + s) + t]: a kernel needs no more than a weight and a bias per sample.
fn folded(weight: &Tensor, bias: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<(Tensor, Tensor)> {
    let scale = (scale + 1.0)?;
    Ok((scale.broadcast_mul(weight)?, (scale.broadcast_mul(bias)? + shift)?))
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
    not_empty("layer_norm", "x", x)?;
    on_card!([x] => cuda::layer_norm(x, weight, bias, eps));
    if is_narrow(x) {
        return Ok(layer_norm(&widened(x)?, &widened(weight)?, &widened(bias)?, eps)?.to_dtype(x.dtype())?);
    }
    if !cpu::applies(&[x, weight, bias]) {
        return composed::normalization::layer_norm(x, weight, bias, eps);
    }
    apply3(LayerNorm { shape: x.dims().to_vec(), width: c, eps: eps as f32 }, x, weight, bias)
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
    not_empty("group_norm", "x", x)?;
    Ok((b, c))
}
