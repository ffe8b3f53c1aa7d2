//! The residual block.

use candle_core::Tensor;
use strata_nn::{
    layers::{Conv2d, GroupNorm, Linear},
    ops,
    params::Scope,
};

use super::{Pass, config::UNetConfig, plan::Direction, resample::Resampling};
use crate::Result;

/// `skip(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + e)))`, or with scale-shift `silu(norm2(h)(1 + s) + b)`, where e (or s and
/// b) is an affine map of the embedding; optionally the resolution changes before the first convolution and in the skip, and the
/// sum is divided by sqrt(2).
#[derive(Debug)]
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    embedding: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    skip: Option<Linear>,
    resample: Option<(Resampling, Direction)>,
    scale_shift: bool,
    rescale: bool,
    dropout: f64,
    path: String,
}

/// A sum of two branches, brought back to the variance of one where the configuration says so.
pub(super) fn rescaled(sum: Tensor, rescale: bool) -> Result<Tensor> {
    if rescale { Ok(sum.affine(std::f64::consts::FRAC_1_SQRT_2, 0.0)?) } else { Ok(sum) }
}

/// Whether a block's skip has a map of its own.
pub(super) fn maps_skip(config: &UNetConfig, c_in: usize, c_out: usize, resamples: bool) -> bool {
    c_in != c_out || (resamples && config.family.maps_resampled_skip())
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
        let skip = maps_skip(config, c_in, c_out, resample.is_some());
        Ok(Self {
            norm1: config.norm(&scope.pp("norm1"), c_in)?,
            conv1: config.conv3(&scope.pp("conv1"), c_in, c_out)?,
            embedding: config.linear(&scope.pp("embedding"), config.embedding_width(), embedded)?,
            norm2: config.norm(&scope.pp("norm2"), c_out)?,
            conv2: config.last_conv3(&scope.pp("conv2"), c_out, c_out)?,
            skip: skip.then(|| config.pointwise(&scope.pp("skip"), c_in, c_out)).transpose()?,
            resample: resample.map(|direction| (Resampling::new(config), direction)),
            scale_shift: config.scale_shift,
            rescale: config.rescale,
            dropout: config.dropout,
            path: scope.path().to_string(),
        })
    }

    /// x: `[B, H, W, C_in]` -> `[B, H', W', C_out]`.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let resample = |t: &Tensor| match &self.resample {
            None => Ok(t.clone()),
            Some((resampling, direction)) => resampling.apply(t, *direction),
        };
        let h = self.modulated(&resample(&self.norm1.forward_silu(x)?)?, &self.embedding.forward(&pass.embedding)?)?;
        let h = match pass.train {
            Some(key) if self.dropout > 0.0 => ops::dropout(&h, self.dropout, key.child(&self.path))?,
            _ => h,
        };
        let x = resample(x)?;
        let x = self.skip.as_ref().map_or(Ok(x.clone()), |skip| skip.forward(&x))?;
        rescaled((x + self.conv2.forward(&h)?)?, self.rescale)
    }

    /// From the first convolution to the second activation, with what the embedding says.
    fn modulated(&self, h: &Tensor, e: &Tensor) -> Result<Tensor> {
        if !self.scale_shift {
            return Ok(self.norm2.forward_silu(&self.conv1.forward_shifted(h, e)?)?);
        }
        let (h, c) = (self.conv1.forward(h)?, e.dim(1)? / 2);
        let (scale, shift) = (e.narrow(1, 0, c)?.contiguous()?, e.narrow(1, c, c)?.contiguous()?);
        Ok(self.norm2.forward_scale_shift_silu(&h, &scale, &shift)?)
    }
}
