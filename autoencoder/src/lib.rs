//! Autoencoders between pixels and latents, and their training.
//!
//! The literature calls this the first stage of latent diffusion; here a stage is an interval of noise levels, so this is the
//! autoencoder and nothing else.
//!
//! - [`AutoencoderKl`], [`VqModel`], [`AutoencoderTiny`]: the networks. One implementation each, whose configuration
//!   expresses the published variants. [`Autoencoder`] is any of them.
//! - [`Posterior`]: the Gaussian that a KL encoder answers.
//! - [`train`]: from pictures to a run directory; [`AutoencoderTraining`] holds its settings and presets.
//! - [`load`], [`save`], [`export_diffusers`]: trained autoencoders on disk.
//! - [`encode`], [`decode_latents`], [`reconstruct`]: what one is for; [`pictures`]: tensors to pictures and back.
//! - [`adversarial`]: the patch discriminator and its losses. [`perceptual`]: LPIPS, and a fallback without weights.
//! - [`layouts`]: configuration files and weight names of published models, both ways.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use strata_autoencoder::{AutoencoderKl, KlConfig, Posterior};
//! use strata_nn::params::ParamStore;
//!
//! let config = KlConfig { channels: vec![8, 16, 16], norm_groups: 8, ..KlConfig::default() };
//! let store = ParamStore::new(0, &Device::Cpu);
//! let autoencoder = AutoencoderKl::new(&config, &store.root())?;
//! let x = Tensor::zeros((1, 3, 16, 32), DType::F32, &Device::Cpu)?;
//! let posterior = Posterior::new(&autoencoder.encode_moments(&x)?)?;
//! assert_eq!(posterior.mode().dims(), [1, 4, 4, 8]);
//! assert_eq!(autoencoder.decode(posterior.mode())?.dims(), [1, 3, 16, 32]);
//! # Ok::<(), strata_autoencoder::Error>(())
//! ```

pub mod adversarial;
mod adversary;
mod batch_norm;
mod blocks;
mod codebook;
mod coder;
mod config;
mod encode;
mod error;
mod kl;
pub mod layouts;
mod meter;
mod model;
mod objective;
pub mod perceptual;
pub mod pictures;
mod posterior;
mod reconstruct;
mod settings;
mod ssim;
mod store;
mod tiled;
mod tiny;
mod train;
mod trainer;
mod vq;

pub use config::{CoderConfig, KlConfig, Resampling};
pub use encode::{EncodeOptions, EncodeReport, Encoded, encode};
pub use error::{Error, Result};
pub use kl::AutoencoderKl;
pub use model::{Autoencoder, AutoencoderConfig, Kind};
pub use posterior::Posterior;
pub use reconstruct::{CodebookUse, LatentStatistics, ReconstructOptions, Reconstruction, Watch, decode_latents, reconstruct};
pub use settings::{AdversarialTraining, AutoencoderTraining, CodebookTraining, Decay, PerceptualTraining, PixelLoss};
pub use store::{LoadedAutoencoder, config_file, describe, export_diffusers, load, save, weight_file};
pub use tiled::MIN_TILE;
pub use tiny::{AutoencoderTiny, TinyConfig};
pub use train::{TrainSummary, train};
pub use vq::{Quantized, VqConfig, VqModel};
