//! The autoencoder with a Gaussian latent.

use candle_core::Tensor;
use strata_nn::{
    layers::Linear,
    params::{Init, Parameter, Scope},
};

use crate::{
    Error, KlConfig, Result,
    coder::{Decoder, Encoder, channels_first, channels_last},
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
        check_image(x, &self.config)?;
        let h = self.encoder.forward(&channels_last(x)?)?;
        Ok(channels_first(&apply(self.quant_conv.as_ref(), &h)?)?)
    }

    /// Latents to images. z: `[B, Z, h, w]`, unscaled; answers `[B, C, H, W]`, nominally in [-1, 1] but not clamped.
    ///
    /// # Errors
    /// If the channels are not the network's.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        check_latent(z, &self.config)?;
        let h = apply(self.post_quant_conv.as_ref(), &channels_last(z)?)?;
        Ok(channels_first(&self.decoder.forward(&h)?)?)
    }

    /// The weight of the convolution that ends the decoder, for the adaptive weight of an adversarial loss.
    pub fn last_layer(&self) -> &Parameter {
        self.decoder.last_layer().weight()
    }
}

pub(crate) fn apply(layer: Option<&Linear>, x: &Tensor) -> Result<Tensor> {
    layer.map_or(Ok(x.clone()), |layer| Ok(layer.forward(x)?))
}

pub(crate) fn check_image(x: &Tensor, config: &crate::CoderConfig) -> Result<()> {
    let f = config.factor();
    match *x.dims() {
        [_, c, h, w] if c == config.in_channels && h > 0 && w > 0 && h.is_multiple_of(f) && w.is_multiple_of(f) => Ok(()),
        _ => {
            let expected = format!("[B, {}, H, W] with sides divisible by {f} (crop or pad the image)", config.in_channels);
            Err(Error::input("image", expected, x.dims()))
        }
    }
}

pub(crate) fn check_latent(z: &Tensor, config: &crate::CoderConfig) -> Result<()> {
    match *z.dims() {
        [_, c, _, _] if c == config.latent_channels => Ok(()),
        _ => Err(Error::input("latent", format!("[B, {}, h, w]", config.latent_channels), z.dims())),
    }
}
