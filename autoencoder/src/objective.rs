//! What a reconstruction is trained for: pixels, looks, and a latent that can be learned on.

use std::path::Path;

use candle_core::{Device, Tensor};
use strata_nn::{
    ops,
    params::{Init, ParamStore, Parameter},
    random::Key,
};

use crate::{
    Autoencoder, AutoencoderTraining, PixelLoss, Posterior, Result,
    adversarial::scaled_residuals,
    coder::channels_last,
    perceptual::{Lpips, laplacian_distance},
};

/// The perceptual term of a run.
pub(crate) enum Looks {
    Network(Box<Lpips>),
    Laplacian,
}

impl Looks {
    /// As the settings ask; what takes its place is warned of. `None`: without.
    pub(crate) fn new(config: &AutoencoderTraining, device: &Device) -> Result<Option<Self>> {
        let perceptual = &config.perceptual;
        if perceptual.weight == 0.0 {
            return Ok(None);
        }
        if !perceptual.file.is_empty() && Path::new(&perceptual.file).is_file() {
            return Ok(Some(Self::Network(Box::new(Lpips::load(perceptual.net, Path::new(&perceptual.file), device)?))));
        }
        let reason = match perceptual.file.as_str() {
            "" => "`perceptual.file` names no weight file".to_string(),
            file => format!("{file} does not exist"),
        };
        tracing::warn!(
            "training without LPIPS, because {reason}: the distance of Laplacian pyramids takes its place, which sharpens edges \
             but knows nothing of textures"
        );
        Ok(Some(Self::Laplacian))
    }

    /// Per sample, `[B]`.
    fn distance(&self, x: &Tensor, y: &Tensor) -> Result<Tensor> {
        match self {
            Self::Network(lpips) => lpips.distance(x, y),
            Self::Laplacian => laplacian_distance(x, y),
        }
    }
}

/// The negative log-likelihood of pictures under their reconstructions, as a mean over pixels.
pub(crate) struct Likelihood {
    pixel_loss: PixelLoss,
    looks: Option<(Looks, f64)>,
    /// Learned with the network where the settings ask for it.
    pub(crate) logvar: Option<Parameter>,
}

/// Scalars.
pub(crate) struct Nll {
    pub(crate) total: Tensor,
    pub(crate) pixels: Tensor,
    pub(crate) looks: Option<Tensor>,
}

impl Likelihood {
    /// `store` gets the log-variance, where it is learned.
    pub(crate) fn new(config: &AutoencoderTraining, store: &ParamStore) -> Result<Self> {
        let looks = Looks::new(config, store.device())?.map(|looks| (looks, config.perceptual.weight));
        let logvar = || store.root().param("logvar", (), Init::ZEROS);
        Ok(Self { pixel_loss: config.pixel_loss, looks, logvar: config.learned_variance.then(logvar).transpose()? })
    }

    /// `r / eˢ + s` with r = the pixel loss + the weighted perceptual one, and s the learned log-variance or 0 (Rombach et al. 2022,
    /// whose sum over pixels is a mean here). x, y: `[B, 3, H, W]`.
    pub(crate) fn nll(&self, x: &Tensor, y: &Tensor) -> Result<Nll> {
        let pixels = match self.pixel_loss {
            PixelLoss::L1 => ops::l1_loss(y, x)?,
            PixelLoss::L2 => ops::mse_loss(y, x)?,
        };
        let pixels = pixels.mean_all()?;
        let looks = self.looks.as_ref().map(|(looks, _)| looks.distance(x, y)?.mean_all().map_err(crate::Error::from));
        let looks = looks.transpose()?;
        let mut total = match (&looks, &self.looks) {
            (Some(distance), Some((_, weight))) => (&pixels + (distance * *weight)?)?,
            _ => pixels.clone(),
        };
        if let Some(logvar) = &self.logvar {
            total = scaled_residuals(&total, logvar)?;
        }
        Ok(Nll { total, pixels, looks })
    }
}

/// What the encoder makes of a batch in training.
pub(crate) struct Coded {
    /// What is decoded: a sample of the posterior, the codes, or the latent itself.
    pub(crate) latent: Tensor,
    /// What the latent costs, a scalar on the scale of [`Nll::total`].
    pub(crate) penalty: Option<Tensor>,
    /// By name, for the log.
    pub(crate) terms: Vec<(&'static str, Tensor)>,
    /// Of a VQ model.
    pub(crate) codes: Option<Codes>,
}

/// Latents before quantization, `[N, D]`, and the code that each was given.
pub(crate) struct Codes {
    pub(crate) latents: Tensor,
    pub(crate) indices: Vec<u32>,
}

/// Encodes x `[B, 3, H, W]`. The posterior's noise depends on the position of each image alone; `first` is that of the first.
pub(crate) fn code(model: &Autoencoder, config: &AutoencoderTraining, x: &Tensor, first: u64) -> Result<Coded> {
    match model {
        Autoencoder::Kl(model) => {
            let posterior = Posterior::new(&model.encode_moments(x)?)?;
            let positions: Vec<u64> = (first..).take(x.dim(0)?).collect();
            let noise = Key::new(config.seed, "posterior");
            let noise = noise.normal_rows(&positions, &posterior.mode().dims()[1..], x.device())?;
            let kl = posterior.kl()?.mean_all()?;
            // The likelihood is a mean over pixels: the divergence, a sum over the latent, is divided by as many.
            let pixels = (x.elem_count() / x.dim(0)?) as f64;
            let penalty = Some((&kl * (config.kl_weight / pixels))?);
            Ok(Coded { latent: posterior.sample(&noise)?, penalty, terms: vec![("kl", kl)], codes: None })
        }
        Autoencoder::Vq(model) => {
            let h = model.encode(x)?;
            let quantized = model.quantize(&h)?;
            let (a, b) = (config.codebook.commitment_weight, config.codebook.codebook_weight);
            let penalty = Some(((&quantized.commitment * a)? + (&quantized.codebook * b)?)?);
            let last = channels_last(&h.detach())?;
            let latents = last.reshape(((), last.dim(3)?))?;
            let codes = Some(Codes { latents, indices: quantized.indices.flatten_all()?.to_vec1()? });
            Ok(Coded { latent: quantized.latent, penalty, terms: vec![("commitment", quantized.commitment)], codes })
        }
        Autoencoder::Tiny(model) => Ok(Coded { latent: model.encode(x)?, penalty: None, terms: Vec::new(), codes: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AutoencoderKl, KlConfig};

    #[test]
    fn the_divergence_counts_per_pixel_and_noise_is_that_of_the_position() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let config = KlConfig { channels: vec![8, 16], norm_groups: 4, ..KlConfig::default() };
        let model = Autoencoder::Kl(AutoencoderKl::new(&config, &store.root())?);
        let config = AutoencoderTraining { kl_weight: 0.5, ..AutoencoderTraining::default() };
        let x = Key::new(1, "x").normal_tensor(&[2, 3, 8, 8], &Device::Cpu)?;
        let both = code(&model, &config, &x, 6)?;
        let number = |t: &Tensor| -> Result<f32> { Ok(t.to_scalar::<f32>()?) };
        let penalty = both.penalty.as_ref().map(number).transpose()?.unwrap_or(f32::NAN);
        assert!((penalty - 0.5 * number(&both.terms[0].1)? / (3.0 * 64.0)).abs() < 1e-6 * penalty);
        let second = code(&model, &config, &x.narrow(0, 1, 1)?.contiguous()?, 7)?.latent;
        let difference = (both.latent.narrow(0, 1, 1)? - second)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(difference < 1e-5, "{difference}");
        Ok(())
    }
}
