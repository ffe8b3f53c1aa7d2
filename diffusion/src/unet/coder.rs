//! The encoder, the middle and a decoder, assembled from the steps of a plan.

use std::sync::Arc;

use candle_core::Tensor;
use strata_nn::{
    layers::{Conv2d, GroupNorm, Linear},
    ops::{self, Conv2dConfig, Padding},
    params::Scope,
    recompute::{checkpoint, seam},
};

use super::{
    Pass,
    attention::AttentionBlock,
    config::{Resample, UNetConfig},
    plan::{Direction, Mixing, Plan, Step},
    pyramid::{Join, ToImage},
    residual::ResidualBlock,
    transformer::SpatialTransformer,
};
use crate::{Error, Result};

/// What the encoder hands to every decoder: its end and the outputs on the way, the first made first.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    pub(super) h: Tensor,
    pub(super) skips: Vec<Tensor>,
}

/// First convolution, encoder steps and the middle.
#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    layers: Vec<Arc<Layer>>,
    middle: Vec<Arc<Layer>>,
}

impl Encoder {
    pub(super) fn new(config: &UNetConfig, plan: &Plan, scope: &Scope) -> Result<Self> {
        let (encoder, middle) = (scope.pp("encoder"), scope.pp("middle"));
        let layers = |steps: &[Step], scope: &Scope| steps.iter().map(|s| Layer::new(config, s, scope)).collect::<Result<_>>();
        Ok(Self {
            conv_in: config.conv3(&encoder.pp("conv_in"), config.in_channels, config.first_channels())?,
            layers: layers(&plan.encoder, &encoder)?,
            middle: layers(&plan.middle, &middle)?,
        })
    }

    /// x: `[B, H, W, C]`.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Encoded> {
        let mut h = self.conv_in.forward(x)?;
        let (mut skips, mut image) = (vec![h.clone()], x.clone());
        for layer in &self.layers {
            if let Layer::Join(join) = layer.as_ref() {
                (h, image) = join.forward(&h, &image)?;
                skips.pop();
            } else {
                h = layer.run(&seam(&h)?, None, pass)?;
            }
            skips.push(h.clone());
        }
        h = seam(&h)?;
        for layer in &self.middle {
            h = layer.run(&h, None, pass)?;
        }
        Ok(Encoded { h, skips })
    }
}

/// Decoder steps and the output.
#[derive(Debug)]
pub(super) struct Decoder {
    layers: Vec<Arc<Layer>>,
    /// None where the answer is the image that the levels add to.
    head: Option<Head>,
}

impl Decoder {
    pub(super) fn new(config: &UNetConfig, plan: &Plan, stage: usize, scope: &Scope) -> Result<Self> {
        let layers = plan.decoders[stage].iter().map(|step| Layer::new(config, step, scope)).collect::<Result<_>>()?;
        let head = (!config.output_pyramid).then(|| Head::new(config, scope, plan.c_out[stage])).transpose()?;
        Ok(Self { layers, head })
    }

    /// `[B, H, W, C_out]`.
    pub(super) fn forward(&self, encoded: &Encoded, pass: &Pass) -> Result<Tensor> {
        let (mut h, mut image) = (encoded.h.clone(), None);
        let mut skips = encoded.skips.iter().rev();
        for layer in &self.layers {
            if let Layer::ToImage(to_image) = layer.as_ref() {
                image = Some(to_image.forward(&h, image.as_ref())?);
                h = seam(&h)?;
                continue;
            }
            let skip = layer.takes_skip().then(|| skips.next()).flatten();
            h = layer.run(&h, skip, pass)?;
        }
        match (&self.head, image) {
            (Some(head), _) => head.forward(&h),
            (None, Some(image)) => Ok(image),
            (None, None) => Err(Error::Config("the decoder has no output".into())),
        }
    }
}

/// One step of a plan with its parameters.
#[derive(Debug)]
enum Layer {
    Block { residual: Box<ResidualBlock>, mixer: Option<Mixer>, skip: bool },
    Resample(Resampler),
    Join(Join),
    ToImage(ToImage),
}

impl Layer {
    fn new(config: &UNetConfig, step: &Step, scope: &Scope) -> Result<Arc<Self>> {
        let scope = scope.pp(step.name());
        Ok(Arc::new(match *step {
            Step::Block { c_in, c_out, mixer, skip, .. } => Self::Block {
                residual: Box::new(ResidualBlock::new(config, &scope, c_in, c_out, None)?),
                mixer: mixer.map(|mixing| Mixer::new(config, &scope, c_out, mixing)).transpose()?,
                skip,
            },
            Step::Resample { channels, direction, level, .. } => {
                let how = config.resample_to(level, direction);
                Self::Resample(Resampler::new(config, &scope, channels, (how, direction))?)
            }
            Step::Join { c_in, c_out, .. } => Self::Join(Join::new(config, &scope, c_in, c_out)?),
            Step::ToImage { channels, .. } => Self::ToImage(ToImage::new(config, &scope, channels)?),
        }))
    }

    /// The layer on x, joined with what the encoder left; its activations are kept or not, as `pass` says.
    fn run(self: &Arc<Self>, x: &Tensor, skip: Option<&Tensor>, pass: &Pass) -> Result<Tensor> {
        // A single convolution has nothing inside to keep.
        let recompute = pass.recompute && !matches!(self.as_ref(), Self::Resample(Resampler::Down(_) | Resampler::Up(_)));
        let context = pass.context.as_ref().map(seam).transpose()?;
        let inputs: Vec<&Tensor> = [Some(x), skip, Some(&pass.embedding), context.as_ref()].into_iter().flatten().collect();
        let (layer, joins, train) = (self.clone(), skip.is_some(), pass.train);
        checkpoint(recompute, &inputs, move |inputs| {
            let (x, rest) = if joins {
                (ops::concat_channels(&inputs[0], &inputs[1])?, &inputs[2..])
            } else {
                (inputs[0].clone(), &inputs[1..])
            };
            let pass = Pass { embedding: rest[0].clone(), context: rest.get(1).cloned(), train, recompute: false };
            layer.forward(&x, &pass)
        })
    }

    fn takes_skip(&self) -> bool {
        matches!(self, Self::Block { skip: true, .. })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self {
            Self::Block { residual, mixer: None, .. } => residual.forward(x, pass),
            Self::Block { residual, mixer: Some(mixer), .. } => mixer.forward(&residual.forward(x, pass)?, pass),
            Self::Resample(resampler) => resampler.forward(x, pass),
            Self::Join(_) | Self::ToImage(_) => Err(Error::Config("an image pyramid has no features of its own".into())),
        }
    }
}

/// What mixes positions after a residual block.
#[derive(Debug)]
enum Mixer {
    Attention(AttentionBlock),
    Transformer(SpatialTransformer),
}

impl Mixer {
    fn new(config: &UNetConfig, scope: &Scope, channels: usize, mixing: Mixing) -> Result<Self> {
        let count = mixing
            .count(channels)
            .ok_or_else(|| Error::Config(format!("{}: {channels} channels and {:?} do not agree", scope.path(), mixing.heads)))?;
        match &config.transformer {
            None => Ok(Self::Attention(AttentionBlock::new(config, &scope.pp("attention"), channels, count, mixing.norm)?)),
            Some(t) => Ok(Self::Transformer(SpatialTransformer::new(config, t, &scope.pp("transformer"), channels, count)?)),
        }
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match (self, &pass.context) {
            (Self::Attention(attention), _) => attention.forward(x),
            (Self::Transformer(transformer), Some(context)) => transformer.forward(x, context),
            (Self::Transformer(_), None) => Err(Error::Config("cross attention needs `Condition::context`".into())),
        }
    }
}

/// A change of resolution.
#[derive(Debug)]
enum Resampler {
    Down(Option<Conv2d>),
    Up(Option<Conv2d>),
    Block(Box<ResidualBlock>),
}

impl Resampler {
    fn new(config: &UNetConfig, scope: &Scope, channels: usize, (how, direction): (Resample, Direction)) -> Result<Self> {
        let conv = |stride, padding| config.conv(&scope.pp("conv"), [channels, channels, 3], Conv2dConfig { stride, padding });
        let halving = if config.pads_right_below() { Padding::BOTTOM_RIGHT } else { Padding::all(1) };
        Ok(match (how, direction) {
            (Resample::Convolution, Direction::Down) => Self::Down(Some(conv(2, halving)?)),
            (Resample::Convolution, Direction::Up) => Self::Up(Some(conv(1, Padding::all(1))?)),
            (Resample::Mean, Direction::Down) => Self::Down(None),
            (Resample::Mean, Direction::Up) => Self::Up(None),
            (Resample::Block, _) => {
                Self::Block(Box::new(ResidualBlock::new(config, scope, channels, channels, Some(direction))?))
            }
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self {
            Self::Down(Some(conv)) => Ok(conv.forward(x)?),
            Self::Down(None) => Ok(ops::average_pool2x(x)?),
            Self::Up(Some(conv)) => Ok(conv.forward(&ops::upsample_nearest2x(x)?)?),
            Self::Up(None) => Ok(ops::upsample_nearest2x(x)?),
            Self::Block(block) => block.forward(x, pass),
        }
    }
}

/// The end of a decoder: an image, or the logits of a codebook.
#[derive(Debug)]
enum Head {
    Image { norm: GroupNorm, conv: Conv2d },
    Codebook { norm: GroupNorm, map: Linear },
}

impl Head {
    fn new(config: &UNetConfig, scope: &Scope, channels: usize) -> Result<Self> {
        if let Some(size) = config.codebook {
            let scope = scope.pp("codebook");
            let map = config.pointwise(&scope.pp("out"), channels, size)?;
            return Ok(Self::Codebook { norm: config.norm(&scope.pp("norm"), channels)?, map });
        }
        let conv = config.last_conv3(&scope.pp("conv_out"), channels, config.out_channels)?;
        Ok(Self::Image { norm: config.norm(&scope.pp("norm_out"), channels)?, conv })
    }

    fn forward(&self, h: &Tensor) -> Result<Tensor> {
        match self {
            Self::Image { norm, conv } => Ok(conv.forward(&norm.forward_silu(h)?)?),
            Self::Codebook { norm, map } => Ok(map.forward(&norm.forward(h)?)?),
        }
    }
}
