//! What a training run writes down between two lines of its log.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Position;
use crate::model::Model;

/// Noise levels between which losses are averaged: below the first, between two, above the last.
const EDGES: [f64; 13] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// Sums over samples of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sums {
    loss: f64,
    x0_error: f64,
    images: u64,
    /// Those that are in the sums.
    counted: u64,
}

impl Sums {
    /// What is not finite, as in a step that is left out, is not in the sums.
    fn add(&mut self, loss: f32, x0_error: f32) {
        self.images += 1;
        if loss.is_finite() && x0_error.is_finite() {
            self.loss += f64::from(loss);
            self.x0_error += f64::from(x0_error);
            self.counted += 1;
        }
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.counted > 0).then(|| sum / self.counted as f64)
    }
}

/// Sums since the last line. Part of a checkpoint, so that a run that goes on writes the lines that it would have written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    stages: Vec<Sums>,
    sigmas: Vec<Sums>,
    grad_norm: f64,
    steps: u64,
    /// Of the whole run: images of each stage.
    seen: Vec<u64>,
    /// Of the whole run: mean variance of the data's coordinates, as a sum over pairs of samples.
    variance: (f64, u64),
    /// Since the last checkpoint.
    since_checkpoint: (f64, u64),
}

/// A step's outcome, samples in the order of their positions.
pub struct StepOutcome<'a> {
    /// Weighted losses.
    pub losses: &'a [f32],
    /// Squared errors in x0.
    pub x0_errors: &'a [f32],
    /// Noise levels.
    pub sigmas: &'a [f64],
    /// Half the mean squared difference of pairs of samples, summed over so many pairs.
    pub pairs: (f64, u64),
    /// Of all gradients, before clipping.
    pub grad_norm: f64,
}

/// What is known beside the sums when a line is written.
pub struct Facts {
    pub skipped_steps: u64,
    pub lr: f64,
    pub seconds_per_step: f64,
    /// Share of a step outside forward and backward passes.
    pub share_outside: f64,
    pub seconds_left: f64,
    pub images_per_second: f64,
    pub memory_bytes: Option<u64>,
    pub card_memory_bytes: Option<u64>,
    /// Floating-point operations of a sample of each stage, forward and backward.
    pub flops: Vec<f64>,
    /// Of the last step: of what the stages share, and of each decoder.
    pub grad_norms: (f64, Vec<f64>),
    /// The averaged network's loss on what is held out, where it was measured.
    pub held_out: Option<f64>,
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
        Self {
            stages: vec![Sums::default(); stages],
            sigmas: vec![Sums::default(); EDGES.len() + 1],
            seen: vec![0; stages],
            ..Self::default()
        }
    }

    /// Samples of each stage since the last line.
    pub fn images_per_stage(&self) -> Vec<u64> {
        self.stages.iter().map(|s| s.images).collect()
    }

    /// Adds a step.
    pub fn add(&mut self, step: &StepOutcome<'_>, model: &Model) {
        for ((loss, x0_error), sigma) in step.losses.iter().zip(step.x0_errors).zip(step.sigmas) {
            let stage = model.stage(*sigma);
            self.seen[stage] += 1;
            self.stages[stage].add(*loss, *x0_error);
            self.sigmas[EDGES.partition_point(|edge| edge < sigma)].add(*loss, *x0_error);
            if loss.is_finite() {
                self.since_checkpoint.0 += f64::from(*loss);
                self.since_checkpoint.1 += 1;
            }
        }
        self.variance.0 += step.pairs.0;
        self.variance.1 += step.pairs.1;
        if step.grad_norm.is_finite() {
            self.grad_norm += step.grad_norm;
            self.steps += 1;
        }
    }

    /// The mean loss since the last call.
    pub fn take_metric(&mut self) -> Option<f64> {
        let (sum, images) = std::mem::take(&mut self.since_checkpoint);
        (images > 0).then(|| sum / images as f64)
    }

    /// The line for everything since the last one; the sums begin anew.
    pub fn take(&mut self, position: &Position, facts: &Facts) -> Line {
        let counted: u64 = self.stages.iter().map(|s| s.counted).sum();
        let loss = self.stages.iter().map(|s| s.loss).sum::<f64>() / counted as f64;
        let per_stage: Vec<Option<f64>> = self.stages.iter().map(|s| s.mean(s.loss)).collect();
        let flops: f64 = self.seen.iter().zip(&facts.flops).map(|(n, flops)| *n as f64 * flops).sum();
        let mut json = json!({
            "seen_images": position.seen_images,
            "step": position.step,
            "loss": loss,
            "loss_per_stage": per_stage,
            "images_per_stage": self.images_per_stage(),
            "seen_per_stage": self.seen,
            "grad_norm": self.grad_norm / self.steps.max(1) as f64,
            "grad_norm_shared": facts.grad_norms.0,
            "grad_norm_per_stage": facts.grad_norms.1,
            "skipped_steps": facts.skipped_steps,
            "lr": facts.lr,
            "seconds_per_step": facts.seconds_per_step,
            "share_outside_network": facts.share_outside,
            "images_per_second": facts.images_per_second,
            "seconds_left": facts.seconds_left,
            "memory_bytes": facts.memory_bytes,
            "flops": flops,
        });
        if let Value::Object(fields) = &mut json {
            if let Some(loss) = facts.held_out {
                fields.insert("held_out_loss".into(), loss.into());
            }
            if let Some(bytes) = facts.card_memory_bytes {
                fields.insert("card_memory_bytes".into(), bytes.into());
            }
            fields.insert("loss_per_sigma".into(), self.per_sigma(|s| s.mean(s.loss)));
            fields.insert("images_per_sigma".into(), self.per_sigma(|s| Some(s.images as f64)));
            let variance = self.variance.0 / self.variance.1 as f64;
            if variance > 0.0 {
                fields.insert("data_variance".into(), variance.into());
                fields.insert("unexplained_per_sigma".into(), self.per_sigma(|s| Some(s.mean(s.x0_error)? / variance)));
            }
        }
        let kept = Self {
            seen: std::mem::take(&mut self.seen),
            variance: self.variance,
            since_checkpoint: self.since_checkpoint,
            ..Self::new(self.stages.len())
        };
        *self = kept;
        let held_out = facts.held_out.map_or(String::new(), |loss| format!(", held out {loss:.4}"));
        Line { json, message: format!("loss {loss:.4}{held_out}") }
    }

    /// A number of each range of noise levels that occurred, by its name.
    fn per_sigma(&self, f: impl Fn(&Sums) -> Option<f64>) -> Value {
        let name = |i: usize| match i {
            0 => format!("to {}", EDGES[0]),
            i if i == EDGES.len() => format!("from {}", EDGES[i - 1]),
            i => format!("{} to {}", EDGES[i - 1], EDGES[i]),
        };
        let seen = self.sigmas.iter().enumerate().filter(|(_, s)| s.images > 0);
        Value::Object(seen.map(|(i, s)| (name(i), json!(f(s)))).collect::<Map<_, _>>())
    }
}
