//! Pointwise activations.

use candle_core::{D, Tensor};

use crate::{Result, ops::cpu::activation::LEAK};

pub(crate) fn leaky_relu(x: &Tensor) -> candle_core::Result<Tensor> {
    x.relu()? - (x.neg()?.relu()? * f64::from(LEAK))?
}

pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(D::Minus1)? / 2;
    let (a, g) = (x.narrow(D::Minus1, 0, n)?, x.narrow(D::Minus1, n, n)?);
    Ok((a * g.contiguous()?.gelu_erf()?)?)
}
