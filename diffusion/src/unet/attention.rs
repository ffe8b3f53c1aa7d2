//! Self-attention over the positions of an image.

use candle_core::Tensor;
use strata_nn::{
    layers::{GroupNorm, Linear},
    ops,
    params::{Init, Scope},
};

use super::{
    config::UNetConfig,
    residual::{EPS, last_init},
};
use crate::Result;

/// `x + out(attention(q, k, v))` with q, k, v the thirds of `qkv(norm(x))`; heads are consecutive channels of each third.
#[derive(Debug)]
pub(super) struct AttentionBlock {
    norm: GroupNorm,
    qkv: Linear,
    out: Linear,
    heads: usize,
}

impl AttentionBlock {
    pub(super) fn new(config: &UNetConfig, scope: &Scope, channels: usize, heads: usize) -> Result<Self> {
        Ok(Self {
            norm: GroupNorm::new(&scope.pp("norm"), channels, config.groups, EPS)?,
            qkv: Linear::pointwise(&scope.pp("qkv"), channels, 3 * channels, 1, Init::FanIn)?,
            out: Linear::pointwise(&scope.pp("out"), channels, channels, 1, last_init(config))?,
            heads,
        })
    }

    /// x: `[B, H, W, C]`, same shape.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let d = c / self.heads;
        let qkv = self.qkv.forward(&self.norm.forward(x)?)?.reshape((b, h * w, 3, self.heads, d))?;
        let part = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2);
        let y = ops::attention(&part(0)?, &part(1)?, &part(2)?, (d as f64).powf(-0.5), None)?;
        Ok((x + self.out.forward(&y.reshape((b, h, w, c))?)?)?)
    }
}
