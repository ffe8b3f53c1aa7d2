//! The U-Net of latent diffusion: one encoder shared by all noise levels, one decoder per stage.
//!
//! - [`UNetConfig`] says what is built; presets are the published networks. One decoder is the original network
//!   (Rombach et al. 2022; Dhariwal & Nichol 2021), several are the multistage one (Zhang, Lu et al. 2024).
//! - [`UNet::forward`] routes each sample of a batch to the decoder of its stage.
//! - [`cost()`] counts parameters, multiply-accumulates and activations without building anything.
//! - [`LdmUNetConfig`] and [`KeyMap`] translate the published configurations and checkpoints.
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
mod key_map;
mod plan;
mod published;
mod residual;
mod routing;
#[cfg(test)]
mod tests;
mod transformer;

use candle_core::{Device, Tensor};
use strata_conditioning::Condition;
use strata_nn::{
    layers::{Embedding, Linear},
    ops,
    params::Scope,
    random::Key,
};

pub use config::{DecoderConfig, Heads, Resample, TransformerConfig, UNetConfig};
pub use cost::{Cost, CostInput, Costs, StageCost, cost, costs};
pub use describe::describe;
pub use key_map::KeyMap;
pub use published::LdmUNetConfig;

use crate::{Error, Result};
use coder::{Decoder, Encoder};
use plan::Plan;
use routing::Routing;

/// The network.
#[derive(Debug)]
pub struct UNet {
    config: UNetConfig,
    linear1: Linear,
    linear2: Linear,
    vector: Vector,
    encoder: Encoder,
    decoders: Vec<Decoder>,
    device: Device,
}

/// What happens to `Condition::vector` before it is added to the embedding.
#[derive(Debug)]
enum Vector {
    Added,
    Projected(Linear),
    Classes(Embedding),
}

/// What every layer of a forward pass sees.
#[derive(Clone, Debug)]
struct Pass {
    /// SiLU of the embedding, `[B, 4 width]`.
    embedding: Tensor,
    context: Option<Tensor>,
    train: Option<Key>,
}

impl UNet {
    /// Builds the network below `scope`: `time_embedding`, `encoder`, `middle`, `decoders.<stage>`.
    ///
    /// # Errors
    /// If the configuration cannot be built (see [`UNetConfig::validate`]).
    pub fn new(config: &UNetConfig, scope: &Scope) -> Result<Self> {
        config.validate()?;
        let (plan, width) = (Plan::new(config), config.embedding_width());
        let time = scope.pp("time_embedding");
        let vector = match (config.classes, config.condition_width) {
            (Some(classes), _) => Vector::Classes(Embedding::new(&scope.pp("class_embedding"), classes, width)?),
            (None, Some(n)) => Vector::Projected(Linear::new(&scope.pp("condition_embedding"), n, width)?),
            (None, None) => Vector::Added,
        };
        let decoder = |stage: usize| Decoder::new(config, &plan, stage, &scope.pp("decoders").pp(stage));
        Ok(Self {
            linear1: Linear::new(&time.pp("linear1"), config.width, width)?,
            linear2: Linear::new(&time.pp("linear2"), width, width)?,
            vector,
            encoder: Encoder::new(config, &plan, scope)?,
            decoders: (0..config.decoders.len()).map(decoder).collect::<Result<_>>()?,
            device: scope.device().clone(),
            config: config.clone(),
        })
    }

    /// What it was built from.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The vectors `[B, 4 width]` of classes, for `Condition::vector`; rows of the network's own table.
    ///
    /// # Errors
    /// If the configuration has no `classes`, or an id is not below their number.
    pub fn embed_classes(&self, ids: &[u32]) -> Result<Tensor> {
        let (Vector::Classes(table), Some(classes)) = (&self.vector, self.config.classes) else {
            return Err(Error::Config("the U-Net has no `classes`".into()));
        };
        if let Some(id) = ids.iter().find(|&&id| id as usize >= classes) {
            return Err(Error::Config(format!("class {id}: expected a number below {classes}")));
        }
        Ok(table.forward(&Tensor::from_slice(ids, ids.len(), &self.device)?)?)
    }

    /// x: `[B, C, H, W]` (already scaled by c_in), `c_noise`: one per sample (a discrete step, also fractional, in latent
    /// diffusion), `stages`: each sample's decoder, counted from 0. `Condition::vector` is added to the embedding (`[B, 4 width]`,
    /// or `[B, condition_width]` and projected), `Condition::context` `[B, T, context_width]` is attended to,
    /// `Condition::concat` joins x. `train` is the stream of dropout, `None` outside training. Answers `[B, C_out, H, W]`.
    ///
    /// # Errors
    /// If the shapes do not agree with each other or with the configuration.
    pub fn forward(&self, x: &Tensor, c_noise: &[f32], stages: &[usize], cond: &Condition, train: Option<Key>) -> Result<Tensor> {
        let x = self.input(x, c_noise, stages, cond)?;
        let embedding = ops::silu(&self.embedding(c_noise, cond)?)?;
        let pass = Pass { embedding, context: self.context(x.dim(0)?, cond)?, train };
        let routing = Routing::new(stages, self.decoders.len())?;
        let encoded = self.encoder.forward(&x, &pass)?;
        let y = routing.run(&encoded, &pass, |stage, encoded, pass| self.decoders[stage].forward(encoded, pass))?;
        Ok(y.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// The input channels last, `Condition::concat` behind x, with every size checked.
    fn input(&self, x: &Tensor, c_noise: &[f32], stages: &[usize], cond: &Condition) -> Result<Tensor> {
        let &[b, _, h, w] = x.dims() else {
            return Err(Error::Config(format!("U-Net input: expected [B, C, H, W], got {:?}", x.dims())));
        };
        if b == 0 || c_noise.len() != b || stages.len() != b {
            let got = format!("{} noise levels and {} stages", c_noise.len(), stages.len());
            return Err(Error::Config(format!("a batch of {b} needs as many noise levels and stages, got {got}")));
        }
        self.config.check_size(h, w)?;
        let x = match &cond.concat {
            None => x.clone(),
            Some(concat) => Tensor::cat(&[x, concat], 1)?,
        };
        let (got, expected) = (x.dim(1)?, self.config.in_channels);
        if got != expected {
            return Err(Error::Config(format!("U-Net input: expected {expected} channels, got {got}")));
        }
        Ok(x.permute((0, 2, 3, 1))?.contiguous()?)
    }

    /// `[B, 4 width]`: the noise level through two layers, plus the vector.
    fn embedding(&self, c_noise: &[f32], cond: &Condition) -> Result<Tensor> {
        let waves = ops::sinusoidal_embedding(c_noise, self.config.width, 0.0, &self.device)?;
        let embedding = self.linear2.forward(&ops::silu(&self.linear1.forward(&waves)?)?)?;
        let Some(vector) = &cond.vector else {
            return match self.vector {
                Vector::Added => Ok(embedding),
                _ => Err(Error::Config("the U-Net is conditional: `Condition::vector` is missing".into())),
            };
        };
        let expected = [c_noise.len(), self.config.condition_width.unwrap_or(self.config.embedding_width())];
        if vector.dims() != expected {
            return Err(Error::Config(format!("`Condition::vector`: expected {expected:?}, got {:?}", vector.dims())));
        }
        match &self.vector {
            Vector::Projected(map) => Ok((embedding + map.forward(vector)?)?),
            Vector::Added | Vector::Classes(_) => Ok((embedding + vector)?),
        }
    }

    fn context(&self, batch: usize, cond: &Condition) -> Result<Option<Tensor>> {
        let Some(width) = self.config.transformer.as_ref().map(|t| t.context_width) else {
            return match cond.context {
                None => Ok(None),
                Some(_) => Err(Error::Config("`Condition::context`: the U-Net has no cross attention".into())),
            };
        };
        match &cond.context {
            Some(context) if matches!(*context.dims(), [b, _, d] if b == batch && d == width) => Ok(Some(context.contiguous()?)),
            Some(context) => {
                Err(Error::Config(format!("`Condition::context`: expected [{batch}, T, {width}], got {:?}", context.dims())))
            }
            None => Err(Error::Config("cross attention needs `Condition::context`, which is missing".into())),
        }
    }
}
