//! Convolution.

use candle_core::Tensor;

use crate::{Result, ops::Conv2dConfig};

/// im2col by slicing: exact on every device and dtype, differentiable through candle.
pub(crate) fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    config: Conv2dConfig,
    [h_out, w_out]: [usize; 2],
) -> Result<Tensor> {
    let (b, h, w, c_in) = x.dims4()?;
    let (c_out, _, kh, kw) = weight.dims4()?;
    let Conv2dConfig { stride: s, padding: p } = config;
    let extra = |size: usize, k: usize, out: usize| (k - 1 + s * out).saturating_sub(size);
    let x = x.pad_with_zeros(1, p.top, p.bottom + extra(h + p.top + p.bottom, kh, h_out))?;
    let x = x.pad_with_zeros(2, p.left, p.right + extra(w + p.left + p.right, kw, w_out))?;
    let mut taps = Vec::with_capacity(kh * kw);
    for ky in 0..kh {
        for kx in 0..kw {
            let tap = x.narrow(1, ky, s * h_out)?.narrow(2, kx, s * w_out)?;
            let tap = tap.reshape((b, h_out, s, w_out, s, c_in))?.narrow(2, 0, 1)?.narrow(4, 0, 1)?;
            taps.push(tap.reshape((b * h_out * w_out, c_in))?);
        }
    }
    let columns = Tensor::cat(&taps, 1)?;
    let matrix = weight.permute((2, 3, 1, 0))?.reshape((kh * kw * c_in, c_out))?;
    let y = columns.matmul(&matrix)?;
    let y = bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))?;
    Ok(y.reshape((b, h_out, w_out, c_out))?)
}
