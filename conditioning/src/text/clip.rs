//! CLIP's text encoder (Radford et al. 2021) in the layout of transformers: pre-norm, causal; OpenAI's and OpenCLIP's.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::{Embedding, LayerNorm, Linear},
    params::Scope,
};

use super::blocks::{SelfAttention, Sight, TextActivation, check_ids, head_width, square_maps};
use crate::{Error, Result};

/// Sizes, by their names in `config.json`; its other keys do not concern the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ClipConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "quick_gelu")]
    pub hidden_act: TextActivation,
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// 2 in old files, where the end is the largest id of a row.
    #[serde(default = "eos_token_id")]
    pub eos_token_id: u32,
    /// Width of the projection, where there is one.
    #[serde(default)]
    pub projection_dim: Option<usize>,
}

fn quick_gelu() -> TextActivation {
    TextActivation::QuickGelu
}

fn layer_norm_eps() -> f64 {
    1e-5
}

fn eos_token_id() -> u32 {
    49407
}

/// The old files' wrong id of the end.
const LEGACY_EOS: u32 = 2;

/// What the network answers; `[B, T, D]` unless it says otherwise.
#[derive(Clone, Debug)]
pub struct ClipOutput {
    /// Tokens and positions.
    pub embeddings: Tensor,
    /// The last layer's answer, normalised.
    pub last: Tensor,
    /// The last but one layer's answer as it is.
    pub penultimate: Tensor,
    /// The same under the final norm: what Stable Diffusion 2 attends to.
    pub penultimate_normed: Tensor,
    /// `[B, D]`: [`ClipOutput::last`] at the end of the text.
    pub pooled: Tensor,
    /// `[B, projection_dim]`, where there is a projection.
    pub projected: Option<Tensor>,
}

/// The network; parameter names as published (`text_model.encoder.layers.0. ...`).
#[derive(Clone, Debug)]
pub struct ClipTextModel {
    tokens: Embedding,
    positions: Embedding,
    layers: Vec<Layer>,
    norm: LayerNorm,
    projection: Option<Linear>,
    config: ClipConfig,
}

impl ClipTextModel {
    /// # Errors
    /// If the heads cannot share the width.
    pub fn new(scope: &Scope, config: &ClipConfig) -> Result<Self> {
        let (model, width) = (scope.pp("text_model"), config.hidden_size);
        if config.num_hidden_layers == 0 {
            return Err(Error::Config("CLIP text encoder: expected 1 layer or more".into()));
        }
        let layer = |n| Layer::new(&model.pp("encoder.layers").pp(n), config);
        let project = |n| Linear::without_bias(&scope.pp("text_projection"), width, n, strata_nn::params::Init::FanIn);
        Ok(Self {
            tokens: Embedding::new(&model.pp("embeddings.token_embedding"), config.vocab_size, width)?,
            positions: Embedding::new(&model.pp("embeddings.position_embedding"), config.max_position_embeddings, width)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            norm: LayerNorm::new(&model.pp("final_layer_norm"), width, config.layer_norm_eps)?,
            projection: config.projection_dim.map(project).transpose()?,
            config: config.clone(),
        })
    }

    /// ids: `[B, T]` u32; mask: `[B, T]`, 0 where a token is not to be looked at: published pipelines give none, so that padding
    /// is seen (by later positions).
    ///
    /// # Errors
    /// If an id or the length is beyond the tables.
    pub fn forward(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<ClipOutput> {
        let (_, tokens) = check_ids(ids, self.config.vocab_size, self.config.max_position_embeddings)?;
        let positions = self.positions.forward(&Tensor::arange(0, tokens as u32, ids.device())?)?;
        let embeddings = self.tokens.forward(ids)?.broadcast_add(&positions)?;
        let bias = causal(tokens, mask, ids.device())?;
        let (mut x, mut penultimate) = (embeddings.clone(), embeddings.clone());
        for layer in &self.layers {
            penultimate = x;
            x = layer.forward(&penultimate, &bias)?;
        }
        let last = self.norm.forward(&x)?;
        let pooled = self.pooled(&last, ids)?;
        let projected = self.projection.as_ref().map(|p| p.forward(&pooled)).transpose()?;
        Ok(ClipOutput { embeddings, last, penultimate_normed: self.norm.forward(&penultimate)?, penultimate, pooled, projected })
    }

    fn pooled(&self, last: &Tensor, ids: &Tensor) -> Result<Tensor> {
        let rows: Vec<Vec<u32>> = ids.to_vec2()?;
        let (_, tokens, _) = last.dims3()?;
        let at = rows.iter().enumerate().map(|(row, ids)| (row * tokens + self.end(ids)) as u32);
        let at = Tensor::from_vec(at.collect::<Vec<_>>(), rows.len(), ids.device())?;
        Ok(last.flatten_to(1)?.index_select(&at, 0)?)
    }

    /// Where a text ends: the first end token, so that padding with it changes nothing.
    fn end(&self, ids: &[u32]) -> usize {
        let wanted = match self.config.eos_token_id {
            LEGACY_EOS => ids.iter().max().copied(),
            id => Some(id),
        };
        ids.iter().position(|&id| Some(id) == wanted).unwrap_or(0)
    }
}

/// -1e30 where a query must not look: `[1 or B, 1, T, T]`.
fn causal(tokens: usize, mask: Option<&Tensor>, device: &Device) -> Result<Tensor> {
    let later = |query: usize| (0..tokens).map(move |key| if key > query { HIDDEN } else { 0.0 });
    let values: Vec<f32> = (0..tokens).flat_map(later).collect();
    let bias = Tensor::from_vec(values, (1, 1, tokens, tokens), device)?;
    match mask {
        None => Ok(bias),
        Some(mask) => Ok(bias.broadcast_add(&hidden(mask)?)?),
    }
}

const HIDDEN: f32 = -1e30;

/// The bias `[B, 1, 1, T]` of a mask `[B, T]`.
pub(super) fn hidden(mask: &Tensor) -> Result<Tensor> {
    let bias = mask.to_dtype(candle_core::DType::F32)?.affine(-f64::from(HIDDEN), f64::from(HIDDEN))?;
    Ok(bias.unsqueeze(1)?.unsqueeze(1)?)
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    attention: SelfAttention,
    norm2: LayerNorm,
    wide: Linear,
    narrow: Linear,
    activation: TextActivation,
}

impl Layer {
    fn new(scope: &Scope, config: &ClipConfig) -> Result<Self> {
        let (width, heads, eps) = (config.hidden_size, config.num_attention_heads, config.layer_norm_eps);
        let maps = square_maps(&scope.pp("self_attn"), ["q_proj", "k_proj", "v_proj", "out_proj"], width)?;
        Ok(Self {
            norm1: LayerNorm::new(&scope.pp("layer_norm1"), width, eps)?,
            attention: SelfAttention::new(maps, heads, head_width(width, heads)?),
            norm2: LayerNorm::new(&scope.pp("layer_norm2"), width, eps)?,
            wide: Linear::new(&scope.pp("mlp.fc1"), width, config.intermediate_size)?,
            narrow: Linear::new(&scope.pp("mlp.fc2"), config.intermediate_size, width)?,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let x = (x + self.attention.forward(&self.norm1.forward(x)?, Sight::Bias(bias))?)?;
        let inner = self.activation.apply(&self.wide.forward(&self.norm2.forward(&x)?)?)?;
        Ok((&x + self.narrow.forward(&inner)?)?)
    }
}
