//! The affine map.

use candle_core::Tensor;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use super::{
    composed,
    cpu::{
        self,
        kernel::{apply2, apply3},
        linear::{Linear, Sizes},
    },
    not_empty,
    precision::{is_narrow, rounded, widened},
};
use crate::{Error, Result};

/// `x Wᵀ + b`. x: `[..., n_in]`, weight: `[n_out, n_in]`, bias: `[n_out]`; answers `[..., n_out]`.
///
/// # Errors
/// If the shapes do not agree.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let &[n_out, n_in] = weight.dims() else {
        return Err(Error::argument("linear", "weight", "[n_out, n_in]", weight.dims()));
    };
    if x.dims().last() != Some(&n_in) {
        return Err(Error::argument("linear", "x", format!("[..., {n_in}]"), x.dims()));
    }
    if let Some(b) = bias.filter(|b| b.dims() != [n_out]) {
        return Err(Error::argument("linear", "bias", format!("[{n_out}]"), b.dims()));
    }
    not_empty("linear", "x", x)?;
    not_empty("linear", "weight", weight)?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = n_out;
    }
    let sizes = Sizes { rows: x.elem_count() / n_in, n_in, n_out };
    on_card!([x] => cuda::linear(x, weight, bias, shape, sizes));
    if is_narrow(x) {
        let (wide, weight) = (widened(x)?, rounded(weight, x.dtype())?);
        return Ok(linear(&wide, &weight, bias.map(widened).transpose()?.as_ref())?.to_dtype(x.dtype())?);
    }
    if !cpu::applies(&[x, weight]) || bias.is_some_and(|b| !cpu::applies(&[b])) {
        return composed::linear::linear(x, weight, bias, &shape);
    }
    let kernel = Linear { sizes, shape };
    match bias {
        Some(bias) => apply3(kernel, x, weight, bias),
        None => apply2(kernel, x, weight),
    }
}
