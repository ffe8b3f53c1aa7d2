//! Pointwise activations.

use candle_core::{D, Tensor};

use crate::{Error, Result};

/// `x · sigmoid(x)`, any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    Ok(x.silu()?)
}

/// `x · Φ(x)` with the exact error function, any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    Ok(x.gelu_erf()?)
}

/// The tanh approximation of [`gelu`], any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    Ok(x.gelu()?)
}

/// Halves (a, g) of the last dimension, `a · gelu(g)` (Shazeer 2020). x: `[..., 2n]` -> `[..., n]`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(D::Minus1)?;
    if n % 2 != 0 {
        return Err(Error::argument("geglu", "x", "an even last dimension", x.dims()));
    }
    let (a, g) = (x.narrow(D::Minus1, 0, n / 2)?, x.narrow(D::Minus1, n / 2, n / 2)?);
    Ok((a * gelu(&g.contiguous()?)?)?)
}
