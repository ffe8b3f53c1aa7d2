//! The autoencoder with a codebook.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::Linear,
    params::{Init, Parameter, Scope},
};

use crate::{
    CoderConfig, Error, Result,
    coder::{Decoder, Encoder, channels_first, channels_last},
    kl::{apply, check_image, check_latent},
};

/// Configuration of a [`VqModel`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VqConfig {
    /// Entries of the codebook.
    pub codes: usize,
    /// Encoder and decoder; a code has `latent_channels` numbers.
    pub coder: CoderConfig,
}

impl VqConfig {
    /// Checks that the network can be built.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first setting that cannot be used.
    pub fn validate(&self) -> Result<()> {
        if self.codes == 0 {
            return Err(Error::config("model.codes", "1 or more", 0));
        }
        self.coder.validate()
    }
}

/// Vector-quantised autoencoder (van den Oord et al. 2017, as in Rombach et al. 2022). Latent diffusion works on the latent
/// before quantization, and quantizes before decoding.
#[derive(Clone, Debug)]
pub struct VqModel {
    config: VqConfig,
    encoder: Encoder,
    quant_conv: Option<Linear>,
    codebook: Parameter,
    post_quant_conv: Option<Linear>,
    decoder: Decoder,
}

/// What the codebook makes of a latent.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The nearest code at each position, `[B, h, w]` u32.
    pub indices: Tensor,
    /// The codes, `[B, D, h, w]`; the gradient goes straight through to the latent, none to the codebook.
    pub latent: Tensor,
    /// `mean((sg[e] - h)²)`, which moves the encoder towards the codes; a scalar.
    pub commitment: Tensor,
    /// `mean((e - sg[h])²)`, which moves the codes towards the latents; a scalar.
    pub codebook: Tensor,
}

impl Quantized {
    /// `commitment + beta · codebook`: the loss of the published models, whose beta (0.25) is on the codebook's term and not, as
    /// van den Oord et al. have it, on the commitment.
    pub fn published_loss(&self, beta: f64) -> Result<Tensor> {
        Ok((&self.commitment + (&self.codebook * beta)?)?)
    }
}

impl VqModel {
    /// Creates the parameters below `scope`.
    ///
    /// # Errors
    /// If the configuration cannot be built.
    pub fn new(config: &VqConfig, scope: &Scope) -> Result<Self> {
        config.validate()?;
        let coder = &config.coder;
        let (z, d) = (coder.bottleneck(), coder.latent_channels);
        let pointwise = |name, n_in, n_out| Linear::pointwise(&scope.pp(name), n_in, n_out, 2, Init::FanIn);
        let init = Init::Uniform { bound: 1.0 / config.codes as f64 };
        Ok(Self {
            encoder: Encoder::new(coder, z, &scope.pp("encoder"))?,
            quant_conv: coder.quant_conv.then(|| pointwise("quant_conv", z, d)).transpose()?,
            codebook: scope.pp("codebook").param("weight", (config.codes, d), init)?,
            post_quant_conv: coder.post_quant_conv.then(|| pointwise("post_quant_conv", d, z)).transpose()?,
            decoder: Decoder::new(coder, &scope.pp("decoder"))?,
            config: config.clone(),
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &VqConfig {
        &self.config
    }

    /// As [`AutoencoderKl::checkpoint_activations`](crate::AutoencoderKl::checkpoint_activations).
    pub fn checkpoint_activations(&mut self, on: bool) {
        self.encoder.checkpoint_activations(on);
        self.decoder.checkpoint_activations(on);
    }

    /// The latent before quantization. x: `[B, C, H, W]` in [-1, 1]; answers `[B, D, h, w]`.
    ///
    /// # Errors
    /// If a side is not divisible by the factor or the channels are not the network's.
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        check_image(x, self.config.coder.in_channels, self.config.coder.factor())?;
        let h = self.encoder.forward(&channels_last(x)?)?;
        Ok(channels_first(&apply(self.quant_conv.as_ref(), &h)?)?)
    }

    /// The nearest codes, by Euclidean distance. h: `[B, D, h, w]`.
    pub fn quantize(&self, h: &Tensor) -> Result<Quantized> {
        check_latent(h, self.config.coder.latent_channels)?;
        let last = channels_last(h)?;
        let (b, height, width, d) = last.dims4()?;
        let indices = nearest(&last.detach().reshape(((), d))?, &self.codebook.var().as_detached_tensor())?;
        let codes = self.codebook.get().index_select(&indices, 0)?.reshape(last.shape())?;
        let straight = (&last + (codes.detach() - last.detach())?)?;
        let mean_square = |a: &Tensor, b: &Tensor| -> Result<Tensor> { Ok((a - b)?.sqr()?.mean_all()?) };
        Ok(Quantized {
            indices: indices.reshape((b, height, width))?,
            latent: channels_first(&straight)?,
            commitment: mean_square(&codes.detach(), &last)?,
            codebook: mean_square(&codes, &last.detach())?,
        })
    }

    /// Quantizes, then decodes. h: `[B, D, h, w]`; answers `[B, C, H, W]`.
    pub fn decode(&self, h: &Tensor) -> Result<Tensor> {
        self.decode_unquantized(&self.quantize(h)?.latent)
    }

    /// Decodes a latent as it is, for latents that are codes already.
    pub fn decode_unquantized(&self, z: &Tensor) -> Result<Tensor> {
        self.finish(&self.features(z)?)
    }

    /// [`Self::encode`] of one image by tiles.
    pub(crate) fn encode_tiled(&self, x: &Tensor, side: usize) -> Result<Tensor> {
        check_image(x, self.config.coder.in_channels, self.config.coder.factor())?;
        let h = self.encoder.forward_tiled(&channels_last(x)?, side)?;
        Ok(channels_first(&apply(self.quant_conv.as_ref(), &h)?)?)
    }

    /// [`Self::decode`] of one latent by tiles.
    pub(crate) fn decode_tiled(&self, h: &Tensor, side: usize) -> Result<Tensor> {
        let z = channels_last(&self.quantize(h)?.latent)?;
        let h = apply(self.post_quant_conv.as_ref(), &z)?;
        Ok(channels_first(&self.decoder.forward_tiled(&h, side)?)?)
    }

    /// The decoder up to its last convolution, channels last; z is quantized already.
    pub(crate) fn features(&self, z: &Tensor) -> Result<Tensor> {
        check_latent(z, self.config.coder.latent_channels)?;
        Ok(self.decoder.features(&apply(self.post_quant_conv.as_ref(), &channels_last(z)?)?)?)
    }

    /// The last convolution and what follows.
    pub(crate) fn finish(&self, h: &Tensor) -> Result<Tensor> {
        Ok(channels_first(&self.decoder.finish(h)?)?)
    }

    /// The codes of given indices. indices: `[B, h, w]` u32; answers `[B, D, h, w]`.
    ///
    /// # Errors
    /// If an index is outside the codebook.
    pub fn lookup(&self, indices: &Tensor) -> Result<Tensor> {
        let (b, h, w) = indices.dims3()?;
        let codes = self.codebook.get().index_select(&indices.flatten_all()?, 0)?;
        Ok(channels_first(&codes.reshape((b, h, w, ()))?)?)
    }

    /// The codes, `[K, D]`.
    pub fn codebook(&self) -> &Parameter {
        &self.codebook
    }

    /// The weight of the convolution that ends the decoder, for the adaptive weight of an adversarial loss.
    pub fn last_layer(&self) -> &Parameter {
        self.decoder.last_layer().weight()
    }
}

/// Distances that are held at a time: 64 MiB of them.
const DISTANCES: usize = 1 << 24;

/// Row of `codes` `[K, D]` nearest to each row of `h` `[N, D]`: `[N]` u32.
fn nearest(h: &Tensor, codes: &Tensor) -> Result<Tensor> {
    let (h, codes) = (h.to_dtype(DType::F32)?, codes.to_dtype(DType::F32)?);
    let norms = codes.sqr()?.sum(1)?.unsqueeze(0)?;
    let (n, transposed) = (h.dim(0)?, codes.t()?);
    let rows = (DISTANCES / codes.dim(0)?).max(1);
    let part = |first: usize| -> Result<Tensor> {
        let products = h.narrow(0, first, rows.min(n - first))?.matmul(&transposed)?;
        Ok((products * -2.0)?.broadcast_add(&norms)?.argmin(1)?)
    };
    let parts = (0..n).step_by(rows).map(part).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&parts, 0)?)
}
