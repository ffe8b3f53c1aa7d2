//! The encoder, the middle and a decoder, assembled from the steps of a plan.

use candle_core::Tensor;
use strata_nn::{
    layers::{Conv2d, GroupNorm, Linear},
    ops::{self, Conv2dConfig, Padding},
    params::{Init, Scope},
};

use super::{
    Pass,
    attention::AttentionBlock,
    config::{Heads, Resample, UNetConfig},
    plan::{Direction, Plan, Step},
    residual::{EPS, ResidualBlock, last_init},
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
    layers: Vec<Layer>,
    middle: [Layer; 2],
}

impl Encoder {
    pub(super) fn new(config: &UNetConfig, plan: &Plan, scope: &Scope) -> Result<Self> {
        let (encoder, middle) = (scope.pp("encoder"), scope.pp("middle"));
        let [first, second] = &plan.middle;
        Ok(Self {
            conv_in: Conv2d::new(&encoder.pp("conv_in"), config.in_channels, config.width, 3)?,
            layers: plan.encoder.iter().map(|step| Layer::new(config, step, &encoder)).collect::<Result<_>>()?,
            middle: [Layer::new(config, first, &middle)?, Layer::new(config, second, &middle)?],
        })
    }

    /// x: `[B, H, W, C]`.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Encoded> {
        let mut h = self.conv_in.forward(x)?;
        let mut skips = vec![h.clone()];
        for layer in &self.layers {
            h = layer.forward(&h, pass)?;
            skips.push(h.clone());
        }
        for layer in &self.middle {
            h = layer.forward(&h, pass)?;
        }
        Ok(Encoded { h, skips })
    }
}

/// Decoder steps and the output.
#[derive(Debug)]
pub(super) struct Decoder {
    layers: Vec<Layer>,
    head: Head,
}

impl Decoder {
    pub(super) fn new(config: &UNetConfig, plan: &Plan, stage: usize, scope: &Scope) -> Result<Self> {
        let layers = plan.decoders[stage].iter().map(|step| Layer::new(config, step, scope)).collect::<Result<_>>()?;
        Ok(Self { layers, head: Head::new(config, scope, plan.c_out[stage])? })
    }

    /// `[B, H, W, C_out]`.
    pub(super) fn forward(&self, encoded: &Encoded, pass: &Pass) -> Result<Tensor> {
        let mut h = encoded.h.clone();
        let mut skips = encoded.skips.iter().rev();
        for layer in &self.layers {
            if layer.takes_skip()
                && let Some(skip) = skips.next()
            {
                h = ops::concat_channels(&h, skip)?;
            }
            h = layer.forward(&h, pass)?;
        }
        self.head.forward(&h)
    }
}

/// One step of a plan with its parameters.
#[derive(Debug)]
enum Layer {
    Block { residual: ResidualBlock, mixer: Option<Mixer> },
    Resample(Resampler),
}

impl Layer {
    fn new(config: &UNetConfig, step: &Step, scope: &Scope) -> Result<Self> {
        let scope = scope.pp(step.name());
        match *step {
            Step::Block { c_in, c_out, mixer, .. } => Ok(Self::Block {
                residual: ResidualBlock::new(config, &scope, c_in, c_out, None)?,
                mixer: mixer.map(|heads| Mixer::new(config, &scope, c_out, heads)).transpose()?,
            }),
            Step::Resample { channels, direction, .. } => {
                Ok(Self::Resample(Resampler::new(config, &scope, channels, direction)?))
            }
        }
    }

    fn takes_skip(&self) -> bool {
        matches!(self, Self::Block { .. })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self {
            Self::Block { residual, mixer: None } => residual.forward(x, pass),
            Self::Block { residual, mixer: Some(mixer) } => mixer.forward(&residual.forward(x, pass)?, pass),
            Self::Resample(resampler) => resampler.forward(x, pass),
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
    fn new(config: &UNetConfig, scope: &Scope, channels: usize, heads: Heads) -> Result<Self> {
        let count = heads
            .count(channels)
            .ok_or_else(|| Error::Config(format!("{}: {channels} channels and {heads:?} do not agree", scope.path())))?;
        match &config.transformer {
            None => Ok(Self::Attention(AttentionBlock::new(config, &scope.pp("attention"), channels, count)?)),
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
    Block(ResidualBlock),
}

impl Resampler {
    fn new(config: &UNetConfig, scope: &Scope, channels: usize, direction: Direction) -> Result<Self> {
        let conv = |stride| {
            let shape = Conv2dConfig { stride, padding: Padding::all(1) };
            Conv2d::with(&scope.pp("conv"), [channels, channels, 3], shape, Init::FanIn)
        };
        Ok(match (config.resample, direction) {
            (Resample::Convolution, Direction::Down) => Self::Down(Some(conv(2)?)),
            (Resample::Convolution, Direction::Up) => Self::Up(Some(conv(1)?)),
            (Resample::Mean, Direction::Down) => Self::Down(None),
            (Resample::Mean, Direction::Up) => Self::Up(None),
            (Resample::Block, _) => Self::Block(ResidualBlock::new(config, scope, channels, channels, Some(direction))?),
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
        let norm = |scope: Scope| GroupNorm::new(&scope, channels, config.groups, EPS);
        if let Some(size) = config.codebook {
            let scope = scope.pp("codebook");
            let map = Linear::pointwise(&scope.pp("out"), channels, size, 2, Init::FanIn)?;
            return Ok(Self::Codebook { norm: norm(scope.pp("norm"))?, map });
        }
        let shape = [channels, config.out_channels, 3];
        let conv = Conv2d::with(&scope.pp("conv_out"), shape, Conv2dConfig::same(3), last_init(config))?;
        Ok(Self::Image { norm: norm(scope.pp("norm_out"))?, conv })
    }

    fn forward(&self, h: &Tensor) -> Result<Tensor> {
        match self {
            Self::Image { norm, conv } => Ok(conv.forward(&norm.forward_silu(h)?)?),
            Self::Codebook { norm, map } => Ok(map.forward(&norm.forward(h)?)?),
        }
    }
}
