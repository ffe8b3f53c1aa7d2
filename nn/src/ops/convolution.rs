//! Two-dimensional convolution.

use candle_core::Tensor;

use crate::{Error, Result};

/// Zeros added around an image before a convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns at the left.
    pub left: usize,
    /// Columns at the right.
    pub right: usize,
}

impl Padding {
    /// The same on all sides.
    pub const fn all(n: usize) -> Self {
        Self { top: n, bottom: n, left: n, right: n }
    }

    /// One row below and one column at the right: what the KL encoder's downsampling uses.
    pub const BOTTOM_RIGHT: Self = Self { top: 0, bottom: 1, left: 0, right: 1 };
}

/// Stride and padding of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// Step in both directions, 1 or more.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: Padding,
}

impl Conv2dConfig {
    /// Stride 1 and padding (k - 1) / 2: the size stays.
    pub const fn same(kernel: usize) -> Self {
        Self { stride: 1, padding: Padding::all((kernel - 1) / 2) }
    }
}

/// Convolution (cross-correlation). x: `[B, H, W, C_in]`, weight: `[C_out, C_in, kh, kw]`, bias: `[C_out]`;
/// answers `[B, H', W', C_out]` with `H' = (H + top + bottom - kh) / stride + 1`.
///
/// # Errors
/// If the shapes do not agree or the padded image is smaller than the kernel.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Tensor> {
    let (h_out, w_out) = output_size(x, weight, bias, config)?;
    composed(x, weight, bias, config, h_out, w_out)
}

fn output_size(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<(usize, usize)> {
    let &[_, h, w, c_in] = x.dims() else {
        return Err(Error::argument("conv2d", "x", "[B, H, W, C_in]", x.dims()));
    };
    let &[c_out, expected_in, kh, kw] = weight.dims() else {
        return Err(Error::argument("conv2d", "weight", "[C_out, C_in, kh, kw]", weight.dims()));
    };
    if c_in != expected_in {
        return Err(Error::argument("conv2d", "x", format!("{expected_in} channels"), x.dims()));
    }
    if let Some(b) = bias.filter(|b| b.dims() != [c_out]) {
        return Err(Error::argument("conv2d", "bias", format!("[{c_out}]"), b.dims()));
    }
    let Conv2dConfig { stride, padding: p } = config;
    let (h, w) = (h + p.top + p.bottom, w + p.left + p.right);
    if stride == 0 || h < kh || w < kw || kh == 0 || kw == 0 {
        return Err(Error::argument("conv2d", "x", format!("at least {kh}x{kw} after padding, stride at least 1"), x.dims()));
    }
    Ok(((h - kh) / stride + 1, (w - kw) / stride + 1))
}

/// im2col by slicing: exact on every device and dtype, differentiable through candle.
fn composed(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    config: Conv2dConfig,
    h_out: usize,
    w_out: usize,
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
