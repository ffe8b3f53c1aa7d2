//! T5's encoder (Raffel et al. 2020) in the layout of transformers: pre-norm, relative positions, no biases; v1.0 and v1.1.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::{Embedding, Linear},
    params::{Init, Scope},
};

use super::{
    blocks::{RmsNorm, SelfAttention, Sight, TextActivation, check_ids},
    clip::hidden,
};
use crate::{Error, Result};

/// Sizes, by their names in `config.json`; its other keys do not concern the encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct T5Config {
    pub vocab_size: usize,
    pub d_model: usize,
    pub d_kv: usize,
    pub d_ff: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    #[serde(default = "buckets")]
    pub relative_attention_num_buckets: usize,
    #[serde(default = "max_distance")]
    pub relative_attention_max_distance: usize,
    #[serde(default = "layer_norm_epsilon")]
    pub layer_norm_epsilon: f64,
    #[serde(default)]
    pub feed_forward_proj: T5FeedForward,
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

fn layer_norm_epsilon() -> f64 {
    1e-6
}

/// The inner network of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum T5FeedForward {
    /// `wo relu(wi x)`, as v1.0.
    #[default]
    #[serde(rename = "relu")]
    Relu,
    /// `wo (gelu(wi_0 x) · wi_1 x)` with the tanh approximation, as v1.1 and flan.
    #[serde(rename = "gated-gelu")]
    GatedGelu,
}

/// What the network answers, `[B, T, d_model]`.
#[derive(Clone, Debug)]
pub struct T5Output {
    /// After every block, without the final norm.
    pub hidden: Vec<Tensor>,
    /// The final norm of the last.
    pub last: Tensor,
}

/// The network; parameter names as published (`shared.weight`, `encoder.block.0. ...`).
#[derive(Clone, Debug)]
pub struct T5Encoder {
    tokens: Embedding,
    bias: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    config: T5Config,
}

impl T5Encoder {
    /// # Errors
    /// If the buckets of relative positions make no sense.
    pub fn new(scope: &Scope, config: &T5Config) -> Result<Self> {
        let (n, far) = (config.relative_attention_num_buckets, config.relative_attention_max_distance);
        if n < 4 || !n.is_multiple_of(2) || far <= n / 4 {
            return Err(Error::Config(format!(
                "T5: {n} buckets up to a distance of {far}: expected an even number of 4 or more, and a distance above a quarter of it"
            )));
        }
        let encoder = scope.pp("encoder");
        let tokens = Embedding::new(&scope.pp("shared"), config.vocab_size, config.d_model)?;
        let table = encoder.pp("block.0.layer.0.SelfAttention.relative_attention_bias");
        let block = |k| Block::new(&encoder.pp("block").pp(k), config);
        Ok(Self {
            tokens,
            bias: Embedding::new(&table, n, config.num_heads)?,
            blocks: (0..config.num_layers).map(block).collect::<Result<_>>()?,
            norm: RmsNorm::new(&encoder.pp("final_layer_norm"), config.d_model, config.layer_norm_epsilon)?,
            config: config.clone(),
        })
    }

    /// ids: `[B, T]` u32; mask: `[B, T]`, 0 where a token is padding.
    ///
    /// # Errors
    /// If an id is beyond the table.
    pub fn forward(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<T5Output> {
        let (_, tokens) = check_ids(ids, self.config.vocab_size, usize::MAX)?;
        let mut bias = self.relative(tokens, ids.device())?;
        if let Some(mask) = mask {
            bias = bias.broadcast_add(&hidden(mask)?)?;
        }
        let (mut x, mut states) = (self.tokens.forward(ids)?, Vec::new());
        for block in &self.blocks {
            x = block.forward(&x, &bias)?;
            states.push(x.clone());
        }
        Ok(T5Output { hidden: states, last: self.norm.forward(&x)? })
    }

    /// `[1, H, T, T]`: what each head adds to the scores of query i and key j.
    fn relative(&self, tokens: usize, device: &Device) -> Result<Tensor> {
        let n = tokens as i64;
        let ids: Vec<u32> = (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| self.bucket(j - i)).collect();
        let ids = Tensor::from_vec(ids, (tokens, tokens), device)?;
        Ok(self.bias.forward(&ids)?.permute((2, 0, 1))?.unsqueeze(0)?.contiguous()?)
    }

    /// Half of the buckets for later keys, half of each for single distances, the rest for logarithmic ranges.
    fn bucket(&self, offset: i64) -> u32 {
        let half = self.config.relative_attention_num_buckets / 2;
        let exact = half / 2;
        let base = if offset > 0 { half } else { 0 };
        let distance = offset.unsigned_abs() as usize;
        if distance < exact {
            return (base + distance) as u32;
        }
        // In float32, as published: at the edge of a range the rounding decides.
        let range = (self.config.relative_attention_max_distance as f64 / exact as f64).ln() as f32;
        let step = (distance as f32 / exact as f32).ln() / range * (half - exact) as f32;
        (base + (exact + step as usize).min(half - 1)) as u32
    }
}

#[derive(Clone, Debug)]
struct Block {
    attention_norm: RmsNorm,
    attention: SelfAttention,
    norm: RmsNorm,
    wide: Linear,
    gate: Option<Linear>,
    narrow: Linear,
}

impl Block {
    fn new(scope: &Scope, config: &T5Config) -> Result<Self> {
        let (width, eps) = (config.d_model, config.layer_norm_epsilon);
        let inner = config.num_heads * config.d_kv;
        let (first, second) = (scope.pp("layer.0"), scope.pp("layer.1"));
        let map = |scope: &Scope, name: &str, from, to| Linear::without_bias(&scope.pp(name), from, to, Init::FanIn);
        let attention = |name, from, to| map(&first.pp("SelfAttention"), name, from, to);
        let maps = [attention("q", width, inner)?, attention("k", width, inner)?, attention("v", width, inner)?];
        let [q, k, v] = maps;
        let dense = |name, from, to| map(&second.pp("DenseReluDense"), name, from, to);
        let gated = config.feed_forward_proj == T5FeedForward::GatedGelu;
        Ok(Self {
            attention_norm: RmsNorm::new(&first.pp("layer_norm"), width, eps)?,
            attention: SelfAttention::new([q, k, v, attention("o", inner, width)?], config.num_heads, config.d_kv).unscaled(),
            norm: RmsNorm::new(&second.pp("layer_norm"), width, eps)?,
            wide: dense(if gated { "wi_0" } else { "wi" }, width, config.d_ff)?,
            gate: gated.then(|| dense("wi_1", width, config.d_ff)).transpose()?,
            narrow: dense("wo", config.d_ff, width)?,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let x = (x + self.attention.forward(&self.attention_norm.forward(x)?, Sight::Bias(bias))?)?;
        let y = self.norm.forward(&x)?;
        let wide = self.wide.forward(&y)?;
        let inner = match &self.gate {
            None => TextActivation::Relu.apply(&wide)?,
            Some(gate) => (TextActivation::GeluTanh.apply(&wide)? * gate.forward(&y)?)?,
        };
        Ok((&x + self.narrow.forward(&inner)?)?)
    }
}
