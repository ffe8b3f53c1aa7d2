//! The U-Nets: one encoder shared by all noise levels, one decoder per stage.
//!
//! - [`UNetConfig`] says what is built; its [`Family`] whose rules hold: latent diffusion's, those of EDM's two networks, those of
//!   score-SDE or those of diffusers. One decoder is the original network, several are the multistage one (Zhang, Lu et al. 2024).
//! - [`UNet::forward`] routes each sample of a batch to the decoder of its stage.
//! - [`costs`] counts parameters, multiply-accumulates and activations without building anything.
//! - [`LdmUNetConfig`], [`EdmUNetConfig`], [`ScoreSdeConfig`], [`DiffusersUNet`] and [`KeyMap`] translate the published configurations and checkpoints.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use strata_conditioning::Condition;
//! use strata_diffusion::unet::{DecoderConfig, UNet, UNetConfig};
//! use strata_nn::params::ParamStore;
//!
//! let decoder = |width| DecoderConfig { width, attention: vec![1], heads: None };
//! let config = UNetConfig {
//!     in_channels: 4, out_channels: 4, width: 16, multipliers: vec![1, 2], blocks: 1, attention: vec![1], groups: 8,
//!     decoders: vec![decoder(32), decoder(16)], heads: strata_diffusion::unet::Heads::Count(2), ..UNetConfig::default()
//! };
//! let store = ParamStore::new(0, &Device::Cpu);
//! let unet = UNet::new(&config, &store.root())?;
//! let x = Tensor::zeros((2, 4, 8, 8), DType::F32, &Device::Cpu)?;
//! let eps = unet.forward(&x, &[10.0, 900.0], &[0, 1], &Condition::none(), None)?;
//! assert_eq!(eps.dims(), [2, 4, 8, 8]);
//! # Ok::<(), strata_diffusion::Error>(())
//! ```

mod attention;
mod coder;
mod config;
mod cost;
mod describe;
mod details;
mod embedding;
mod family;
mod key_map;
mod plan;
mod published;
mod pyramid;
mod resample;
mod residual;
mod routing;
mod tally;
#[cfg(test)]
mod tests;
mod transformer;
mod validate;

use candle_core::{Device, Tensor};
use strata_conditioning::Condition;
use strata_nn::{ops, params::Scope, precision, random::Key};

pub use config::{DecoderConfig, Heads, InputPyramid, Resample, TransformerConfig, UNetConfig, Waves};
pub use cost::{Cost, CostInput, Costs, costs};
pub use describe::{Description, Subject, describe};
pub use details::Details;
pub use family::Family;
pub use key_map::KeyMap;
pub use published::{
    DiffusersUNet, EdmPrecond, EdmUNetConfig, LdmUNetConfig, ScoreSdeConfig, diffusers_config_json, diffusers_keys, modern_name,
};

use crate::{Error, Result};
use coder::{Decoder, Encoder};
use embedding::NoiseEmbedding;
use plan::Plan;
use routing::Routing;

/// The network.
#[derive(Debug)]
pub struct UNet {
    config: UNetConfig,
    embedding: NoiseEmbedding,
    encoder: Encoder,
    decoders: Vec<Decoder>,
    device: Device,
    recompute: bool,
}

/// What every layer of a forward pass sees.
#[derive(Clone, Debug)]
struct Pass {
    /// SiLU of the embedding, `[B, embedding_width]`.
    embedding: Tensor,
    context: Option<Tensor>,
    train: Option<Key>,
    /// Whether blocks keep no activations but compute them anew in the backward pass.
    recompute: bool,
}

impl UNet {
    /// Builds the network below `scope`: `time_embedding`, `encoder`, `middle`, `decoders.<stage>`.
    ///
    /// # Errors
    /// If the configuration cannot be built (see [`UNetConfig::validate`]).
    pub fn new(config: &UNetConfig, scope: &Scope) -> Result<Self> {
        config.validate()?;
        let plan = Plan::new(config);
        let decoder = |stage: usize| Decoder::new(config, &plan, stage, &scope.pp("decoders").pp(stage));
        Ok(Self {
            embedding: NoiseEmbedding::new(config, scope)?,
            encoder: Encoder::new(config, &plan, scope)?,
            decoders: (0..config.decoders.len()).map(decoder).collect::<Result<_>>()?,
            device: scope.device().clone(),
            recompute: false,
            config: config.clone(),
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Whether the blocks' activations are computed anew in the backward pass instead of being kept; every gradient stays the
    /// same bits.
    pub fn checkpoint_activations(&mut self, on: bool) {
        self.recompute = on;
    }

    /// The vectors `[B, vector_width]` of classes, for `Condition::vector`, from the network's own table or map. `None` is no class:
    /// zeros instead of a one-hot label in the families `song` and `adm`.
    ///
    /// # Errors
    /// If the configuration has no `classes`, an id is not below their number, or a table is asked for no class.
    pub fn embed_classes(&self, ids: &[Option<u32>]) -> Result<Tensor> {
        self.embedding.embed_classes(&self.config, ids, &self.device)
    }

    /// The same from labels `[B, classes]`, one-hot or zeros, in the families `song` and `adm`.
    ///
    /// # Errors
    /// If the network has no map of labels, or their number is another.
    pub fn embed_labels(&self, labels: &Tensor) -> Result<Tensor> {
        self.embedding.embed_labels(&self.config, labels)
    }

    /// x: `[B, C, H, W]` (already scaled by c_in), `c_noise`: one per sample (a discrete step, also fractional, in latent
    /// diffusion), `stages`: each sample's decoder, counted from 0. `Condition::vector` is added to the embedding or its waves
    /// (`[B, vector_width]`, or `[B, condition_width]` and projected), `Condition::context` `[B, T, context_width]` is attended to,
    /// `Condition::concat` joins x, `Condition::augment` `[B, augment]` is embedded. `train` is the stream of dropout, `None` outside training. Answers `[B, C_out, H, W]`.
    ///
    /// # Errors
    /// If the shapes do not agree with each other or with the configuration.
    pub fn forward(&self, x: &Tensor, c_noise: &[f32], stages: &[usize], cond: &Condition, train: Option<Key>) -> Result<Tensor> {
        self.check_batch(x, c_noise, stages)?;
        cond.check_batch(x.dim(0)?)?;
        let routing = Routing::new(stages, self.decoders.len())?;
        let (x, c_noise, cond) = routing.sort(x, c_noise, cond)?;
        let x = self.input(&x, &cond)?;
        let embedding = ops::silu(&self.embedding.forward(&self.config, &c_noise, &cond, &self.device)?)?;
        let embedding = precision::enter(&embedding)?;
        let pass = Pass { embedding, context: self.context(x.dim(0)?, &cond)?, train, recompute: self.recompute };
        let encoded = self.encoder.forward(&x, &pass)?;
        let y = routing.run(&encoded, &pass, |stage, encoded, pass| self.decoders[stage].forward(encoded, pass))?;
        Ok(precision::leave(&y.permute((0, 3, 1, 2))?.contiguous()?)?)
    }

    fn check_batch(&self, x: &Tensor, c_noise: &[f32], stages: &[usize]) -> Result<()> {
        let &[b, _, h, w] = x.dims() else {
            return Err(Error::Config(format!("U-Net input: expected [B, C, H, W], got {:?}", x.dims())));
        };
        if b == 0 || c_noise.len() != b || stages.len() != b {
            let got = format!("{} noise levels and {} stages", c_noise.len(), stages.len());
            return Err(Error::Config(format!("a batch of {b} needs as many noise levels and stages, got {got}")));
        }
        self.config.check_size(h, w)
    }

    /// The input channels last, `Condition::concat` behind x.
    fn input(&self, x: &Tensor, cond: &Condition) -> Result<Tensor> {
        let x = match &cond.concat {
            None => x.clone(),
            Some(concat) => Tensor::cat(&[x, concat], 1)?,
        };
        let (got, expected) = (x.dim(1)?, self.config.in_channels);
        if got != expected {
            return Err(Error::Config(format!("U-Net input: expected {expected} channels, got {got}")));
        }
        Ok(precision::enter(&x.permute((0, 2, 3, 1))?.contiguous()?)?)
    }

    fn context(&self, batch: usize, cond: &Condition) -> Result<Option<Tensor>> {
        let Some(width) = self.config.transformer.as_ref().map(|t| t.context_width) else {
            return match cond.context {
                None => Ok(None),
                Some(_) => Err(Error::Config("`Condition::context`: the U-Net has no cross attention".into())),
            };
        };
        match &cond.context {
            Some(context) if matches!(*context.dims(), [b, _, d] if b == batch && d == width) => {
                Ok(Some(precision::enter(&context.contiguous()?)?))
            }
            Some(context) => {
                Err(Error::Config(format!("`Condition::context`: expected [{batch}, T, {width}], got {:?}", context.dims())))
            }
            None => Err(Error::Config("cross attention needs `Condition::context`, which is missing".into())),
        }
    }
}
