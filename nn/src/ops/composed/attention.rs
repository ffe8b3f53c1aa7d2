//! Softmax attention with the full matrix of scores.

use candle_core::{D, Tensor};

use crate::Result;

/// `bias` broadcasts to the scores `[B, H, Tq, Tk]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
    let heads_first = |x: &Tensor| x.transpose(1, 2)?.contiguous();
    let (q, k, v) = (heads_first(&(q * scale)?)?, heads_first(k)?, heads_first(v)?);
    let mut scores = q.matmul(&k.t()?)?;
    if let Some(bias) = bias {
        scores = scores.broadcast_add(&bias.to_dtype(scores.dtype())?)?;
    }
    Ok(softmax(&scores)?.matmul(&v)?.transpose(1, 2)?.contiguous()?)
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let e = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}
