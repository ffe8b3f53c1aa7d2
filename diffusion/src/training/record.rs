//! What a training run writes down between two lines of its log.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Position;
use crate::model::Model;

/// Sums since the last line. Part of a checkpoint, so that a run that goes on writes the lines that it would have written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    loss: Vec<f64>,
    count: Vec<u64>,
    grad_norm: f64,
    steps: u64,
}

/// A line for the log and a few words for the progress bar.
pub struct Line {
    /// For `stats.jsonl`.
    pub json: Value,
    /// For a person.
    pub message: String,
}

impl Record {
    pub fn new(stages: usize) -> Self {
        Self { loss: vec![0.0; stages], count: vec![0; stages], grad_norm: 0.0, steps: 0 }
    }

    /// Samples of each stage since the last line.
    pub fn images_per_stage(&self) -> &[u64] {
        &self.count
    }

    /// Adds a step's losses, one per sample, by the stage of its sigma.
    pub fn add(&mut self, losses: &[f32], sigmas: &[f64], model: &Model, grad_norm: f64) {
        for (loss, sigma) in losses.iter().zip(sigmas) {
            let stage = model.stage(*sigma);
            self.loss[stage] += f64::from(*loss);
            self.count[stage] += 1;
        }
        self.grad_norm += grad_norm;
        self.steps += 1;
    }

    /// The line for everything since the last one; the sums begin anew.
    pub fn take(&mut self, position: &Position, skipped_steps: u64, lr: f64, seconds_per_step: f64) -> Line {
        let mean = |sum: f64, n: u64| (n > 0).then(|| sum / n as f64);
        let (total, images) = (self.loss.iter().sum::<f64>(), self.count.iter().sum::<u64>());
        let loss = mean(total, images).unwrap_or(f64::NAN);
        let per_stage: Vec<Option<f64>> = self.loss.iter().zip(&self.count).map(|(l, n)| mean(*l, *n)).collect();
        let json = json!({
            "seen_images": position.seen_images,
            "step": position.step,
            "loss": loss,
            "loss_per_stage": per_stage,
            "images_per_stage": self.count,
            "grad_norm": self.grad_norm / self.steps.max(1) as f64,
            "skipped_steps": skipped_steps,
            "lr": lr,
            "seconds_per_step": seconds_per_step,
        });
        *self = Self::new(self.loss.len());
        Line { json, message: format!("loss {loss:.4}") }
    }
}
