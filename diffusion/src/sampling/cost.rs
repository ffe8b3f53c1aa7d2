//! What sampling cost, counted while it runs.

use std::cell::Cell;

use serde::Serialize;

use crate::{
    Result,
    model::Model,
    unet::{Cost, Costs, costs},
};

/// What sampling cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SampleCost {
    /// Evaluations of each stage's decoder, one per sample and call, stage 1 first.
    pub evaluations_per_stage: Vec<u64>,
    /// The same of the worse model of autoguidance; empty without.
    pub worse_evaluations_per_stage: Vec<u64>,
    /// Forward passes of either model, each of a batch; with guidance of twice the samples, where they fit.
    pub passes: u64,
    /// Multiply-accumulates of all of them: each evaluates the shared encoder and one decoder.
    pub macs: u64,
    /// What as many evaluations would have cost with the costliest decoder for every noise level.
    pub single_decoder_macs: u64,
}

/// Evaluations so far.
pub(super) struct Counts {
    pub model: Evaluations,
    pub worse: Evaluations,
}

/// Evaluations of one model.
pub(super) struct Evaluations {
    per_stage: Vec<Cell<u64>>,
    passes: Cell<u64>,
}

impl Evaluations {
    fn none(stages: usize) -> Self {
        Self { per_stage: vec![Cell::new(0); stages], passes: Cell::new(0) }
    }

    /// One forward pass of `rows` samples.
    pub fn add(&self, stage: usize, rows: usize) {
        let count = &self.per_stage[stage];
        count.set(count.get() + rows as u64);
        self.passes.set(self.passes.get() + 1);
    }
}

impl Counts {
    pub fn new(model: &Model, worse: Option<&Model>) -> Self {
        Self { model: Evaluations::none(model.stages()), worse: Evaluations::none(worse.map_or(0, Model::stages)) }
    }

    pub fn cost(self, model: &Model, worse: Option<&Model>) -> Result<SampleCost> {
        let passes = self.model.passes.get() + self.worse.passes.get();
        let counts = |of: Evaluations| of.per_stage.into_iter().map(Cell::into_inner).collect();
        let mut cost = SampleCost {
            passes,
            evaluations_per_stage: counts(self.model),
            worse_evaluations_per_stage: counts(self.worse),
            ..SampleCost::default()
        };
        let all = [(Some(model), &cost.evaluations_per_stage), (worse, &cost.worse_evaluations_per_stage)];
        let (mut macs, mut single) = (0, 0);
        for (model, evaluations) in all.into_iter().filter_map(|(model, counts)| model.map(|m| (m, counts))) {
            let active: Vec<u64> = network_costs(model)?.active().iter().map(Cost::macs).collect();
            macs += active.iter().zip(evaluations).map(|(macs, n)| macs * n).sum::<u64>();
            single += active.iter().max().unwrap_or(&0) * evaluations.iter().sum::<u64>();
        }
        (cost.macs, cost.single_decoder_macs) = (macs, single);
        Ok(cost)
    }
}

/// The costs of the model's network for one sample of its size.
pub(super) fn network_costs(model: &Model) -> Result<Costs> {
    costs(&model.config().unet, model.config().cost_input())
}
