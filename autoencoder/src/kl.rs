//! The autoencoder with a Gaussian latent.

use candle_core::Tensor;
use strata_nn::{
    layers::Linear,
    params::{Init, Parameter, Scope},
};

use crate::{
    Error, KlConfig, Result,
    coder::{Decoder, Encoder, channels_first, channels_last},
    model::check_finite,
};

/// KL-regularised autoencoder (Rombach et al. 2022). Images: `[B, C, H, W]` float32 in [-1, 1]; latents: `[B, Z, h, w]` with
/// h = H / [`factor`](Self::factor).
#[derive(Clone, Debug)]
pub struct AutoencoderKl {
    config: KlConfig,
    encoder: Encoder,
    quant_conv: Option<Linear>,
    post_quant_conv: Option<Linear>,
    decoder: Decoder,
}

impl AutoencoderKl {
    /// Creates the parameters below `scope`.
    ///
    /// # Errors
    /// If the configuration cannot be built.
    pub fn new(config: &KlConfig, scope: &Scope) -> Result<Self> {
        config.validate()?;
        let (z, e) = (config.bottleneck(), config.latent_channels);
        let pointwise = |name, n_in, n_out| Linear::pointwise(&scope.pp(name), n_in, n_out, 2, Init::FanIn);
        Ok(Self {
            encoder: Encoder::new(config, 2 * z, &scope.pp("encoder"))?,
            quant_conv: config.quant_conv.then(|| pointwise("quant_conv", 2 * z, 2 * e)).transpose()?,
            post_quant_conv: config.post_quant_conv.then(|| pointwise("post_quant_conv", e, z)).transpose()?,
            decoder: Decoder::new(config, &scope.pp("decoder"))?,
            config: config.clone(),
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &KlConfig {
        &self.config
    }

    /// Whether the blocks' activations are computed anew in the backward pass instead of being kept; every gradient stays the
    /// same bits.
    pub fn checkpoint_activations(&mut self, on: bool) {
        self.encoder.checkpoint_activations(on);
        self.decoder.checkpoint_activations(on);
    }

    /// Pixels per latent position along one side.
    pub fn factor(&self) -> usize {
        self.config.factor()
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        self.config.latent_channels
    }

    /// Mean and log-variance, for [`crate::Posterior::new`]. x: `[B, C, H, W]` in [-1, 1]; answers `[B, 2Z, h, w]`.
    ///
    /// # Errors
    /// If a side is not divisible by the factor or the channels are not the network's.
    pub fn encode_moments(&self, x: &Tensor) -> Result<Tensor> {
        check_image(x, self.config.in_channels, self.factor())?;
        let h = self.encoder.forward(&channels_last(x)?)?;
        Ok(channels_first(&apply(self.quant_conv.as_ref(), &h)?)?)
    }

    /// Latents to images. z: `[B, Z, h, w]`, unscaled; answers `[B, C, H, W]`, nominally in [-1, 1] but not clamped.
    ///
    /// # Errors
    /// If the channels are not the network's.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        self.finish(&self.features(z)?)
    }

    /// [`Self::encode_moments`] of one image by tiles.
    pub(crate) fn encode_moments_tiled(&self, x: &Tensor, side: usize) -> Result<Tensor> {
        check_image(x, self.config.in_channels, self.factor())?;
        let h = self.encoder.forward_tiled(&channels_last(x)?, side)?;
        Ok(channels_first(&apply(self.quant_conv.as_ref(), &h)?)?)
    }

    /// [`Self::decode`] of one latent by tiles.
    pub(crate) fn decode_tiled(&self, z: &Tensor, side: usize) -> Result<Tensor> {
        check_latent(z, self.config.latent_channels)?;
        let h = apply(self.post_quant_conv.as_ref(), &channels_last(z)?)?;
        Ok(channels_first(&self.decoder.forward_tiled(&h, side)?)?)
    }

    /// The decoder up to its last convolution, channels last.
    pub(crate) fn features(&self, z: &Tensor) -> Result<Tensor> {
        check_latent(z, self.config.latent_channels)?;
        Ok(self.decoder.features(&apply(self.post_quant_conv.as_ref(), &channels_last(z)?)?)?)
    }

    /// The last convolution and what follows.
    pub(crate) fn finish(&self, h: &Tensor) -> Result<Tensor> {
        Ok(channels_first(&self.decoder.finish(h)?)?)
    }

    /// The weight of the convolution that ends the decoder, for the adaptive weight of an adversarial loss.
    pub fn last_layer(&self) -> &Parameter {
        self.decoder.last_layer().weight()
    }
}

pub(crate) fn apply(layer: Option<&Linear>, x: &Tensor) -> Result<Tensor> {
    layer.map_or(Ok(x.clone()), |layer| Ok(layer.forward(x)?))
}

/// Errors unless `x` is a batch of images with `channels`, sides divisible by `factor`, and finite.
pub(crate) fn check_image(x: &Tensor, channels: usize, factor: usize) -> Result<()> {
    let &[_, c, h, w] = x.dims() else { return Err(Error::input("image", format!("[B, {channels}, H, W]"), x.dims())) };
    let sides = [h, w].map(|side| Sides::around(side, factor));
    if c != channels {
        let expected = format!("{channels} channels, [B, {channels}, H, W]");
        return Err(Error::input("image", expected, x.dims()));
    }
    if sides.iter().all(Sides::fits) {
        return check_finite("image", x);
    }
    let [h, w] = sides;
    let ways = format!("crop the image to {}x{} or pad it to {}x{}", h.below, w.below, h.above, w.above);
    Err(Error::input("image", format!("sides divisible by {factor} ({ways})"), x.dims()))
}

/// The nearest sides that a network of some factor can work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sides {
    side: usize,
    /// At least the factor.
    below: usize,
    above: usize,
}

impl Sides {
    pub(crate) fn around(side: usize, factor: usize) -> Self {
        let above = side.next_multiple_of(factor).max(factor);
        Self { side, below: (side / factor * factor).max(factor), above }
    }

    pub(crate) fn fits(&self) -> bool {
        self.side == self.above
    }
}

impl std::fmt::Display for Sides {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.below == self.above { write!(f, "{}", self.above) } else { write!(f, "{} or {}", self.below, self.above) }
    }
}

/// Errors unless square images of `size` pixels can be worked on.
pub(crate) fn check_size(size: usize, factor: usize) -> Result<()> {
    let sides = Sides::around(size, factor);
    if sides.fits() {
        return Ok(());
    }
    let expected = format!("a multiple of the autoencoder's factor ({factor}), {sides}; pictures are cropped and resized to it");
    Err(Error::config("size", expected, size))
}

/// Errors unless `z` is a batch of latents with `channels`.
pub(crate) fn check_latent(z: &Tensor, channels: usize) -> Result<()> {
    match *z.dims() {
        [_, c, h, w] if c == channels && h * w > 0 => Ok(()),
        _ => Err(Error::input("latent", format!("[B, {channels}, h, w]"), z.dims())),
    }
}
