//! A batch of token ids.

use std::fmt;

use candle_core::{Device, Tensor};

use crate::Result;

/// A batch of token ids, rows of equal length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// A row per text: ids, then padding.
    pub ids: Vec<Vec<u32>>,
    /// Of each row, how many ids are no padding.
    pub lengths: Vec<usize>,
    /// The texts that did not fit.
    pub cut: Vec<Cut>,
}

/// What of a text did not fit into the maximum length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Of which text, counted from 0.
    pub index: usize,
    /// How many tokens.
    pub tokens: usize,
    /// Which part of the text.
    pub text: String,
    /// The length that it was cut to.
    pub max_length: usize,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, tokens, text, max_length } = self;
        let plural = if *tokens == 1 { "" } else { "s" };
        write!(f, "text {index}: the last {tokens} token{plural} did not fit into {max_length} and were cut off: `{text}`")
    }
}

impl Tokens {
    pub(super) fn padded(mut ids: Vec<Vec<u32>>, length: usize, pad_id: u32, cut: Vec<Cut>) -> Self {
        let lengths = ids.iter().map(Vec::len).collect();
        ids.iter_mut().for_each(|row| row.resize(length, pad_id));
        Self { ids, lengths, cut }
    }

    /// Tokens per row, padding included.
    pub fn length(&self) -> usize {
        self.ids.first().map_or(0, Vec::len)
    }

    /// The ids, `[B, T]` u32.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.ids.concat(), (self.ids.len(), self.length()), device)?)
    }

    /// 1 for a token, 0 for padding, `[B, T]` float32.
    pub fn mask(&self, device: &Device) -> Result<Tensor> {
        let rows = self.lengths.iter().flat_map(|&n| (0..self.length()).map(move |i| f32::from(u8::from(i < n))));
        Ok(Tensor::from_vec(rows.collect::<Vec<f32>>(), (self.ids.len(), self.length()), device)?)
    }
}
