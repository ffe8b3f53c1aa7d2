//! Pointwise activations.

use candle_core::Tensor;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use super::{
    composed,
    cpu::{
        self,
        activation::{Function, Geglu, Pointwise},
        kernel::apply1,
    },
    not_empty,
    precision::{is_narrow, widened},
};
use crate::{Error, Result};

/// `x · sigmoid(x)`, any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    pointwise("silu", x, Function::Silu, Tensor::silu)
}

/// `x · Φ(x)` with the exact error function, any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    pointwise("gelu", x, Function::Gelu, Tensor::gelu_erf)
}

/// The tanh approximation of [`gelu`], any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    pointwise("gelu_tanh", x, Function::GeluTanh, Tensor::gelu)
}

/// `max(x, 0)`, any shape; NaN stays.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    pointwise("relu", x, Function::Relu, Tensor::relu)
}

/// x above 0, `0.2 x` below, any shape: what discriminators use (Isola et al. 2017).
pub fn leaky_relu(x: &Tensor) -> Result<Tensor> {
    pointwise("leaky_relu", x, Function::LeakyRelu, composed::activation::leaky_relu)
}

type Composed = fn(&Tensor) -> candle_core::Result<Tensor>;

fn pointwise(op: &'static str, x: &Tensor, function: Function, composed: Composed) -> Result<Tensor> {
    not_empty(op, "x", x)?;
    on_card!([x] => cuda::pointwise(x, function));
    if is_narrow(x) {
        return Ok(pointwise(op, &widened(x)?, function, composed)?.to_dtype(x.dtype())?);
    }
    if cpu::applies(&[x]) { apply1(Pointwise { function, shape: x.dims().to_vec() }, x) } else { Ok(composed(x)?) }
}

/// Halves (a, g) of the last dimension, `a · gelu(g)` (Shazeer 2020). x: `[..., 2n]` -> `[..., n]`.
///
/// # Errors
/// If the last dimension is odd.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    not_empty("geglu", "x", x)?;
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(n) if *n % 2 == 0 => *n /= 2,
        _ => return Err(Error::argument("geglu", "x", "an even last dimension", x.dims())),
    }
    on_card!([x] => cuda::geglu(x, shape));
    if is_narrow(x) {
        return Ok(geglu(&widened(x)?)?.to_dtype(x.dtype())?);
    }
    if cpu::applies(&[x]) { apply1(Geglu { shape }, x) } else { composed::activation::geglu(x) }
}
