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
    tiled::{self, Op, Segment},
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
    recompute: bool,
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
            recompute: false,
        })
    }

    /// Whether blocks compute their activations anew in the backward pass.
    pub(crate) fn checkpoint_activations(&mut self, on: bool) {
        self.recompute = on;
    }

    /// x: `[B, H, W, C_in]` -> `[B, h, w, c_out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = self.conv_in.forward(&fold(&precision::enter(x)?, self.patch)?)?;
        for (chain, down) in &self.levels {
            h = chain.forward(&h, self.recompute)?;
            if let Some(down) = down {
                h = down.forward(&h)?;
            }
        }
        self.lowest(&h)
    }

    fn lowest(&self, h: &Tensor) -> Result<Tensor> {
        precision::leave(&self.conv_out.forward(&self.norm_out.forward_silu(&self.middle.forward(h, self.recompute)?)?)?)
    }

    /// The same for one image in float32, by tiles of about `side` pixels. The lowest level, and all from the first with attention on, run
    /// whole.
    pub(crate) fn forward_tiled(&self, x: &Tensor, side: usize) -> crate::Result<Tensor> {
        let tiled = self.levels.iter().take_while(|(chain, down)| chain.is_local() && down.is_some()).count();
        let mut segments: Vec<Segment<'_>> = vec![vec![Op::Conv(&self.conv_in)]];
        for (i, (chain, down)) in self.levels[..tiled].iter().enumerate() {
            let mut segment = if i == 0 { segments.remove(0) } else { Vec::new() };
            chain.extend(&mut segment);
            segment.extend(down.iter().map(Op::Down));
            segments.push(segment);
        }
        let mut h = tiled::run(&segments, fold(x, self.patch)?, side / self.patch)?;
        for (chain, down) in &self.levels[tiled..] {
            h = chain.forward(&h, self.recompute)?;
            if let Some(down) = down {
                h = down.forward(&h)?;
            }
        }
        Ok(self.lowest(&h)?)
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
    recompute: bool,
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
        let (patch, tanh_out) = (config.patch, config.tanh_out);
        Ok(Self { patch, tanh_out, conv_in, middle, levels, norm_out, conv_out, recompute: false })
    }

    /// As [`Encoder::checkpoint_activations`].
    pub(crate) fn checkpoint_activations(&mut self, on: bool) {
        self.recompute = on;
    }

    /// Everything but the last convolution. z: `[B, h, w, bottleneck]` -> `[B, H/p, W/p, channels of level 0]`.
    pub(crate) fn features(&self, z: &Tensor) -> Result<Tensor> {
        let mut h = self.middle.forward(&self.conv_in.forward(&precision::enter(z)?)?, self.recompute)?;
        for (chain, up) in &self.levels {
            h = chain.forward(&h, self.recompute)?;
            if let Some(up) = up {
                h = up.forward(&h)?;
            }
        }
        self.norm_out.forward_silu(&h)
    }

    /// The last convolution and what follows: `[B, H, W, C_out]`.
    pub(crate) fn finish(&self, h: &Tensor) -> Result<Tensor> {
        let y = precision::leave(&unfold(&self.conv_out.forward(h)?, self.patch)?)?;
        if self.tanh_out { Ok(y.tanh()?) } else { Ok(y) }
    }

    /// The whole of it for one latent in float32, by tiles of about `side` pixels. The lowest level, and all up to the last with attention, run
    /// whole.
    pub(crate) fn forward_tiled(&self, z: &Tensor, side: usize) -> crate::Result<Tensor> {
        let mut h = self.middle.forward(&self.conv_in.forward(z)?, self.recompute)?;
        let whole = self.levels.iter().rposition(|(chain, _)| !chain.is_local()).map_or(0, |last| last + 1);
        let mut segment = Segment::new();
        let mut segments = Vec::new();
        for (i, (chain, up)) in self.levels.iter().enumerate() {
            if i < whole {
                h = chain.forward(&h, self.recompute)?;
            } else {
                chain.extend(&mut segment);
            }
            match up {
                Some(up) if i + 1 < whole => h = up.forward(&h)?,
                Some(up) => {
                    segments.push(std::mem::take(&mut segment));
                    segment.push(Op::Up(up));
                }
                None => segment.extend([Op::Norm(&self.norm_out), Op::Conv(&self.conv_out)]),
            }
        }
        segments.push(segment);
        let y = unfold(&tiled::run(&segments, h, side / self.patch)?, self.patch)?;
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
