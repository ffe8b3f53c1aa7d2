//! BERT (Devlin et al. 2019) in the layout of transformers: post-norm, learned positions, token types.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::{Embedding, LayerNorm, Linear},
    params::Scope,
};

use super::blocks::{SelfAttention, Sight, TextActivation, check_ids, head_width, square_maps};
use crate::Result;

/// Sizes, by their names in `config.json`; its other keys do not concern the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct BertConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    #[serde(default)]
    pub hidden_act: TextActivation,
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f64,
}

fn layer_norm_eps() -> f64 {
    1e-12
}

/// The network; parameter names as published (`embeddings.word_embeddings.weight`, `encoder.layer.0. ...`).
#[derive(Clone, Debug)]
pub struct BertModel {
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
    pooler: Option<Linear>,
    config: BertConfig,
}

impl BertModel {
    /// `pooler`: whether there is the map behind the first token, which sentence encoders leave out.
    ///
    /// # Errors
    /// If the heads cannot share the width.
    pub fn new(scope: &Scope, config: &BertConfig, pooler: bool) -> Result<Self> {
        let (embeddings, width) = (scope.pp("embeddings"), config.hidden_size);
        let layer = |n| Layer::new(&scope.pp("encoder.layer").pp(n), config);
        Ok(Self {
            words: Embedding::new(&embeddings.pp("word_embeddings"), config.vocab_size, width)?,
            positions: Embedding::new(&embeddings.pp("position_embeddings"), config.max_position_embeddings, width)?,
            types: Embedding::new(&embeddings.pp("token_type_embeddings"), config.type_vocab_size, width)?,
            norm: LayerNorm::new(&embeddings.pp("LayerNorm"), width, config.layer_norm_eps)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            pooler: pooler.then(|| Linear::new(&scope.pp("pooler.dense"), width, width)).transpose()?,
            config: config.clone(),
        })
    }

    /// The sum of word, position and type, normalised. ids, types: `[B, T]` u32 -> `[B, T, D]`.
    ///
    /// # Errors
    /// If an id or the length is beyond the tables.
    pub fn embed(&self, ids: &Tensor, types: Option<&Tensor>) -> Result<Tensor> {
        let (_, tokens) = check_ids(ids, self.config.vocab_size, self.config.max_position_embeddings)?;
        let types = types.cloned().map_or_else(|| ids.zeros_like(), Ok)?;
        check_ids(&types, self.config.type_vocab_size, tokens)?;
        let positions = self.positions.forward(&Tensor::arange(0, tokens as u32, ids.device())?)?;
        let sum = (self.words.forward(ids)? + self.types.forward(&types)?)?.broadcast_add(&positions)?;
        Ok(self.norm.forward(&sum)?)
    }

    /// The last layer's answer `[B, T, D]` to [`BertModel::embed`]'s. mask: `[B, T]`, 0 where a token is padding; the rows of
    /// padding are computed like the others.
    pub fn encode(&self, embedded: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let sight = mask.map_or(Sight::All, Sight::Keys);
        self.layers.iter().try_fold(embedded.clone(), |x, layer| layer.forward(&x, sight))
    }

    /// [`BertModel::embed`] and [`BertModel::encode`], all tokens of one type.
    pub fn forward(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        self.encode(&self.embed(ids, None)?, mask)
    }

    /// `tanh(pooler(first token))`, `[B, D]`; none without a pooler.
    pub fn pooled(&self, last: &Tensor) -> Result<Option<Tensor>> {
        let first = last.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        self.pooler.as_ref().map(|pooler| Ok(pooler.forward(&first)?.tanh()?)).transpose()
    }
}

#[derive(Clone, Debug)]
struct Layer {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    wide: Linear,
    narrow: Linear,
    norm: LayerNorm,
    activation: TextActivation,
}

impl Layer {
    fn new(scope: &Scope, config: &BertConfig) -> Result<Self> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let names = ["self.query", "self.key", "self.value", "output.dense"];
        let maps = square_maps(&scope.pp("attention"), names, width)?;
        let heads = config.num_attention_heads;
        Ok(Self {
            attention: SelfAttention::new(maps, heads, head_width(width, heads)?),
            attention_norm: LayerNorm::new(&scope.pp("attention.output.LayerNorm"), width, eps)?,
            wide: Linear::new(&scope.pp("intermediate.dense"), width, config.intermediate_size)?,
            narrow: Linear::new(&scope.pp("output.dense"), config.intermediate_size, width)?,
            norm: LayerNorm::new(&scope.pp("output.LayerNorm"), width, eps)?,
            activation: config.hidden_act,
        })
    }

    fn forward(&self, x: &Tensor, sight: Sight<'_>) -> Result<Tensor> {
        let x = self.attention_norm.forward(&(x + self.attention.forward(x, sight)?)?)?;
        let inner = self.activation.apply(&self.wide.forward(&x)?)?;
        Ok(self.norm.forward(&(&x + self.narrow.forward(&inner)?)?)?)
    }
}
