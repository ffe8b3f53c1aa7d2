//! Pointwise activations.

use candle_core::Tensor;

use super::{
    composed,
    cpu::{
        self,
        activation::{Function, Geglu, Pointwise},
        kernel::apply1,
    },
    not_empty,
};
use crate::{Error, Result};

/// `x · sigmoid(x)`, any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if cpu::applies(&[x]) { pointwise("silu", x, Function::Silu) } else { Ok(x.silu()?) }
}

/// `x · Φ(x)` with the exact error function, any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if cpu::applies(&[x]) { pointwise("gelu", x, Function::Gelu) } else { Ok(x.gelu_erf()?) }
}

/// The tanh approximation of [`gelu`], any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if cpu::applies(&[x]) { pointwise("gelu_tanh", x, Function::GeluTanh) } else { Ok(x.gelu()?) }
}

fn pointwise(op: &'static str, x: &Tensor, function: Function) -> Result<Tensor> {
    not_empty(op, "x", x)?;
    apply1(Pointwise { function, shape: x.dims().to_vec() }, x)
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
    if cpu::applies(&[x]) { apply1(Geglu { shape }, x) } else { composed::activation::geglu(x) }
}
