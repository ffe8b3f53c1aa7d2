//! Pointwise activations.

use candle_core::{D, Tensor};

use crate::Result;

pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(D::Minus1)? / 2;
    let (a, g) = (x.narrow(D::Minus1, 0, n)?, x.narrow(D::Minus1, n, n)?);
    Ok((a * g.contiguous()?.gelu_erf()?)?)
}
