//! Which codes of a codebook are used, and new places for those that are not.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use strata_nn::{
    params::Parameter,
    random::{Key, uniform_f64},
};

use crate::{Error, Result, objective::Codes};

/// How a codebook is used, in a training or a measurement.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// How often each code was the nearest, since the last look.
    counts: Vec<i64>,
    /// Images since each code was used.
    idle: Vec<i64>,
}

impl Usage {
    /// Every code counts as long unused, so that the first batch places them all.
    pub(crate) fn new(codes: usize) -> Self {
        Self { counts: vec![0; codes], idle: vec![i64::from(u32::MAX); codes] }
    }

    /// Number of codes.
    pub(crate) fn codes(&self) -> usize {
        self.counts.len()
    }

    /// Counts the codes that `images` images were given.
    pub(crate) fn add(&mut self, indices: &[u32], images: u64) {
        self.idle.iter_mut().for_each(|idle| *idle = idle.saturating_add(images as i64));
        for &index in indices {
            self.counts[index as usize] += 1;
            self.idle[index as usize] = 0;
        }
    }

    /// Share of the codes that were used since the last look, and the perplexity of their use: the number of codes that would be as
    /// hard to tell apart if they were used equally often.
    pub(crate) fn measure(&self) -> (f64, f64) {
        let total = self.counts.iter().sum::<i64>().max(1) as f64;
        let used = self.counts.iter().filter(|n| **n > 0).count();
        let entropy: f64 = self.counts.iter().filter(|n| **n > 0).map(|n| *n as f64 / total).map(|p| -p * p.ln()).sum();
        (used as f64 / self.counts.len().max(1) as f64, entropy.exp())
    }

    /// The same, and begins to count anew.
    pub(crate) fn take(&mut self) -> (f64, f64) {
        let measured = self.measure();
        self.counts.fill(0);
        measured
    }

    /// Moves codes that were unused for `after` images to latents of the batch, each to another, as `key` draws them; answers how
    /// many. Where there are fewer latents than such codes the rest waits.
    pub(crate) fn revive(&mut self, codebook: &Parameter, batch: &Codes, after: u64, key: Key) -> Result<usize> {
        let dead: Vec<usize> = (0..self.idle.len()).filter(|&code| self.idle[code] >= after as i64).collect();
        if after == 0 || dead.is_empty() {
            return Ok(0);
        }
        let places = draw(batch.latents.dim(0)?, dead.len(), key);
        let width = batch.latents.dim(1)?;
        let latents = batch.latents.flatten_all()?.to_vec1::<f32>()?;
        let before = codebook.var().as_detached_tensor();
        let mut codes = before.flatten_all()?.to_vec1::<f32>()?;
        for (&code, &place) in dead.iter().zip(&places) {
            codes[code * width..][..width].copy_from_slice(&latents[place * width..][..width]);
            self.idle[code] = 0;
        }
        codebook.var().set(&Tensor::from_vec(codes, before.dims(), before.device())?)?;
        Ok(places.len())
    }

    /// For a checkpoint.
    pub(crate) fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let tensor = |values: &[i64]| Tensor::from_slice(values, values.len(), &Device::Cpu);
        Ok(vec![(COUNTS.to_string(), tensor(&self.counts)?), (IDLE.to_string(), tensor(&self.idle)?)])
    }

    /// Takes up what [`Self::tensors`] gave.
    pub(crate) fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for (name, values) in [(COUNTS, &mut self.counts), (IDLE, &mut self.idle)] {
            let found = tensors.get(name).map(Tensor::to_vec1::<i64>).transpose()?.unwrap_or_default();
            if found.len() != values.len() {
                return Err(Error::input("checkpoint", format!("`{name}` of {} numbers", values.len()), found.len()));
            }
            *values = found;
        }
        Ok(())
    }
}

const COUNTS: &str = "codebook_usage.counts";
const IDLE: &str = "codebook_usage.idle";

/// Whether a tensor of a checkpoint is one of [`Usage::tensors`].
pub(crate) fn owns(name: &str) -> bool {
    name.starts_with("codebook_usage.")
}

/// At most `count` different numbers below `n`.
fn draw(n: usize, count: usize, key: Key) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    let mut rng = key.generator();
    let count = count.min(n);
    for i in 0..count {
        all.swap(i, i + (uniform_f64(&mut rng) * (n - i) as f64) as usize);
    }
    all.truncate(count);
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use strata_nn::params::{Init, ParamStore};

    #[test]
    fn perplexity_counts_codes_in_equal_use() {
        let mut usage = Usage::new(8);
        usage.add(&[1, 3, 3, 1, 5, 7, 5, 7], 2);
        let (share, perplexity) = usage.measure();
        assert!((share - 0.5).abs() < 1e-12 && (perplexity - 4.0).abs() < 1e-9);
        assert_eq!(usage.take(), (share, perplexity));
        assert_eq!(usage.measure().0, 0.0);
    }

    #[test]
    fn unused_codes_move_to_latents_and_used_ones_stay() {
        let store = ParamStore::new(0, &Device::Cpu);
        let codebook = store.root().param("codebook", (4, 2), Init::ZEROS).unwrap();
        let latents = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu).unwrap();
        let batch = Codes { latents, indices: vec![2, 2, 2] };
        let mut usage = Usage::new(4);
        usage.add(&batch.indices, 1);
        assert_eq!(usage.revive(&codebook, &batch, 10, Key::new(0, "revive")).unwrap(), 3);
        let mut rows = codebook.get().to_vec2::<f32>().unwrap();
        assert_eq!(rows.remove(2), [0.0, 0.0]);
        rows.sort_by(|a, b| a[0].total_cmp(&b[0]));
        assert_eq!(rows, [[1., 2.], [3., 4.], [5., 6.]]);
        // They are given time; after that they move again.
        usage.add(&batch.indices, 9);
        assert_eq!(usage.revive(&codebook, &batch, 10, Key::new(0, "revive")).unwrap(), 0);
        usage.add(&batch.indices, 1);
        assert_eq!(usage.revive(&codebook, &batch, 10, Key::new(0, "revive")).unwrap(), 3);
        let mut other = Usage::new(4);
        other.load(&usage.tensors().unwrap().into_iter().collect()).unwrap();
        assert_eq!((other.counts, other.idle), (usage.counts, usage.idle));
    }
}
