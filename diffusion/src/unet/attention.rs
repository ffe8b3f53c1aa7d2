//! Self-attention over the positions of an image.

use candle_core::Tensor;
use strata_nn::{
    layers::{GroupNorm, Linear},
    ops,
    params::Scope,
};

use super::{config::UNetConfig, residual::rescaled};
use crate::Result;

/// `x + out(attention(q, k, v))` with q, k, v the thirds of `qkv(norm(x))`; heads are consecutive channels of each third.
#[derive(Debug)]
pub(super) struct AttentionBlock {
    norm: Option<GroupNorm>,
    qkv: Linear,
    out: Linear,
    heads: usize,
    rescale: bool,
}

impl AttentionBlock {
    pub(super) fn new(config: &UNetConfig, scope: &Scope, channels: usize, heads: usize, norm: bool) -> Result<Self> {
        let norm = norm.then(|| config.norm(&scope.pp("norm"), channels)).transpose()?;
        let [qkv, out] = config.attention_maps(scope, channels)?;
        Ok(Self { norm, qkv, out, heads, rescale: config.rescale })
    }

    /// x: `[B, H, W, C]`, same shape.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let d = c / self.heads;
        let normed = self.norm.as_ref().map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))?;
        let qkv = self.qkv.forward(&normed)?.reshape((b, h * w, 3, self.heads, d))?;
        let part = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2);
        let y = ops::attention(&part(0)?, &part(1)?, &part(2)?, (d as f64).powf(-0.5), None)?;
        rescaled((x + self.out.forward(&y.reshape((b, h, w, c))?)?)?, self.rescale)
    }
}
