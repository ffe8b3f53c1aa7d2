//! Doubling, halving and joining of images.

use candle_core::{D, Tensor};

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use super::{
    composed,
    cpu::{
        self,
        kernel::{apply1, apply2},
        resample::{Average2x, Join, Upsample2x},
    },
    not_empty,
    precision::{is_narrow, widened},
};
use crate::{Error, Result};

/// Nearest-neighbour doubling. x: `[B, H, W, C]` -> `[B, 2H, 2W, C]`.
///
/// # Errors
/// If x is not an image.
pub fn upsample_nearest2x(x: &Tensor) -> Result<Tensor> {
    let &[b, h, w, c] = x.dims() else {
        return Err(Error::argument("upsample_nearest2x", "x", "[B, H, W, C]", x.dims()));
    };
    not_empty("upsample_nearest2x", "x", x)?;
    let small = [b, h, w, c];
    on_card!([x] => cuda::upsample_nearest2x(x, small));
    if cpu::applies(&[x]) { apply1(Upsample2x(small), x) } else { composed::resample::upsample_nearest2x(x, small) }
}

/// 2×2 mean. x: `[B, H, W, C]` -> `[B, H/2, W/2, C]`.
///
/// # Errors
/// If a side is odd.
pub fn average_pool2x(x: &Tensor) -> Result<Tensor> {
    let small = match *x.dims() {
        [b, h, w, c] if h % 2 == 0 && w % 2 == 0 => [b, h / 2, w / 2, c],
        _ => return Err(Error::argument("average_pool2x", "x", "[B, H, W, C] with even sides", x.dims())),
    };
    not_empty("average_pool2x", "x", x)?;
    on_card!([x] => cuda::average_pool2x(x, small));
    if is_narrow(x) {
        return Ok(average_pool2x(&widened(x)?)?.to_dtype(x.dtype())?);
    }
    if cpu::applies(&[x]) { apply1(Average2x(small), x) } else { composed::resample::average_pool2x(x, small) }
}

/// Two tensors side by side in the last dimension. a: `[..., m]`, b: `[..., n]` -> `[..., m + n]`.
///
/// # Errors
/// If any other dimension differs.
pub fn concat_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (Some((&m, outer)), Some((&n, other))) = (a.dims().split_last(), b.dims().split_last()) else {
        return Err(Error::argument("concat_channels", "a, b", "[..., C]", (a.dims(), b.dims())));
    };
    if outer != other {
        return Err(Error::argument("concat_channels", "b", format!("{outer:?} before the channels"), b.dims()));
    }
    not_empty("concat_channels", "a", a)?;
    not_empty("concat_channels", "b", b)?;
    on_card!([a, b] => cuda::concat_channels(a, b, [outer, &[m + n]].concat(), [m, n]));
    if !cpu::applies(&[a, b]) {
        return Ok(Tensor::cat(&[a, b], D::Minus1)?);
    }
    apply2(Join { shape: [outer, &[m + n]].concat(), widths: [m, n] }, a, b)
}
