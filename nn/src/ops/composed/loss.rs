//! Losses, elementwise then averaged per sample, accumulated in float32.

use candle_core::{DType, Tensor};

use crate::{Result, ops::cpu::loss::Distance};

pub(crate) fn loss(a: &Tensor, b: &Tensor, distance: Distance) -> Result<Tensor> {
    let wide = |t: &Tensor| if t.dtype() == DType::F64 { Ok(t.clone()) } else { t.to_dtype(DType::F32) };
    let d = (wide(a)? - wide(b)?)?;
    let y = match distance {
        Distance::Squared => d.sqr()?,
        Distance::Absolute => d.abs()?,
        Distance::Huber(delta) => {
            let inner = d.clamp(-delta, delta)?;
            (&inner * (d - (&inner * 0.5)?)?)?
        }
    };
    Ok(y.flatten_from(1)?.mean(1)?)
}
