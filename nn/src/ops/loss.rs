//! Losses, elementwise then averaged per sample, accumulated in float32.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// Mean squared error per sample. a, b: `[B, ...]`; answers `[B]` float32.
pub fn mse_loss(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    per_sample("mse_loss", a, b, |d| Ok(d.sqr()?))
}

/// Mean absolute error per sample. a, b: `[B, ...]`; answers `[B]` float32.
pub fn l1_loss(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    per_sample("l1_loss", a, b, |d| Ok(d.abs()?))
}

/// Huber loss per sample: `d²/2` where `|d| <= delta`, else `delta (|d| - delta/2)`. a, b: `[B, ...]`; answers `[B]` float32.
pub fn huber_loss(a: &Tensor, b: &Tensor, delta: f64) -> Result<Tensor> {
    per_sample("huber_loss", a, b, |d| {
        let inner = d.clamp(-delta, delta)?;
        Ok((&inner * (d - (&inner * 0.5)?)?)?)
    })
}

fn per_sample(op: &'static str, a: &Tensor, b: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    if a.dims() != b.dims() || a.rank() < 2 {
        return Err(Error::argument(op, "b", format!("{:?}, of rank 2 or more", a.dims()), b.dims()));
    }
    let d = (a.to_dtype(DType::F32)? - b.to_dtype(DType::F32)?)?;
    Ok(f(&d)?.flatten_from(1)?.mean(1)?)
}
