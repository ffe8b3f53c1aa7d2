//! Encoder and decoder, channels last inside.

use candle_core::Tensor;
use strata_nn::{
    Result,
    layers::{Conv2d, GroupNorm},
    params::Scope,
    precision,
};

use crate::{
    CoderConfig,
    blocks::{Chain, ChainShape, Downsample, Middle, NORM_EPS, Upsample},
};

/// Pixels to bottleneck features.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    patch: usize,
    conv_in: Conv2d,
    levels: Vec<(Chain, Option<Downsample>)>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    /// `c_out`: channels of the answer.
    pub(crate) fn new(config: &CoderConfig, c_out: usize, scope: &Scope) -> Result<Self> {
        let groups = config.norm_groups;
        let conv_in = Conv2d::new(&scope.pp("conv_in"), config.in_channels * config.patch * config.patch, config.stem(), 3)?;
        let (mut levels, mut c) = (Vec::new(), config.stem());
        for (i, &width) in config.channels.iter().enumerate() {
            let scope = scope.pp("levels").pp(i);
            let attention = config.encoder_attention.contains(&i);
            let chain =
                Chain::new(&scope, &ChainShape { c_in: c, c_out: width, blocks: config.encoder_blocks, attention, groups })?;
            let down = || Downsample::new(&scope.pp("downsample"), width, config.resampling);
            levels.push((chain, (i + 1 < config.levels()).then(down).transpose()?));
            c = width;
        }
        Ok(Self {
            patch: config.patch,
            conv_in,
            levels,
            middle: Middle::new(&scope.pp("middle"), c, groups, config.middle_attention)?,
            norm_out: GroupNorm::new(&scope.pp("norm_out"), c, groups, NORM_EPS)?,
            conv_out: Conv2d::new(&scope.pp("conv_out"), c, c_out, 3)?,
        })
    }

    /// x: `[B, H, W, C_in]` -> `[B, h, w, c_out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = self.conv_in.forward(&fold(&precision::enter(x)?, self.patch)?)?;
        for (chain, down) in &self.levels {
            h = chain.forward(&h)?;
            if let Some(down) = down {
                h = down.forward(&h)?;
            }
        }
        precision::leave(&self.conv_out.forward(&self.norm_out.forward_silu(&self.middle.forward(&h)?)?)?)
    }
}

/// Bottleneck features to pixels.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    patch: usize,
    tanh_out: bool,
    conv_in: Conv2d,
    middle: Middle,
    /// Lowest resolution first.
    levels: Vec<(Chain, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(crate) fn new(config: &CoderConfig, scope: &Scope) -> Result<Self> {
        let groups = config.norm_groups;
        let mut c = config.channels.last().copied().unwrap_or(0);
        let conv_in = Conv2d::new(&scope.pp("conv_in"), config.bottleneck(), c, 3)?;
        let middle = Middle::new(&scope.pp("middle"), c, groups, config.middle_attention)?;
        let mut levels = Vec::new();
        for (i, &width) in config.channels.iter().enumerate().rev() {
            let scope = scope.pp("levels").pp(i);
            let attention = config.decoder_attention.contains(&i);
            let chain =
                Chain::new(&scope, &ChainShape { c_in: c, c_out: width, blocks: config.decoder_blocks, attention, groups })?;
            let up = || Upsample::new(&scope.pp("upsample"), width, config.resampling);
            levels.push((chain, (i > 0).then(up).transpose()?));
            c = width;
        }
        let c_out = config.out_channels * config.patch * config.patch;
        let norm_out = GroupNorm::new(&scope.pp("norm_out"), c, groups, NORM_EPS)?;
        let conv_out = Conv2d::new(&scope.pp("conv_out"), c, c_out, 3)?;
        Ok(Self { patch: config.patch, tanh_out: config.tanh_out, conv_in, middle, levels, norm_out, conv_out })
    }

    /// z: `[B, h, w, bottleneck]` -> `[B, H, W, C_out]`.
    pub(crate) fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let mut h = self.middle.forward(&self.conv_in.forward(&precision::enter(z)?)?)?;
        for (chain, up) in &self.levels {
            h = chain.forward(&h)?;
            if let Some(up) = up {
                h = up.forward(&h)?;
            }
        }
        let y = unfold(&self.conv_out.forward(&self.norm_out.forward_silu(&h)?)?, self.patch)?;
        let y = precision::leave(&y)?;
        if self.tanh_out { Ok(y.tanh()?) } else { Ok(y) }
    }

    /// The convolution that ends the decoder.
    pub(crate) fn last_layer(&self) -> &Conv2d {
        &self.conv_out
    }
}

/// Squares of `p`×`p` pixels become channels: `[B, H, W, C]` -> `[B, H/p, W/p, p·p·C]`.
fn fold(x: &Tensor, p: usize) -> Result<Tensor> {
    if p == 1 {
        return Ok(x.clone());
    }
    let (b, h, w, c) = x.dims4()?;
    let x = x.reshape((b, h / p, p, w / p, p, c))?.transpose(2, 3)?.contiguous()?;
    Ok(x.reshape((b, h / p, w / p, p * p * c))?)
}

/// The inverse of [`fold`].
fn unfold(x: &Tensor, p: usize) -> Result<Tensor> {
    if p == 1 {
        return Ok(x.clone());
    }
    let (b, h, w, c) = x.dims4()?;
    let c = c / (p * p);
    let x = x.reshape((b, h, w, p, p, c))?.transpose(2, 3)?.contiguous()?;
    Ok(x.reshape((b, h * p, w * p, c))?)
}

/// `[B, C, H, W]` -> `[B, H, W, C]`, contiguous.
pub(crate) fn channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute((0, 2, 3, 1))?.contiguous()?)
}

/// `[B, H, W, C]` -> `[B, C, H, W]`, contiguous.
pub(crate) fn channels_first(x: &Tensor) -> Result<Tensor> {
    Ok(x.permute((0, 3, 1, 2))?.contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn unfold_inverts_fold() -> Result<()> {
        let x = Tensor::arange(0f32, 2. * 6. * 4. * 3., &Device::Cpu)?.reshape((2, 6, 4, 3))?;
        let folded = fold(&x, 2)?;
        assert_eq!(folded.dims(), [2, 3, 2, 12]);
        // The first square: rows 0 and 1, columns 0 and 1.
        let first: Vec<f32> = folded.get(0)?.get(0)?.get(0)?.to_vec1()?;
        assert_eq!(first, [0., 1., 2., 3., 4., 5., 12., 13., 14., 15., 16., 17.]);
        assert_eq!(unfold(&folded, 2)?.flatten_all()?.to_vec1::<f32>()?, x.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }
}
