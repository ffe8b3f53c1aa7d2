//! Resampling of images by a separable filter: zeros in between, a correlation, every so many samples kept.

use candle_core::Tensor;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use super::{
    composed,
    cpu::{self, fir::Resample, kernel::apply1},
    not_empty,
    precision::{is_narrow, widened},
};
use crate::{Error, Result};

/// How [`fir_resample`] samples; the same for rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirConfig {
    /// Each sample is followed by `up - 1` zeros.
    pub up: usize,
    /// Every `down`-th result is kept, the first one included.
    pub down: usize,
    /// Zeros before the first sample.
    pub before: usize,
    /// Zeros after the last one.
    pub after: usize,
}

impl FirConfig {
    /// Samples that come out of `size` with a filter of `taps`; `None` if the filter is longer than what it slides over.
    pub fn output(&self, size: usize, taps: usize) -> Option<usize> {
        let padded = self.up * size + self.before + self.after;
        (self.down > 0 && taps > 0 && padded >= taps).then(|| (padded - taps) / self.down + 1)
    }
}

/// Resampling by a finite impulse response (`upfirdn`; Zhang 2019, Karras et al. 2019):
/// `y[i] = sum_k taps[k] u[down i + k - before]` along rows and along columns, where u is x with `up - 1` zeros after each sample
/// and zeros outside. It is a correlation: give the taps backwards for a convolution. x: `[B, H, W, C]` -> `[B, H', W', C]` with
/// `H' = (up H + before + after - n) / down + 1` for n taps.
///
/// # Errors
/// If x is not an image, `up` or `down` is 0, or the filter is longer than what it slides over.
pub fn fir_resample(x: &Tensor, taps: &[f32], config: FirConfig) -> Result<Tensor> {
    let &[b, h, w, c] = x.dims() else {
        return Err(Error::argument("fir_resample", "x", "[B, H, W, C]", x.dims()));
    };
    not_empty("fir_resample", "x", x)?;
    if config.up == 0 || config.down == 0 {
        return Err(Error::argument("fir_resample", "config", "`up` and `down` of 1 or more", config));
    }
    let (Some(h_out), Some(w_out)) = (config.output(h, taps.len()), config.output(w, taps.len())) else {
        let expected = format!("1 tap or more and an image of at least as many after {config:?}");
        return Err(Error::argument("fir_resample", "taps, x", expected, (taps.len(), x.dims())));
    };
    on_card!([x] => cuda::fir_resample(x, taps, config, [b, h, w, c], [h_out, w_out]));
    if is_narrow(x) {
        return Ok(fir_resample(&widened(x)?, taps, config)?.to_dtype(x.dtype())?);
    }
    if cpu::applies(&[x]) {
        return apply1(Resample::new(taps, config, [b, h, w, c], [h_out, w_out]), x);
    }
    composed::fir::fir_resample(x, taps, config, [h_out, w_out])
}
