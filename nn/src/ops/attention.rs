//! Softmax attention.

use candle_core::{D, Tensor};

use crate::{Error, Result};

/// `softmax(scale · q kᵀ) v` per head. q: `[B, Tq, H, d]`, k and v: `[B, Tk, H, d]`; answers `[B, Tq, H, d]`.
/// `mask`: `[B, Tk]`, 0 where a key takes no part, 1 elsewhere.
///
/// # Errors
/// If the shapes do not agree.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    check(q, k, v, mask)?;
    let heads_first = |x: &Tensor| x.transpose(1, 2)?.contiguous();
    let (q, k, v) = (heads_first(&(q * scale)?)?, heads_first(k)?, heads_first(v)?);
    let mut scores = q.matmul(&k.t()?)?;
    if let Some(mask) = mask {
        let (b, t) = mask.dims2()?;
        let bias = mask.to_dtype(scores.dtype())?.affine(1e30, -1e30)?.reshape((b, 1, 1, t))?;
        scores = scores.broadcast_add(&bias)?;
    }
    Ok(softmax(&scores)?.matmul(&v)?.transpose(1, 2)?.contiguous()?)
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<()> {
    let (&[b, _, h, d], &[_, tk, ..]) = (q.dims(), k.dims()) else {
        return Err(Error::argument("attention", "q, k", "[B, T, H, d]", (q.dims(), k.dims())));
    };
    for (argument, x) in [("k", k), ("v", v)] {
        if x.dims() != [b, tk, h, d] {
            return Err(Error::argument("attention", argument, format!("{:?}", [b, tk, h, d]), x.dims()));
        }
    }
    match mask {
        Some(m) if m.dims() != [b, tk] => Err(Error::argument("attention", "mask", format!("{:?}", [b, tk]), m.dims())),
        _ => Ok(()),
    }
}
