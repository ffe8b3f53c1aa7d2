//! Doubling and halving of images.

use candle_core::Tensor;

use crate::{Error, Result};

/// Nearest-neighbour doubling. x: `[B, H, W, C]` -> `[B, 2H, 2W, C]`.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let &[b, h, w, c] = x.dims() else {
        return Err(Error::argument("upsample_nearest2x", "x", "[B, H, W, C]", x.dims()));
    };
    let x = x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?;
    Ok(x.contiguous()?.reshape((b, 2 * h, 2 * w, c))?)
}

/// 2×2 mean. x: `[B, H, W, C]` -> `[B, H/2, W/2, C]`.
///
/// # Errors
/// If a side is odd.
pub fn average_pool2x(x: &Tensor) -> Result<Tensor> {
    match *x.dims() {
        [b, h, w, c] if h % 2 == 0 && w % 2 == 0 => Ok(x.reshape((b, h / 2, 2, w / 2, 2, c))?.mean((2, 4))?),
        _ => Err(Error::argument("average_pool2x", "x", "[B, H, W, C] with even sides", x.dims())),
    }
}
