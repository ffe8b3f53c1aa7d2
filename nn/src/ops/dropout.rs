//! Dropout with reproducible masks.

use candle_core::Tensor;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use crate::{Error, Result, random::Key};

/// Zeroes each element with probability `p` and divides the rest by `1 - p`; the mask is the stream `key`.
///
/// # Errors
/// If `p` is not in [0, 1).
pub fn dropout(x: &Tensor, p: f64, key: Key) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        return Err(Error::argument("dropout", "p", "a probability in [0, 1)", p));
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    super::not_empty("dropout", "x", x)?;
    on_card!([x] => cuda::dropout(x, p, key));
    let keep = (1.0 / (1.0 - p)) as f32;
    let mask: Vec<f32> = key.uniform(x.elem_count()).into_iter().map(|u| if f64::from(u) < p { 0.0 } else { keep }).collect();
    Ok((x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?)?)
}
