//! What a training keeps in its checkpoints, and goes on from.

use std::collections::HashMap;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use strata_training::{
    CheckpointParts, Ema, Optimizer, Peers, RunDir,
    ema::EmaCounters,
    post_hoc::{FOLDER, Tracks},
};

use super::{Objective, Record};
use crate::{Error, Result, model::Model};

/// Where the loss's own parameters begin in the optimizer's file.
const LOSS: &str = "loss.";

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub seen_images: u64,
    pub step: u64,
}

impl Position {
    pub fn advance(&mut self, batch: usize) {
        self.seen_images += batch as u64;
        self.step += 1;
    }

    fn counters(self) -> EmaCounters {
        EmaCounters { updates: self.step, seen_images: self.seen_images }
    }
}

/// What a checkpoint holds beside tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    pub position: Position,
    pub record: Record,
}

/// What changes in a training.
pub(super) struct Parts<'a> {
    pub model: &'a Model,
    pub objective: &'a Objective<'a>,
    pub optimizer: &'a mut Optimizer,
    pub ema: &'a mut Ema,
    pub tracks: &'a mut Tracks,
}

impl Parts<'_> {
    /// Takes up a checkpoint.
    pub fn restore(&mut self, parts: &CheckpointParts) -> Result<State> {
        let state: State = serde_json::from_value(parts.state.clone())
            .map_err(|e| Error::Config(format!("the state of the checkpoint cannot be read: {e}")))?;
        self.model.store().load(&parts.model_map(), "the checkpoint's model.safetensors")?;
        let counters = state.position.counters();
        self.ema.load(&parts.ema_map(), counters)?;
        let mut rest = parts.optimizer_map();
        self.tracks.load(&mut rest, counters)?;
        self.load_loss(&mut rest)?;
        self.optimizer.load(&rest)?;
        Ok(state)
    }

    fn load_loss(&self, tensors: &mut HashMap<String, Tensor>) -> Result<()> {
        let own = self.objective.store().parameters();
        let take = |name: &str| Some((name.to_string(), tensors.remove(&format!("{LOSS}{name}"))?));
        let loss: HashMap<String, Tensor> = own.iter().map(strata_nn::params::Parameter::name).filter_map(take).collect();
        Ok(self.objective.store().load(&loss, "the loss in the checkpoint's optimizer.safetensors")?)
    }

    /// The optimizer's state and the loss's parameters.
    fn optimizer_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = self.optimizer.tensors()?;
        tensors.extend(self.objective.store().tensors().into_iter().map(|(name, t)| (format!("{LOSS}{name}"), t)));
        Ok(tensors)
    }

    /// Writes a checkpoint, rated by `metric`.
    pub fn save(&self, run: &RunDir, state: &State, metric: Option<f64>) -> Result<()> {
        let mut optimizer = self.optimizer_tensors()?;
        optimizer.extend(self.tracks.tensors());
        let parts = CheckpointParts {
            model: self.model.store().tensors(),
            ema: self.ema.tensors(),
            optimizer,
            state: serde_json::to_value(state).map_err(|e| Error::Config(e.to_string()))?,
            metric,
            metadata: self.model.metadata()?,
        };
        run.save(state.position.seen_images, &parts)?;
        Ok(())
    }

    /// Stores the averages for later.
    pub fn store_averages(&self, run: &RunDir, seen_images: u64) -> Result<()> {
        let stored = self.tracks.store(run.path(), seen_images, &self.model.metadata()?);
        Ok(stored.map_err(|e| run.failed(run.path().join(FOLDER), &e))?)
    }

    /// Gives every process what rank 0 begins with. Averages are rank 0's own business.
    pub fn share(&mut self, peers: &Peers, state: State) -> Result<State> {
        let text = serde_json::to_vec(&state).map_err(|e| Error::Config(e.to_string()))?;
        let told = peers.broadcast(text)?;
        let model = peers.broadcast_tensors(self.model.store().tensors())?;
        let mut optimizer: HashMap<_, _> = peers.broadcast_tensors(self.optimizer_tensors()?)?.into_iter().collect();
        if peers.is_first() {
            return Ok(state);
        }
        self.model.store().load(&model.into_iter().collect(), "rank 0's model")?;
        self.load_loss(&mut optimizer)?;
        self.optimizer.load(&optimizer)?;
        serde_json::from_slice(&told).map_err(|e| Error::Config(format!("rank 0's state cannot be read: {e}")))
    }
}
