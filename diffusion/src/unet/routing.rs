//! Rows of a batch by stage: gathered for each decoder, scattered back.

use candle_core::{Device, Tensor};

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

    /// Runs `decode(stage, encoded, pass)` on each stage's rows and puts the answers in the order of the batch. A batch of one
    /// stage is handed on as it is.
    pub(super) fn run(
        &self,
        encoded: &Encoded,
        pass: &Pass,
        decode: impl Fn(usize, &Encoded, &Pass) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if let [(stage, _)] = self.groups.as_slice() {
            return decode(*stage, encoded, pass);
        }
        let device = encoded.h.device();
        let mut answers = Vec::with_capacity(self.groups.len());
        for (stage, rows) in &self.groups {
            let rows = Tensor::from_slice(rows, rows.len(), device)?;
            answers.push(decode(*stage, &encoded.rows(&rows)?, &pass.rows(&rows)?)?);
        }
        Ok(Tensor::cat(&answers, 0)?.index_select(&self.inverse(device)?, 0)?)
    }

    /// Where each row of the batch lies among the rows ordered by stage.
    fn inverse(&self, device: &Device) -> Result<Tensor> {
        let order: Vec<u32> = self.groups.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
        let mut inverse = vec![0u32; order.len()];
        for (place, &row) in order.iter().enumerate() {
            inverse[row as usize] = place as u32;
        }
        let n = inverse.len();
        Ok(Tensor::from_vec(inverse, n, device)?)
    }
}

impl Encoded {
    fn rows(&self, rows: &Tensor) -> Result<Self> {
        let skips = self.skips.iter().map(|s| Ok(s.index_select(rows, 0)?)).collect::<Result<_>>()?;
        Ok(Self { h: self.h.index_select(rows, 0)?, skips })
    }
}

impl Pass {
    fn rows(&self, rows: &Tensor) -> Result<Self> {
        let context = self.context.as_ref().map(|c| c.index_select(rows, 0)).transpose()?;
        Ok(Self { embedding: self.embedding.index_select(rows, 0)?, context, ..self.clone() })
    }
}
