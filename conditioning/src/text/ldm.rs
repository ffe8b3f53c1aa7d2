//! The transformer that latent diffusion trained with its U-Net (Rombach et al. 2022): pre-norm, learned positions, no mask.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::{Embedding, LayerNorm, Linear},
    ops,
    params::{Init, Scope},
};

use super::blocks::{SelfAttention, Sight, check_ids};
use crate::Result;

/// Sizes, by the source's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LdmTextConfig {
    /// Width of a token.
    pub n_embed: usize,
    /// Pairs of attention and feed-forward.
    pub n_layer: usize,
    /// Tokens in the table.
    pub vocab_size: usize,
    /// Positions.
    pub max_seq_len: usize,
}

/// Fixed in the source.
const HEADS: usize = 8;
const HEAD_WIDTH: usize = 64;
const WIDEN: usize = 4;
const EPS: f64 = 1e-5;

/// The network; parameter names as published (`transformer.attn_layers.layers.0. ...`).
#[derive(Clone, Debug)]
pub struct LdmTextModel {
    tokens: Embedding,
    positions: Embedding,
    layers: Vec<(LayerNorm, Inner)>,
    norm: LayerNorm,
    logits: Linear,
    config: LdmTextConfig,
}

#[derive(Clone, Debug)]
enum Inner {
    Attention(SelfAttention),
    FeedForward(Linear, Linear),
}

impl LdmTextModel {
    /// # Errors
    /// If a parameter exists already.
    pub fn new(scope: &Scope, config: &LdmTextConfig) -> Result<Self> {
        let (scope, width) = (scope.pp("transformer"), config.n_embed);
        let layer = |k: usize| {
            let scope = scope.pp("attn_layers.layers").pp(k);
            let inner = if k.is_multiple_of(2) { attention(&scope.pp(1), width) } else { feed_forward(&scope.pp(1), width) };
            Ok((LayerNorm::new(&scope.pp(0), width, EPS)?, inner?))
        };
        Ok(Self {
            tokens: Embedding::new(&scope.pp("token_emb"), config.vocab_size, width)?,
            positions: Embedding::new(&scope.pp("pos_emb.emb"), config.max_seq_len, width)?,
            layers: (0..2 * config.n_layer).map(layer).collect::<Result<_>>()?,
            norm: LayerNorm::new(&scope.pp("norm"), width, EPS)?,
            logits: Linear::new(&scope.pp("to_logits"), width, config.vocab_size)?,
            config: config.clone(),
        })
    }

    /// ids: `[B, T]` u32 -> `[B, T, n_embed]`; padding is attended to like any other token.
    ///
    /// # Errors
    /// If an id or the length is beyond the tables.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let (_, tokens) = check_ids(ids, self.config.vocab_size, self.config.max_seq_len)?;
        let positions = self.positions.forward(&Tensor::arange(0, tokens as u32, ids.device())?)?;
        let mut x = self.tokens.forward(ids)?.broadcast_add(&positions)?;
        for (norm, inner) in &self.layers {
            let y = norm.forward(&x)?;
            x = match inner {
                Inner::Attention(attention) => (&x + attention.forward(&y, Sight::All)?)?,
                Inner::FeedForward(wide, narrow) => (&x + narrow.forward(&ops::gelu(&wide.forward(&y)?)?)?)?,
            };
        }
        Ok(self.norm.forward(&x)?)
    }

    /// The scores of every token of the table, `[B, T, vocab_size]`, from [`LdmTextModel::forward`]'s answer; no conditioner
    /// uses them, but published files hold the map.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.logits.forward(x)?)
    }
}

fn attention(scope: &Scope, width: usize) -> Result<Inner> {
    let inner = HEADS * HEAD_WIDTH;
    let [q, k, v] = ["to_q", "to_k", "to_v"].map(|name| Linear::without_bias(&scope.pp(name), width, inner, Init::FanIn));
    let out = Linear::new(&scope.pp("to_out"), inner, width)?;
    Ok(Inner::Attention(SelfAttention::new([q?, k?, v?, out], HEADS, HEAD_WIDTH)))
}

fn feed_forward(scope: &Scope, width: usize) -> Result<Inner> {
    let wide = Linear::new(&scope.pp("net.0.0"), width, WIDEN * width)?;
    Ok(Inner::FeedForward(wide, Linear::new(&scope.pp("net.2"), WIDEN * width, width)?))
}
