//! What the text encoders have in common: self-attention, activations, root mean square norm, embedded tokens.

use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::Linear,
    ops,
    params::{Init, Parameter, Scope},
};

use crate::{Error, Result};

/// An activation by its name in published configurations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TextActivation {
    /// `x Φ(x)` with the exact error function.
    #[default]
    #[serde(rename = "gelu")]
    Gelu,
    /// `x sigmoid(1.702 x)`, as OpenAI's CLIP.
    #[serde(rename = "quick_gelu")]
    QuickGelu,
    /// The tanh approximation of gelu.
    #[serde(rename = "gelu_new", alias = "gelu_pytorch_tanh")]
    GeluTanh,
    /// `max(x, 0)`.
    #[serde(rename = "relu")]
    Relu,
}

impl TextActivation {
    /// Of every number; x: any shape.
    ///
    /// # Errors
    /// Those of the operators.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Gelu => ops::gelu(x)?,
            Self::GeluTanh => ops::gelu_tanh(x)?,
            Self::QuickGelu => (ops::silu(&(x * QUICK)?)? / QUICK)?,
            Self::Relu => ops::relu(x)?,
        })
    }
}

const QUICK: f64 = 1.702;

/// Which keys a query sees.
#[derive(Clone, Copy)]
pub(super) enum Sight<'a> {
    /// All of them.
    All,
    /// Those with a 1 in `[B, T]`.
    Keys(&'a Tensor),
    /// All, with this added to the scores: broadcasts to `[B, H, T, T]`.
    Bias(&'a Tensor),
}

/// Self-attention of `heads` heads of `width`; the maps' names are the layout's.
#[derive(Clone, Debug)]
pub(super) struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
    width: usize,
    scale: f64,
}

impl SelfAttention {
    /// From maps to and from `heads * width` numbers.
    pub(super) fn new([query, key, value, out]: [Linear; 4], heads: usize, width: usize) -> Self {
        Self { query, key, value, out, heads, width, scale: (width as f64).powf(-0.5) }
    }

    /// The same without a factor on the scores, as T5.
    pub(super) fn unscaled(self) -> Self {
        Self { scale: 1.0, ..self }
    }

    /// x: `[B, T, D]`, same shape.
    pub(super) fn forward(&self, x: &Tensor, sight: Sight<'_>) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let split = |map: &Linear| Ok::<_, Error>(map.forward(x)?.reshape((batch, tokens, self.heads, self.width))?);
        let (q, k, v) = (split(&self.query)?, split(&self.key)?, split(&self.value)?);
        let y = match sight {
            Sight::All => ops::attention(&q, &k, &v, self.scale, None)?,
            Sight::Keys(mask) => ops::attention(&q, &k, &v, self.scale, Some(mask))?,
            Sight::Bias(bias) => ops::biased_attention(&q, &k, &v, self.scale, bias)?,
        };
        Ok(self.out.forward(&y.flatten_from(2)?)?)
    }
}

/// Four maps `names` from and to `width`, with biases.
pub(super) fn square_maps(scope: &Scope, names: [&str; 4], width: usize) -> Result<[Linear; 4]> {
    let [a, b, c, d] = names.map(|name| Linear::new(&scope.pp(name), width, width));
    Ok([a?, b?, c?, d?])
}

/// The width of a head. Errors unless `width` is divisible.
pub(super) fn head_width(width: usize, heads: usize) -> Result<usize> {
    if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
        return Err(Error::Config(format!("text encoder: {heads} heads cannot share a width of {width}")));
    }
    Ok(width / heads)
}

/// Batch and length of `ids` `[B, T]` u32. Errors if a row is longer than `positions` or an id is not below `vocabulary`.
pub(super) fn check_ids(ids: &Tensor, vocabulary: usize, positions: usize) -> Result<(usize, usize)> {
    let (batch, tokens) = ids.dims2()?;
    if tokens > positions || tokens == 0 {
        return Err(Error::Config(format!("{tokens} tokens in a row: expected 1 to {positions}")));
    }
    let largest = ids.max_all()?.to_scalar::<u32>()?;
    if largest as usize >= vocabulary {
        return Err(Error::Config(format!(
            "token {largest}: expected a number below {vocabulary}; the tokenizer does not belong to this encoder"
        )));
    }
    Ok((batch, tokens))
}

/// `x (mean(x²) + eps)^(-1/2) weight` over the last dimension (Zhang & Sennrich 2019).
#[derive(Clone, Debug)]
pub(super) struct RmsNorm {
    weight: Parameter,
    eps: f64,
}

impl RmsNorm {
    pub(super) fn new(scope: &Scope, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: scope.param("weight", width, Init::ONES)?, eps })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let size = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        Ok(x.broadcast_div(&size)?.broadcast_mul(&self.weight.get())?)
    }
}

/// Mean over the tokens with a 1 in `mask`: x `[B, T, D]`, mask `[B, T]` -> `[B, D]` (Reimers & Gurevych 2019).
pub fn mean_pooled(x: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let mask = mask.to_dtype(x.dtype())?.unsqueeze(2)?;
    let count = mask.sum(1)?.maximum(1e-9)?;
    Ok(x.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&count)?)
}

/// Rows of length 1: x `[B, D]`.
pub fn normalized(x: &Tensor) -> Result<Tensor> {
    let norm = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    Ok(x.broadcast_div(&norm)?)
}
