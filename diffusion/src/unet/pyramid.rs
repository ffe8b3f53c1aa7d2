//! Images beside the features: the input joins the encoder at every level, and every level of a decoder adds to the output.

use candle_core::Tensor;
use strata_nn::{
    layers::{Conv2d, GroupNorm, Linear},
    ops::{Conv2dConfig, Padding},
    params::Scope,
    recompute::seam,
};

use super::{
    config::{InputPyramid, UNetConfig},
    plan::Direction,
    resample::Resampling,
    residual::rescaled,
};
use crate::{Error, Result};

/// How the image, halved once more, joins the features of a level.
#[derive(Debug)]
pub(super) struct Join {
    kind: Kind,
    resampling: Resampling,
    rescale: bool,
}

#[derive(Debug)]
enum Kind {
    /// `conv(filter(image))` is added, and the sum is the next image.
    Residual(Conv2d),
    /// A 1×1 convolution of the halved image is added.
    Skip(Linear),
}

impl Join {
    pub(super) fn new(config: &UNetConfig, scope: &Scope, c_in: usize, c_out: usize) -> Result<Self> {
        let kind = match config.input_pyramid {
            InputPyramid::Residual => {
                let strided = Conv2dConfig { stride: 2, padding: Padding::all(0) };
                Kind::Residual(config.conv(&scope.pp("conv"), [c_in, c_out, 3], strided)?)
            }
            InputPyramid::Skip => Kind::Skip(config.pointwise(&scope.pp("conv"), c_in, c_out)?),
            InputPyramid::None => return Err(Error::Config(format!("{}: there is no input pyramid", scope.path()))),
        };
        Ok(Self { kind, resampling: Resampling::new(config), rescale: config.rescale })
    }

    /// h: `[B, H, W, C]`, image: `[B, 2H, 2W, D]`; answers the features and the image of this level.
    pub(super) fn forward(&self, h: &Tensor, image: &Tensor) -> Result<(Tensor, Tensor)> {
        match &self.kind {
            Kind::Residual(conv) => {
                let sum = (h + conv.forward(&self.resampling.before_strided(image)?)?)?;
                let sum = rescaled(sum, self.rescale)?;
                Ok((seam(&sum)?, sum))
            }
            Kind::Skip(map) => {
                let image = self.resampling.apply(image, Direction::Down)?;
                Ok(((h + map.forward(&image)?)?, image))
            }
        }
    }
}

/// What a level of a decoder adds to the image: `conv(silu(norm(h)))`.
#[derive(Debug)]
pub(super) struct ToImage {
    norm: GroupNorm,
    conv: Conv2d,
    resampling: Resampling,
}

impl ToImage {
    pub(super) fn new(config: &UNetConfig, scope: &Scope, channels: usize) -> Result<Self> {
        Ok(Self {
            norm: config.norm(&scope.pp("norm"), channels)?,
            conv: config.last_conv3(&scope.pp("conv"), channels, config.out_channels)?,
            resampling: Resampling::new(config),
        })
    }

    /// h: `[B, H, W, C]`; image: that of the level below, `[B, H/2, W/2, C_out]`.
    pub(super) fn forward(&self, h: &Tensor, image: Option<&Tensor>) -> Result<Tensor> {
        let y = self.conv.forward(&self.norm.forward_silu(h)?)?;
        match image {
            None => Ok(y),
            Some(image) => Ok((y + self.resampling.apply(image, Direction::Up)?)?),
        }
    }
}
