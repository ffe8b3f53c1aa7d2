//! The residual block.

use candle_core::Tensor;
use strata_nn::{
    layers::{Conv2d, GroupNorm, Linear},
    ops,
    params::{Init, Scope},
};

use super::{Pass, config::UNetConfig, plan::Direction};
use crate::Result;

/// `skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + e)))`, or with scale-shift `silu(norm2(h)(1 + s) + b)`, where e (or s and
/// b) is an affine map of the embedding; optionally the resolution changes before the first convolution and in the skip.
#[derive(Debug)]
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    embedding: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    skip: Option<Linear>,
    resample: Option<Direction>,
    scale_shift: bool,
    dropout: f64,
    path: String,
}

/// Epsilon of the U-Net's own norms.
pub(super) const EPS: f64 = 1e-5;

/// A layer that begins at zero where the configuration says so.
pub(super) fn last_init(config: &UNetConfig) -> Init {
    if config.zero_init { Init::ZEROS } else { Init::FanIn }
}

impl ResidualBlock {
    pub(super) fn new(
        config: &UNetConfig,
        scope: &Scope,
        c_in: usize,
        c_out: usize,
        resample: Option<Direction>,
    ) -> Result<Self> {
        let embedded = if config.scale_shift { 2 * c_out } else { c_out };
        let skip = || Linear::pointwise(&scope.pp("skip"), c_in, c_out, 2, Init::FanIn);
        Ok(Self {
            norm1: GroupNorm::new(&scope.pp("norm1"), c_in, config.groups, EPS)?,
            conv1: Conv2d::new(&scope.pp("conv1"), c_in, c_out, 3)?,
            embedding: Linear::new(&scope.pp("embedding"), config.embedding_width(), embedded)?,
            norm2: GroupNorm::new(&scope.pp("norm2"), c_out, config.groups, EPS)?,
            conv2: Conv2d::with(&scope.pp("conv2"), [c_out, c_out, 3], ops::Conv2dConfig::same(3), last_init(config))?,
            skip: (c_in != c_out).then(skip).transpose()?,
            resample,
            scale_shift: config.scale_shift,
            dropout: config.dropout,
            path: scope.path().to_string(),
        })
    }

    /// x: `[B, H, W, C_in]` -> `[B, H', W', C_out]`.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let resample = |t: &Tensor| match self.resample {
            None => Ok(t.clone()),
            Some(Direction::Down) => ops::average_pool2x(t),
            Some(Direction::Up) => ops::upsample_nearest2x(t),
        };
        let h = self.conv1.forward(&resample(&self.norm1.forward_silu(x)?)?)?;
        let h = self.modulate(&h, &self.embedding.forward(&pass.embedding)?)?;
        let h = match pass.train {
            Some(key) if self.dropout > 0.0 => ops::dropout(&h, self.dropout, key.child(&self.path))?,
            _ => h,
        };
        let x = resample(x)?;
        let x = self.skip.as_ref().map_or(Ok(x.clone()), |skip| skip.forward(&x))?;
        Ok((x + self.conv2.forward(&h)?)?)
    }

    fn modulate(&self, h: &Tensor, e: &Tensor) -> Result<Tensor> {
        let (b, c) = (h.dim(0)?, h.dim(3)?);
        if self.scale_shift {
            let (scale, shift) = (e.narrow(1, 0, c)?.contiguous()?, e.narrow(1, c, c)?.contiguous()?);
            return Ok(self.norm2.forward_scale_shift_silu(h, &scale, &shift)?);
        }
        Ok(self.norm2.forward_silu(&h.broadcast_add(&e.reshape((b, 1, 1, c))?)?)?)
    }
}
