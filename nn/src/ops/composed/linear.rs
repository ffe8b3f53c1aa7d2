//! The affine map.

use candle_core::Tensor;

use crate::Result;

pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, shape: &[usize]) -> Result<Tensor> {
    let y = x.reshape(((), weight.dim(1)?))?.matmul(&weight.t()?)?;
    let y = bias.map_or(Ok(y.clone()), |b| y.broadcast_add(b))?;
    Ok(y.reshape(shape)?)
}
