//! The tiny autoencoder: convolutions and ReLU only, for previews and small machines.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::Conv2d,
    ops::{self, Conv2dConfig, Padding},
    params::{Init, Parameter, Scope},
    precision,
    recompute::checkpoint,
};

use crate::{
    Error, Result,
    coder::{channels_first, channels_last},
    kl::{check_image, check_latent},
    tiled::{self, Op, Segment},
};

/// Configuration of an [`AutoencoderTiny`]. Level 0 works at the full resolution, each further one at half of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TinyConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of a reconstruction.
    pub out_channels: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels in the encoder.
    pub encoder_channels: usize,
    /// Channels in the decoder.
    pub decoder_channels: usize,
    /// Blocks in each level of the encoder, full resolution first.
    pub encoder_blocks: Vec<usize>,
    /// Blocks in each level of the decoder, full resolution first.
    pub decoder_blocks: Vec<usize>,
    /// Latents of this size fill [0, 1] when stored as pictures.
    pub latent_magnitude: f64,
    /// Where the latent 0 comes to lie in [0, 1].
    pub latent_shift: f64,
}

impl Default for TinyConfig {
    /// The published TAESD.
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            encoder_channels: 64,
            decoder_channels: 64,
            encoder_blocks: vec![1, 3, 3, 3],
            decoder_blocks: vec![1, 3, 3, 3],
            latent_magnitude: 3.0,
            latent_shift: 0.5,
        }
    }
}

impl TinyConfig {
    /// Pixels per latent position along one side.
    pub fn factor(&self) -> usize {
        1 << self.encoder_blocks.len().saturating_sub(1)
    }

    /// Checks that the network can be built.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first setting that cannot be used.
    pub fn validate(&self) -> Result<()> {
        let levels = self.encoder_blocks.len();
        if levels == 0 || levels > 8 || self.decoder_blocks.len() != levels {
            let expected = "1 to 8 levels, as many as in encoder_blocks";
            return Err(Error::config("model.decoder_blocks", expected, self.decoder_blocks.len()));
        }
        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("encoder_channels", self.encoder_channels),
            ("decoder_channels", self.decoder_channels),
        ];
        match counts.iter().find(|(_, n)| *n == 0) {
            Some((key, n)) => Err(Error::config(format!("model.{key}"), "1 or more", n)),
            None => Ok(()),
        }
    }
}

/// Distilled autoencoder without norms and attention (TAESD, O. Bøer Bohan 2023).
#[derive(Clone, Debug)]
pub struct AutoencoderTiny {
    config: TinyConfig,
    encoder: Stack,
    decoder: Stack,
    conv_out: Conv2d,
}

#[derive(Clone, Debug)]
enum Step {
    Conv(Conv2d),
    /// Of stride 2.
    Half(Conv2d),
    ConvRelu(Conv2d),
    Block([Conv2d; 3]),
    Double,
}

#[derive(Clone, Debug)]
struct Stack {
    steps: Vec<Step>,
    recompute: bool,
}

impl AutoencoderTiny {
    /// Creates the parameters below `scope`.
    ///
    /// # Errors
    /// If the configuration cannot be built.
    pub fn new(config: &TinyConfig, scope: &Scope) -> Result<Self> {
        config.validate()?;
        let encoder = encoder(config, &scope.pp("encoder"))?;
        let decoder = decoder(config, &scope.pp("decoder"))?;
        let conv_out = Conv2d::new(&scope.pp("decoder").pp("conv_out"), config.decoder_channels, config.out_channels, 3)?;
        Ok(Self { config: config.clone(), encoder, decoder, conv_out })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &TinyConfig {
        &self.config
    }

    /// As [`AutoencoderKl::checkpoint_activations`](crate::AutoencoderKl::checkpoint_activations).
    pub fn checkpoint_activations(&mut self, on: bool) {
        (self.encoder.recompute, self.decoder.recompute) = (on, on);
    }

    /// x: `[B, C, H, W]` in [-1, 1] -> latents `[B, Z, h, w]`.
    ///
    /// # Errors
    /// If a side is not divisible by the factor or the channels are not the network's.
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        check_image(x, self.config.in_channels, self.config.factor())?;
        Ok(channels_first(&self.encoder.forward(&channels_last(&x.affine(0.5, 0.5)?)?)?)?)
    }

    /// z: `[B, Z, h, w]` -> images `[B, C, H, W]`, nominally in [-1, 1]. Latents beyond 3 are squashed.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        self.finish(&self.features(z)?)
    }

    /// [`Self::encode`] of one image by tiles.
    pub(crate) fn encode_tiled(&self, x: &Tensor, side: usize) -> Result<Tensor> {
        check_image(x, self.config.in_channels, self.config.factor())?;
        let h = tiled::run(&self.encoder.segments(), channels_last(&x.affine(0.5, 0.5)?)?, side)?;
        Ok(channels_first(&h)?)
    }

    /// [`Self::decode`] of one latent by tiles.
    pub(crate) fn decode_tiled(&self, z: &Tensor, side: usize) -> Result<Tensor> {
        check_latent(z, self.config.latent_channels)?;
        let mut segments = self.decoder.segments();
        if let Some(last) = segments.last_mut() {
            last.push(Op::Conv(&self.conv_out));
        }
        let z = ((z / 3.0)?.tanh()? * 3.0)?;
        Ok(channels_first(&tiled::run(&segments, channels_last(&z)?, side)?)?.affine(2.0, -1.0)?)
    }

    /// The decoder up to its last convolution, channels last.
    pub(crate) fn features(&self, z: &Tensor) -> Result<Tensor> {
        check_latent(z, self.config.latent_channels)?;
        let z = ((z / 3.0)?.tanh()? * 3.0)?;
        Ok(self.decoder.forward(&channels_last(&z)?)?)
    }

    /// The last convolution and what follows.
    pub(crate) fn finish(&self, h: &Tensor) -> Result<Tensor> {
        Ok(channels_first(&self.conv_out.forward(h)?)?.affine(2.0, -1.0)?)
    }

    /// The weight of the convolution that ends the decoder, for the adaptive weight of an adversarial loss.
    pub fn last_layer(&self) -> &Parameter {
        self.conv_out.weight()
    }

    /// Latents to [0, 1], for storing them as pictures: `clamp(z / 2m + s, 0, 1)`.
    pub fn scale_latents(&self, z: &Tensor) -> Result<Tensor> {
        Ok(z.affine(1.0 / (2.0 * self.config.latent_magnitude), self.config.latent_shift)?.clamp(0.0, 1.0)?)
    }

    /// The inverse of [`Self::scale_latents`] where nothing was clamped.
    pub fn unscale_latents(&self, x: &Tensor) -> Result<Tensor> {
        Ok(((x - self.config.latent_shift)? * (2.0 * self.config.latent_magnitude))?)
    }
}

fn encoder(config: &TinyConfig, scope: &Scope) -> Result<Stack> {
    let c = config.encoder_channels;
    let mut steps = vec![Step::Conv(Conv2d::new(&scope.pp("conv_in"), config.in_channels, c, 3)?)];
    for (i, &n) in config.encoder_blocks.iter().enumerate() {
        let scope = scope.pp("levels").pp(i);
        if i > 0 {
            let half = Conv2dConfig { stride: 2, padding: Padding::all(1) };
            steps.push(Step::Half(Conv2d::without_bias(&scope.pp("downsample"), [c, c, 3], half, Init::FanIn)?));
        }
        for j in 0..n {
            steps.push(block(&scope.pp("blocks").pp(j), c)?);
        }
    }
    steps.push(Step::Conv(Conv2d::new(&scope.pp("conv_out"), c, config.latent_channels, 3)?));
    Ok(Stack { steps, recompute: false })
}

/// All but the last convolution.
fn decoder(config: &TinyConfig, scope: &Scope) -> Result<Stack> {
    let c = config.decoder_channels;
    let mut steps = vec![Step::ConvRelu(Conv2d::new(&scope.pp("conv_in"), config.latent_channels, c, 3)?)];
    for (i, &n) in config.decoder_blocks.iter().enumerate().rev() {
        let level = scope.pp("levels").pp(i);
        for j in 0..n {
            steps.push(block(&level.pp("blocks").pp(j), c)?);
        }
        if i > 0 {
            let conv = Conv2d::without_bias(&level.pp("upsample"), [c, c, 3], Conv2dConfig::same(3), Init::FanIn)?;
            steps.extend([Step::Double, Step::Conv(conv)]);
        }
    }
    Ok(Stack { steps, recompute: false })
}

fn block(scope: &Scope, c: usize) -> Result<Step> {
    let conv = |name: &str| Conv2d::new(&scope.pp(name), c, c, 3);
    Ok(Step::Block([conv("conv1")?, conv("conv2")?, conv("conv3")?]))
}

fn residual([a, b, c]: &[Conv2d; 3], x: &Tensor) -> strata_nn::Result<Tensor> {
    let inner = c.forward(&ops::relu(&b.forward(&ops::relu(&a.forward(x)?)?)?)?)?;
    ops::relu(&(inner + x)?)
}

impl Stack {
    /// The same, operation by operation, cut where the resolution changes.
    fn segments(&self) -> Vec<Segment<'_>> {
        let mut segments = vec![Segment::new()];
        for step in &self.steps {
            if matches!(step, Step::Double) {
                segments.push(Segment::new());
            }
            let ops = match step {
                Step::Conv(conv) => vec![Op::Conv(conv)],
                Step::Half(conv) => vec![Op::Half(conv)],
                Step::ConvRelu(conv) => vec![Op::Conv(conv), Op::Relu],
                Step::Block([a, b, c]) => {
                    vec![Op::Keep, Op::Conv(a), Op::Relu, Op::Conv(b), Op::Relu, Op::Conv(c), Op::Add(None), Op::Relu]
                }
                Step::Double => vec![Op::Double],
            };
            if let Some(segment) = segments.last_mut() {
                segment.extend(ops);
            }
            if matches!(step, Step::Half(_)) {
                segments.push(Segment::new());
            }
        }
        segments
    }

    fn forward(&self, x: &Tensor) -> strata_nn::Result<Tensor> {
        let mut h = precision::enter(x)?;
        for step in &self.steps {
            h = match step {
                Step::Conv(conv) | Step::Half(conv) => conv.forward(&h)?,
                Step::ConvRelu(conv) => ops::relu(&conv.forward(&h)?)?,
                Step::Block(convs) => {
                    let convs = convs.clone();
                    checkpoint(self.recompute, &[&h], move |h| residual(&convs, &h[0]))?
                }
                Step::Double => ops::upsample_nearest2x(&h)?,
            };
        }
        precision::leave(&h)
    }
}
