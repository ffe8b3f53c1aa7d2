//! Softmax attention.

use std::sync::OnceLock;

use candle_core::{DType, Tensor};

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use super::{
    composed,
    cpu::{self, attention::Attention, kernel::apply3},
    not_empty,
    precision::{is_narrow, widened},
};
use crate::{Error, Result};

/// `softmax(scale · q kᵀ) v` per head. q: `[B, Tq, H, d]`, k and v: `[B, Tk, H, d]`; answers `[B, Tq, H, d]`.
/// `mask`: `[B, Tk]`, 0 where a key takes no part, 1 elsewhere; it receives no gradient.
///
/// # Errors
/// If the shapes do not agree.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let [batch, queries, heads, width, keys] = check(q, k, v, mask)?;
    on_card!([q, k, v] => cuda::attention(q, k, v, mask, cuda::Sizes { batch, heads, queries, keys, width, scale: scale as f32 }));
    if is_narrow(q) {
        return Ok(attention(&widened(q)?, &widened(k)?, &widened(v)?, scale, mask)?.to_dtype(q.dtype())?);
    }
    if !cpu::applies(&[q, k, v]) {
        let bias = mask.map(|m| m.to_dtype(q.dtype())?.affine(1e30, -1e30)?.reshape((batch, 1, 1, keys))).transpose()?;
        return composed::attention::attention(q, k, v, scale, bias.as_ref());
    }
    let bias = mask.map(|m| m.to_dtype(DType::F32)?.affine(1e30, -1e30)?.flatten_all()?.to_vec1()).transpose()?;
    let scale = scale as f32;
    apply3(Attention { batch, heads, queries, keys, width, scale, bias, softmax: OnceLock::new() }, q, k, v)
}

/// `softmax(scale · q kᵀ + bias) v` per head, with the full matrix of scores in memory: for text encoders, whose rows are short.
/// Shapes as in [`attention`]; `bias` broadcasts to `[B, H, Tq, Tk]` and may be relative positions, a causal mask (-1e30 where a
/// query must not look) or their sum.
///
/// # Errors
/// If the shapes do not agree.
pub fn biased_attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: &Tensor) -> Result<Tensor> {
    let [batch, queries, heads, _, keys] = check(q, k, v, None)?;
    let scores = [batch, heads, queries, keys];
    let fits = bias.rank() == 4 && bias.dims().iter().zip(scores).all(|(&n, full)| n == 1 || n == full);
    if !fits {
        return Err(Error::argument("biased_attention", "bias", format!("broadcast to {scores:?}"), bias.dims()));
    }
    composed::attention::attention(q, k, v, scale, Some(bias))
}

/// Batch, queries, heads, width, keys.
fn check(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<[usize; 5]> {
    let (&[b, tq, h, d], &[_, tk, ..]) = (q.dims(), k.dims()) else {
        return Err(Error::argument("attention", "q, k", "[B, T, H, d]", (q.dims(), k.dims())));
    };
    for (argument, x) in [("k", k), ("v", v)] {
        if x.dims() != [b, tk, h, d] {
            return Err(Error::argument("attention", argument, format!("{:?}", [b, tk, h, d]), x.dims()));
        }
    }
    not_empty("attention", "q", q)?;
    not_empty("attention", "k", k)?;
    match mask {
        Some(m) if m.dims() != [b, tk] => Err(Error::argument("attention", "mask", format!("{:?}", [b, tk]), m.dims())),
        _ => Ok([b, tq, h, d, tk]),
    }
}
