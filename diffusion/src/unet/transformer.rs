//! The spatial transformer: self-attention, cross attention to a context, and a gated feed-forward layer.

use candle_core::Tensor;
use strata_nn::{
    layers::{GroupNorm, LayerNorm, Linear},
    ops,
    params::{Init, Scope},
};

use super::config::{TransformerConfig, UNetConfig};
use crate::Result;

/// Epsilon of the transformer's group norm, as published; its layer norms have 1e-5.
const GROUP_NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;

/// `x + proj_out(blocks(proj_in(norm(x))))` over the positions of an image (Rombach et al. 2022).
#[derive(Debug)]
pub(super) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<Block>,
    proj_out: Linear,
}

impl SpatialTransformer {
    pub(super) fn new(
        config: &UNetConfig,
        transformer: &TransformerConfig,
        scope: &Scope,
        channels: usize,
        heads: usize,
    ) -> Result<Self> {
        let widths = Widths { channels, context: transformer.context_width, heads };
        let trailing = config.projection_trailing();
        Ok(Self {
            norm: GroupNorm::new(&scope.pp("norm"), channels, config.family.groups(config.groups, channels), GROUP_NORM_EPS)?,
            proj_in: Linear::pointwise(&scope.pp("proj_in"), channels, channels, trailing, Init::FanIn)?,
            blocks: (0..transformer.depth).map(|i| Block::new(&scope.pp(format!("block{i}")), widths)).collect::<Result<_>>()?,
            proj_out: Linear::pointwise(&scope.pp("proj_out"), channels, channels, trailing, config.last_init())?,
        })
    }

    /// x: `[B, H, W, C]`, context: `[B, T, D]`; same shape as x.
    pub(super) fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let mut tokens = self.proj_in.forward(&self.norm.forward(x)?)?.reshape((b, h * w, c))?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, context)?;
        }
        Ok((x + self.proj_out.forward(&tokens.reshape((b, h, w, c))?)?)?)
    }
}

#[derive(Clone, Copy)]
struct Widths {
    channels: usize,
    context: usize,
    heads: usize,
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attention1: Attention,
    norm2: LayerNorm,
    attention2: Attention,
    norm3: LayerNorm,
    feed_in: Linear,
    feed_out: Linear,
}

impl Block {
    fn new(scope: &Scope, widths: Widths) -> Result<Self> {
        let c = widths.channels;
        let norm = |name: &str| LayerNorm::new(&scope.pp(name), c, LAYER_NORM_EPS);
        Ok(Self {
            norm1: norm("norm1")?,
            attention1: Attention::new(&scope.pp("attention1"), Widths { context: c, ..widths })?,
            norm2: norm("norm2")?,
            attention2: Attention::new(&scope.pp("attention2"), widths)?,
            norm3: norm("norm3")?,
            feed_in: Linear::new(&scope.pp("feed_in"), c, 8 * c)?,
            feed_out: Linear::new(&scope.pp("feed_out"), 4 * c, c)?,
        })
    }

    fn forward(&self, h: &Tensor, context: &Tensor) -> Result<Tensor> {
        let n = self.norm1.forward(h)?;
        let h = (h + self.attention1.forward(&n, &n)?)?;
        let h = (&h + self.attention2.forward(&self.norm2.forward(&h)?, context)?)?;
        let inner = ops::geglu(&self.feed_in.forward(&self.norm3.forward(&h)?)?)?;
        Ok((&h + self.feed_out.forward(&inner)?)?)
    }
}

#[derive(Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn new(scope: &Scope, Widths { channels, context, heads }: Widths) -> Result<Self> {
        let map = |name: &str, n_in: usize| Linear::without_bias(&scope.pp(name), n_in, channels, Init::FanIn);
        Ok(Self {
            q: map("q", channels)?,
            k: map("k", context)?,
            v: map("v", context)?,
            out: Linear::new(&scope.pp("out"), channels, channels)?,
            heads,
        })
    }

    /// x: `[B, T, C]`, context: `[B, S, D]` -> `[B, T, C]`.
    fn forward(&self, x: &Tensor, context: &Tensor) -> Result<Tensor> {
        let split = |t: Tensor| {
            let (b, n, c) = t.dims3()?;
            t.reshape((b, n, self.heads, c / self.heads))
        };
        let (q, k, v) = (split(self.q.forward(x)?)?, split(self.k.forward(context)?)?, split(self.v.forward(context)?)?);
        let y = ops::attention(&q, &k, &v, (q.dim(3)? as f64).powf(-0.5), None)?;
        Ok(self.out.forward(&y.flatten_from(2)?)?)
    }
}
