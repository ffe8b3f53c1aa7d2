//! An autoencoder of any kind.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use strata_nn::params::{Parameter, Scope};

use crate::{AutoencoderKl, AutoencoderTiny, Error, KlConfig, Posterior, Result, TinyConfig, VqConfig, VqModel};

/// The kinds of autoencoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A Gaussian latent.
    #[default]
    Kl,
    /// A codebook.
    Vq,
    /// Convolutions and ReLU only.
    Tiny,
}

impl Kind {
    /// What weight files call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kl => "autoencoder-kl",
            Self::Vq => "autoencoder-vq",
            Self::Tiny => "autoencoder-tiny",
        }
    }

    /// The kind of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Kl, Self::Vq, Self::Tiny].into_iter().find(|kind| kind.name() == name)
    }
}

/// The configuration of an [`Autoencoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AutoencoderConfig {
    /// With a Gaussian latent.
    Kl(KlConfig),
    /// With a codebook.
    Vq(VqConfig),
    /// The tiny one.
    Tiny(TinyConfig),
}

impl AutoencoderConfig {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Kl(_) => Kind::Kl,
            Self::Vq(_) => Kind::Vq,
            Self::Tiny(_) => Kind::Tiny,
        }
    }

    /// Pixels per latent position along one side.
    pub fn factor(&self) -> usize {
        match self {
            Self::Kl(config) => config.factor(),
            Self::Vq(config) => config.coder.factor(),
            Self::Tiny(config) => config.factor(),
        }
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels,
            Self::Vq(config) => config.coder.latent_channels,
            Self::Tiny(config) => config.latent_channels,
        }
    }

    /// Channels of an image and of a reconstruction.
    pub fn image_channels(&self) -> (usize, usize) {
        match self {
            Self::Kl(coder) | Self::Vq(VqConfig { coder, .. }) => (coder.in_channels, coder.out_channels),
            Self::Tiny(config) => (config.in_channels, config.out_channels),
        }
    }

    /// Checks that the network can be built.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first setting that cannot be used.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::Kl(config) => config.validate(),
            Self::Vq(config) => config.validate(),
            Self::Tiny(config) => config.validate(),
        }
    }

    pub(crate) fn from_json(kind: Kind, json: serde_json::Value) -> serde_json::Result<Self> {
        Ok(match kind {
            Kind::Kl => Self::Kl(serde_json::from_value(json)?),
            Kind::Vq => Self::Vq(serde_json::from_value(json)?),
            Kind::Tiny => Self::Tiny(serde_json::from_value(json)?),
        })
    }
}

/// An autoencoder of any kind behind one interface. Images: `[B, C, H, W]` float32 in [-1, 1]; latents: `[B, Z, h, w]` with
/// h = H / [`factor`](AutoencoderConfig::factor).
#[derive(Clone, Debug)]
pub enum Autoencoder {
    /// With a Gaussian latent.
    Kl(AutoencoderKl),
    /// With a codebook; its latents are those before quantization.
    Vq(VqModel),
    /// The tiny one.
    Tiny(AutoencoderTiny),
}

impl Autoencoder {
    /// Creates the parameters below `scope`.
    ///
    /// # Errors
    /// If the configuration cannot be built.
    pub fn new(config: &AutoencoderConfig, scope: &Scope) -> Result<Self> {
        Ok(match config {
            AutoencoderConfig::Kl(config) => Self::Kl(AutoencoderKl::new(config, scope)?),
            AutoencoderConfig::Vq(config) => Self::Vq(VqModel::new(config, scope)?),
            AutoencoderConfig::Tiny(config) => Self::Tiny(AutoencoderTiny::new(config, scope)?),
        })
    }

    /// As [`AutoencoderKl::checkpoint_activations`].
    pub fn checkpoint_activations(&mut self, on: bool) {
        match self {
            Self::Kl(model) => model.checkpoint_activations(on),
            Self::Vq(model) => model.checkpoint_activations(on),
            Self::Tiny(model) => model.checkpoint_activations(on),
        }
    }

    /// What training may draw latents from, as shards hold it: mean and log-variance `[B, 2Z, h, w]` of a KL model, the latent
    /// itself of the others.
    ///
    /// # Errors
    /// If a side is not divisible by the factor, the channels are not the network's, or a number is not finite.
    pub fn encode_stored(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Kl(model) => model.encode_moments(x),
            Self::Vq(model) => model.encode(x),
            Self::Tiny(model) => model.encode(x),
        }
    }

    /// The latent of an image: the mode of a KL model's posterior, what a VQ model quantizes.
    ///
    /// # Errors
    /// As [`Self::encode_stored`].
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        self.latent_of(self.encode_stored(x)?)
    }

    /// The latent in what [`Self::encode_stored`] answers.
    pub(crate) fn latent_of(&self, stored: Tensor) -> Result<Tensor> {
        match self {
            Self::Kl(_) => Ok(Posterior::new(&stored)?.mode().clone()),
            _ => Ok(stored),
        }
    }

    /// Latents to images, nominally in [-1, 1] but not clamped. A VQ model quantizes first.
    ///
    /// # Errors
    /// If the channels are not the network's, or a number is not finite.
    pub fn decode(&self, z: &Tensor) -> Result<Tensor> {
        check_finite("latent", z)?;
        match self {
            Self::Kl(model) => model.decode(z),
            Self::Vq(model) => model.decode(z),
            Self::Tiny(model) => model.decode(z),
        }
    }

    /// The weight of the convolution that ends the decoder.
    pub(crate) fn last_layer(&self) -> &Parameter {
        match self {
            Self::Kl(model) => model.last_layer(),
            Self::Vq(model) => model.last_layer(),
            Self::Tiny(model) => model.last_layer(),
        }
    }

    /// The decoder up to that convolution, channels last. A VQ model takes latents that are quantized already.
    pub(crate) fn features(&self, z: &Tensor) -> Result<Tensor> {
        match self {
            Self::Kl(model) => model.features(z),
            Self::Vq(model) => model.features(z),
            Self::Tiny(model) => model.features(z),
        }
    }

    /// That convolution and what follows: images `[B, C, H, W]`.
    pub(crate) fn finish(&self, h: &Tensor) -> Result<Tensor> {
        match self {
            Self::Kl(model) => model.finish(h),
            Self::Vq(model) => model.finish(h),
            Self::Tiny(model) => model.finish(h),
        }
    }
}

/// Errors, with their number, if there are infinities or NaN in `x`.
pub(crate) fn check_finite(what: &'static str, x: &Tensor) -> Result<()> {
    let x = x.detach();
    // 0 for finite numbers, NaN for all others.
    let marks = (&x * 0.0)?;
    let sum = marks.sum_all()?.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?;
    if sum == 0.0 {
        return Ok(());
    }
    let broken = marks.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?;
    let count = broken.iter().filter(|v| v.is_nan()).count();
    let got = format!("{count} of {} that are not", x.elem_count());
    Err(Error::Input { what, expected: "finite numbers".into(), got })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;
    use strata_nn::params::ParamStore;

    fn configs() -> [AutoencoderConfig; 3] {
        let coder = KlConfig { channels: vec![8, 16], norm_groups: 4, ..KlConfig::default() };
        [
            AutoencoderConfig::Kl(coder.clone()),
            AutoencoderConfig::Vq(VqConfig { codes: 9, coder }),
            AutoencoderConfig::Tiny(TinyConfig {
                encoder_channels: 8,
                decoder_channels: 8,
                encoder_blocks: vec![1, 1],
                decoder_blocks: vec![1, 1],
                ..TinyConfig::default()
            }),
        ]
    }

    #[test]
    fn every_kind_goes_there_and_back() {
        for config in configs() {
            let model = Autoencoder::new(&config, &ParamStore::new(0, &Device::Cpu).root()).unwrap();
            let x = Tensor::zeros((2, 3, 4, 6), candle_core::DType::F32, &Device::Cpu).unwrap();
            let z = model.encode(&x).unwrap();
            assert_eq!(z.dims(), [2, 4, 2, 3]);
            assert_eq!(model.encode_stored(&x).unwrap().dims()[1], if config.kind() == Kind::Kl { 8 } else { 4 });
            assert_eq!(model.decode(&z).unwrap().dims(), [2, 3, 4, 6]);
            assert_eq!(Kind::of_name(config.kind().name()), Some(config.kind()));
            let json = serde_json::to_value(&config).unwrap();
            assert_eq!(AutoencoderConfig::from_json(config.kind(), json).unwrap(), config);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for config in configs() {
            let model = Autoencoder::new(&config, &ParamStore::new(0, &Device::Cpu).root()).unwrap();
            let image = |dims: &[usize], v: f32| Tensor::full(v, dims, &Device::Cpu).unwrap();
            let message = |x: &Tensor| model.encode(x).unwrap_err().to_string();
            let ways = "sides divisible by 2 (crop the image to 4x4 or pad it to 4x6), got [1, 3, 4, 5]";
            assert!(message(&image(&[1, 3, 4, 5], 0.0)).contains(ways));
            assert!(message(&image(&[1, 3, 4, 1], 0.0)).contains("crop the image to 4x2 or pad it to 4x2"));
            assert!(message(&image(&[1, 1, 4, 4], 0.0)).contains("expected 3 channels, [B, 3, H, W], got [1, 1, 4, 4]"));
            assert!(message(&image(&[1, 3, 4, 4], f32::NAN)).contains("image: expected finite numbers, got 48 of 48"));
            let message = |z: &Tensor| model.decode(z).unwrap_err().to_string();
            assert!(message(&image(&[1, 4, 2, 2], f32::INFINITY)).contains("latent: expected finite numbers, got 16 of 16"));
            assert!(message(&image(&[1, 5, 2, 2], 0.0)).contains("latent: expected [B, 4, h, w]"));
        }
    }
}
