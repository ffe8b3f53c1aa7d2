//! Rows of a batch by stage: put in the order of their stages before the encoder, split for the decoders, put back at the end.

use candle_core::Tensor;
use strata_conditioning::Condition;
use strata_nn::ops;

use super::{Pass, coder::Encoded};
use crate::{Error, Result};

/// The stages of a batch that occur, each with its rows.
#[derive(Debug)]
pub(super) struct Routing {
    groups: Vec<(usize, Vec<u32>)>,
}

impl Routing {
    /// `stages[i]` is the decoder of row i, below `decoders`.
    pub(super) fn new(stages: &[usize], decoders: usize) -> Result<Self> {
        let mut rows = vec![Vec::new(); decoders];
        for (row, &stage) in stages.iter().enumerate() {
            let of_stage = rows
                .get_mut(stage)
                .ok_or_else(|| Error::Config(format!("row {row}: decoder {stage}, but there are {decoders} (counted from 0)")))?;
            of_stage.push(row as u32);
        }
        Ok(Self { groups: rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()).collect() })
    }

    /// The batch `x`, its noise levels and its condition in the order of the stages.
    pub(super) fn sort(&self, x: &Tensor, c_noise: &[f32], cond: &Condition) -> Result<(Tensor, Vec<f32>, Condition)> {
        let order = self.order();
        if order.is_sorted() {
            return Ok((x.clone(), c_noise.to_vec(), cond.clone()));
        }
        let c_noise = order.iter().map(|&row| c_noise[row as usize]).collect();
        let order = Tensor::new(order, x.device())?;
        let cond = cond.index_select(&order)?;
        Ok((x.index_select(&order, 0)?, c_noise, cond))
    }

    /// Runs `decode(stage, encoded, pass)` on each stage's rows of a sorted batch and puts the answers in the order that the batch
    /// had before. A batch of one stage is handed on as it is.
    pub(super) fn run(
        &self,
        encoded: &Encoded,
        pass: &Pass,
        decode: impl Fn(usize, &Encoded, &Pass) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if let [(stage, _)] = self.groups.as_slice() {
            return decode(*stage, encoded, pass);
        }
        let sizes: Vec<usize> = self.groups.iter().map(|(_, rows)| rows.len()).collect();
        let parts = encoded.split(&sizes)?.into_iter().zip(pass.split(&sizes)?);
        let answers = self.groups.iter().zip(parts).map(|((stage, _), (encoded, pass))| decode(*stage, &encoded, &pass));
        let y = Tensor::cat(&answers.collect::<Result<Vec<_>>>()?, 0)?;
        let inverse = self.inverse();
        if inverse.is_sorted() { Ok(y) } else { Ok(y.index_select(&Tensor::new(inverse, y.device())?, 0)?) }
    }

    /// The rows of the batch, ordered by stage.
    fn order(&self) -> Vec<u32> {
        self.groups.iter().flat_map(|(_, rows)| rows.iter().copied()).collect()
    }

    /// Where each row of the batch lies among the rows ordered by stage.
    fn inverse(&self) -> Vec<u32> {
        let order = self.order();
        let mut inverse = vec![0u32; order.len()];
        for (place, &row) in order.iter().enumerate() {
            inverse[row as usize] = place as u32;
        }
        inverse
    }
}

impl Encoded {
    /// Each group's part.
    fn split(&self, sizes: &[usize]) -> Result<Vec<Self>> {
        let h = ops::split_rows(&self.h, sizes)?;
        let mut parts: Vec<Self> = h.into_iter().map(|h| Self { h, skips: Vec::with_capacity(self.skips.len()) }).collect();
        for skip in &self.skips {
            for (part, skip) in parts.iter_mut().zip(ops::split_rows(skip, sizes)?) {
                part.skips.push(skip);
            }
        }
        Ok(parts)
    }
}

impl Pass {
    /// Each group's part.
    fn split(&self, sizes: &[usize]) -> Result<Vec<Self>> {
        let embeddings = ops::split_rows(&self.embedding, sizes)?;
        let mut parts: Vec<Self> =
            embeddings.into_iter().map(|embedding| Self { embedding, context: None, ..self.clone() }).collect();
        if let Some(context) = &self.context {
            for (part, context) in parts.iter_mut().zip(ops::split_rows(context, sizes)?) {
                part.context = Some(context);
            }
        }
        Ok(parts)
    }
}
