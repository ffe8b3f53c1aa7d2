//! Random Fourier features of a noise level.

use candle_core::{D, Tensor};

use crate::{Error, Result};

/// `[cos(2 pi t f), sin(2 pi t f)]` (Tancik et al. 2020; Song et al. 2021). t: `[B]`, frequencies: `[n / 2]` of the same dtype;
/// answers `[B, n]`. The frequencies are drawn once, N(0, 16²) in NCSN++, and kept with the weights.
///
/// # Errors
/// If t or the frequencies are not vectors.
pub fn fourier_embedding(t: &Tensor, frequencies: &Tensor) -> Result<Tensor> {
    for (argument, x) in [("t", t), ("frequencies", frequencies)] {
        if x.rank() != 1 || x.elem_count() == 0 {
            return Err(Error::argument("fourier_embedding", argument, "a vector", x.dims()));
        }
    }
    let angles = t.unsqueeze(1)?.broadcast_mul(&(frequencies * std::f64::consts::TAU)?.unsqueeze(0)?)?;
    Ok(Tensor::cat(&[angles.cos()?, angles.sin()?], D::Minus1)?)
}
