//! Doubling and halving of images.

use candle_core::Tensor;

use crate::Result;

pub(crate) fn upsample_nearest2x(x: &Tensor, [b, h, w, c]: [usize; 4]) -> Result<Tensor> {
    let x = x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?;
    Ok(x.contiguous()?.reshape((b, 2 * h, 2 * w, c))?)
}

pub(crate) fn average_pool2x(x: &Tensor, [b, h, w, c]: [usize; 4]) -> Result<Tensor> {
    Ok(x.reshape((b, h, 2, w, 2, c))?.mean((2, 4))?)
}
