//! Two-dimensional convolution.

use candle_core::Tensor;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use super::{
    composed,
    cpu::{
        self,
        convolution::Geometry,
        kernel::{apply2, apply3},
    },
    precision::{is_narrow, rounded, widened},
};
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

/// Convolution (cross-correlation). x: `[B, H, W, C_in]`, weight: `[C_out, C_in, kh, kw]`, bias: `[C_out]`, or one for each
/// sample, `[B, C_out]`; answers `[B, H', W', C_out]` with `H' = (H + top + bottom - kh) / stride + 1`.
///
/// # Errors
/// If the shapes do not agree or the padded image is smaller than the kernel.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<Tensor> {
    let output = output_size(x, weight, bias, config)?;
    let on_cpu = cpu::applies(&[x, weight]) && bias.is_none_or(|b| cpu::applies(&[b]));
    if let Some(bias) = bias.filter(|b| b.rank() == 2 && !on_cpu) {
        return add_to_samples(&conv2d(x, weight, None, config)?, bias);
    }
    let geometry = Geometry {
        input: x.shape().dims4().map(|(b, h, w, c)| [b, h, w, c])?,
        output,
        weight: weight.shape().dims4().map(|(o, i, h, w)| [o, i, h, w])?,
        stride: config.stride,
        top_left: [config.padding.top, config.padding.left],
    };
    on_card!([x] => match bias {
        Some(bias) if bias.rank() == 2 => add_to_samples(&cuda::conv2d(x, weight, None, geometry)?, bias),
        _ => cuda::conv2d(x, weight, bias, geometry),
    });
    if is_narrow(x) {
        let (wide, weight) = (widened(x)?, rounded(weight, x.dtype())?);
        return Ok(conv2d(&wide, &weight, bias.map(widened).transpose()?.as_ref(), config)?.to_dtype(x.dtype())?);
    }
    if !on_cpu {
        return composed::convolution::conv2d(x, weight, bias, config, output);
    }
    match bias {
        Some(bias) => apply3(geometry, x, weight, bias),
        None => apply2(geometry, x, weight),
    }
}

/// y: `[B, H, W, C]`, bias: `[B, C]`.
fn add_to_samples(y: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Ok(y.broadcast_add(&bias.reshape((bias.dim(0)?, 1, 1, ()))?.to_dtype(y.dtype())?)?)
}

fn output_size(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, config: Conv2dConfig) -> Result<[usize; 2]> {
    let &[b, h, w, c_in] = x.dims() else {
        return Err(Error::argument("conv2d", "x", "[B, H, W, C_in]", x.dims()));
    };
    if b * c_in == 0 {
        return Err(Error::argument("conv2d", "x", "no empty dimension", x.dims()));
    }
    let &[c_out, expected_in, kh, kw] = weight.dims() else {
        return Err(Error::argument("conv2d", "weight", "[C_out, C_in, kh, kw]", weight.dims()));
    };
    if c_in != expected_in {
        return Err(Error::argument("conv2d", "x", format!("{expected_in} channels"), x.dims()));
    }
    if c_out == 0 {
        return Err(Error::argument("conv2d", "weight", "no empty dimension", weight.dims()));
    }
    if let Some(bias) = bias.filter(|bias| bias.dims() != [c_out] && bias.dims() != [b, c_out]) {
        return Err(Error::argument("conv2d", "bias", format!("[{c_out}] or [{b}, {c_out}]"), bias.dims()));
    }
    let Conv2dConfig { stride, padding: p } = config;
    let (h, w) = (h + p.top + p.bottom, w + p.left + p.right);
    if stride == 0 || h < kh || w < kw || kh == 0 || kw == 0 {
        return Err(Error::argument("conv2d", "x", format!("at least {kh}x{kw} after padding, stride at least 1"), x.dims()));
    }
    Ok([(h - kh) / stride + 1, (w - kw) / stride + 1])
}
