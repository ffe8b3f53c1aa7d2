//! Resampling of images by a separable filter.

use candle_core::Tensor;

use crate::{Result, ops::FirConfig};

pub(crate) fn fir_resample(x: &Tensor, taps: &[f32], config: FirConfig, [h_out, w_out]: [usize; 2]) -> Result<Tensor> {
    // Rows first, then the columns as if they were rows.
    let y = rows(x, taps, config, h_out)?;
    Ok(rows(&y.transpose(1, 2)?, taps, config, w_out)?.transpose(1, 2)?.contiguous()?)
}

fn rows(x: &Tensor, taps: &[f32], config: FirConfig, out: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let x = x.contiguous()?.reshape((b, h, 1, w, c))?.pad_with_zeros(2, 0, config.up - 1)?.reshape((b, h * config.up, w, c))?;
    let missing = (taps.len() - 1 + config.down * out).saturating_sub(config.before + h * config.up);
    let x = x.pad_with_zeros(1, config.before, missing)?;
    let mut sum: Option<Tensor> = None;
    for (k, &tap) in taps.iter().enumerate() {
        let kept = x.narrow(1, k, config.down * out)?.reshape((b, out, config.down, w, c))?.narrow(2, 0, 1)?;
        let term = (kept.reshape((b, out, w, c))? * f64::from(tap))?;
        sum = Some(match sum {
            None => term,
            Some(sum) => (sum + term)?,
        });
    }
    sum.ok_or_else(|| crate::Error::argument("fir_resample", "taps", "1 tap or more", taps.len()))
}
