//! One step's gradient: over the parts of a batch, and over the processes that share it.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use strata_nn::{backward, ops, random::Key};
use strata_training::{
    Peers,
    gradients::{NormType, total_norm},
};

use super::{Batch, Batches, DiffusionTraining, Objective, Position, parameters::decoder_of};
use crate::{Result, model::Model};

/// What a step computed, the same on every process.
pub(super) struct Gradient {
    pub grads: GradStore,
    /// Of the samples of all processes, in the order of their positions.
    pub losses: Vec<f32>,
    pub x0_errors: Vec<f32>,
    pub sigmas: Vec<f64>,
    /// See [`super::record::StepOutcome`].
    pub pairs: (f64, u64),
    /// Whether a process was asked to stop.
    pub stop: bool,
    /// What forward and backward passes took.
    pub network: Duration,
}

/// Who computes a step's gradient.
pub(super) struct Worker<'a> {
    pub config: &'a DiffusionTraining,
    pub model: &'a Model,
    pub objective: &'a Objective<'a>,
    pub peers: &'a Peers,
    /// What is summed over the processes.
    pub parameters: Vec<Var>,
}

impl Worker<'_> {
    /// The gradient of the mean loss of the step at `position`. `stop`: whether this process is asked to stop.
    pub fn gradient(&self, batches: &mut Batches<'_>, position: Position, stop: bool, device: &Device) -> Result<Gradient> {
        let (all, ranks) = (self.config.batch, self.peers.ranks());
        let own = all / ranks.count;
        let batch = batches.at(position.seen_images, own, device)?;
        let part = if self.config.micro_batch == 0 { own } else { self.config.micro_batch.min(own) };
        let mut grads = GradStore::default();
        // Losses, errors in x0, the pairs' sum and number, whether to stop.
        let mut shared = vec![0.0f32; 2 * all + 3];
        let mut network = Duration::ZERO;
        for first in (0..own).step_by(part) {
            let n = part.min(own - first);
            let rows = if n == own { batch.clone() } else { batch.part(first, n)? };
            // Parts differ in their dropout; which process computes one does not matter to it.
            let key = Key::new(self.config.seed, "dropout").step(position.step).index((first * ranks.count + ranks.rank) as u64);
            let begun = Instant::now();
            let losses = self.objective.losses(self.model, &rows, Some(key))?;
            grads.extend(backward(&losses.objective.sum(0)?.affine(1.0 / all as f64, 0.0)?)?)?;
            let values = losses.weighted.to_vec1::<f32>()?.into_iter().zip(losses.x0_error.to_vec1::<f32>()?);
            network += begun.elapsed();
            for (k, (loss, x0_error)) in values.enumerate() {
                let place = (first + k) * ranks.count + ranks.rank;
                (shared[place], shared[all + place]) = (loss, x0_error);
            }
            self.peers.check()?;
        }
        let (sum, pairs) = pairs(&batch)?;
        (shared[2 * all], shared[2 * all + 1], shared[2 * all + 2]) = (sum, pairs as f32, f32::from(u8::from(stop)));
        self.peers.sum_gradients(&mut grads, &self.parameters, &mut shared)?;
        Ok(Gradient {
            grads,
            network,
            sigmas: batches.sigmas(position.seen_images, all),
            pairs: (f64::from(shared[2 * all]), shared[2 * all + 1].round() as u64),
            stop: shared[2 * all + 2] > 0.0,
            x0_errors: shared[all..2 * all].to_vec(),
            losses: {
                shared.truncate(all);
                shared
            },
        })
    }

    /// Norms of the gradients of what the stages share, and of each decoder.
    pub fn norms(&self, grads: &GradStore) -> Result<(f64, Vec<f64>)> {
        let mut parts: Vec<Vec<Tensor>> = vec![Vec::new(); self.model.stages() + 1];
        for p in self.model.store().trainable() {
            if let Some(g) = grads.get(p.var()) {
                parts[decoder_of(p.name()).map_or(0, |stage| stage + 1)].push(g.contiguous()?);
            }
        }
        let norms = parts.iter().map(|part| Ok(total_norm(part, NormType::L2)?)).collect::<Result<Vec<_>>>()?;
        Ok((norms[0], norms[1..].to_vec()))
    }
}

/// Half the mean squared difference of neighbours in a batch, summed over so many pairs: on average the variance of the data about
/// their mean, which is the error in x0 of a model that always answers the mean.
fn pairs(batch: &Batch) -> Result<(f32, u64)> {
    let n = batch.x0.dim(0)?;
    if n < 2 {
        return Ok((0.0, 0));
    }
    let differences = ops::mse_loss(&batch.x0.narrow(0, 0, n - 1)?.contiguous()?, &batch.x0.narrow(0, 1, n - 1)?.contiguous()?)?;
    Ok((0.5 * differences.sum_all()?.to_scalar::<f32>()?, (n - 1) as u64))
}
