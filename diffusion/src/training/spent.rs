//! What a training has computed up to a checkpoint, from the run's own records.

use std::path::Path;

use serde::Serialize;
use strata_training::{checkpoint, run};

use super::checkpoint::State;
use crate::{
    Error, Result,
    model::ModelConfig,
    unet::{Cost, costs},
};

/// Passes through the network that a sample costs in training: one forward, and a backward that is counted as two, one for the
/// gradients of the activations and one for those of the weights.
pub const PASSES: u64 = 3;

/// What a training has computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spent {
    /// Samples seen: steps times the batch.
    pub seen_images: u64,
    /// Steps of the optimizer.
    pub steps: u64,
    /// Samples of each stage, stage 1 first.
    pub images_per_stage: Vec<u64>,
    /// Multiply-accumulates of one forward pass of each of them: encoder and decoder of its stage.
    pub forward_macs: u64,
}

impl Spent {
    /// Up to the checkpoint in `folder` of the run at `path`: the records of its log up to there, and what the checkpoint has
    /// counted since the last of them.
    ///
    /// # Errors
    /// If the log or the checkpoint cannot be read, or together they count other than all samples seen.
    pub fn until(path: &Path, folder: &Path, config: &ModelConfig) -> Result<Self> {
        let state: State = serde_json::from_value(checkpoint::read_state(folder)?)
            .map_err(|e| Error::file(folder, format!("the state of the checkpoint cannot be read: {e}")))?;
        let seen_images = state.position.seen_images;
        let mut images_per_stage = state.record.images_per_stage();
        for record in run::read_stats(path)?.iter().filter(|r| r["seen_images"].as_u64().is_some_and(|seen| seen <= seen_images))
        {
            for (sum, n) in images_per_stage.iter_mut().zip(record["images_per_stage"].as_array().into_iter().flatten()) {
                *sum += n.as_u64().unwrap_or(0);
            }
        }
        let counted: u64 = images_per_stage.iter().sum();
        if counted != seen_images {
            let message = format!("its log counts {counted} of the {seen_images} samples seen at this checkpoint");
            return Err(Error::file(path, message));
        }
        let active: Vec<u64> = costs(&config.unet, config.cost_input())?.active().iter().map(Cost::macs).collect();
        let forward_macs = active.iter().zip(&images_per_stage).map(|(macs, n)| macs * n).sum();
        Ok(Self { seen_images, steps: state.position.step, images_per_stage, forward_macs })
    }

    /// Floating-point operations, two to a multiply-accumulate: forward and backward of every sample. Activations that were computed
    /// anew to save memory are not counted, nor are the optimizer and the autoencoder.
    pub fn flops(&self) -> f64 {
        2.0 * PASSES as f64 * self.forward_macs as f64
    }
}
