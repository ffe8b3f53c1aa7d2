//! The discriminator in training: its judgement for the autoencoder, and its own steps.

use std::collections::HashMap;

use candle_core::{Device, Tensor, backprop::GradStore};
use strata_nn::{backward, params::ParamStore};
use strata_training::{Optimizer, StepOptions};

use crate::{
    AutoencoderTraining, Result,
    adversarial::{AdversarialWeight, GanLoss, PatchDiscriminator, Statistics, generator_loss},
};

/// A discriminator with its optimizer.
pub(crate) struct Adversary {
    network: PatchDiscriminator,
    store: ParamStore,
    optimizer: Optimizer,
    loss: GanLoss,
    pub(crate) weight: AdversarialWeight,
    start_images: u64,
    gradients: GradStore,
}

/// Scalars of one part of a batch.
pub(crate) struct Judgement {
    pub(crate) loss: Tensor,
    pub(crate) real: Tensor,
    pub(crate) fake: Tensor,
}

impl Adversary {
    /// As the settings ask; `None`: without.
    pub(crate) fn new(config: &AutoencoderTraining, device: &Device) -> Result<Option<Self>> {
        let adversarial = &config.adversarial;
        if adversarial.weight == 0.0 {
            return Ok(None);
        }
        let store = ParamStore::new(config.seed, device);
        let network = PatchDiscriminator::new(&adversarial.discriminator, &store.root().pp("discriminator"))?;
        Ok(Some(Self {
            network,
            optimizer: Optimizer::new(store.trainable(), config.discriminator_optimizer())?,
            loss: adversarial.loss,
            weight: adversarial.adaptive(),
            start_images: adversarial.start_images,
            gradients: GradStore::default(),
            store,
        }))
    }

    /// Whether it takes part when so many images were seen.
    pub(crate) fn is_active(&self, seen_images: u64) -> bool {
        seen_images >= self.start_images
    }

    /// What the autoencoder is to lower for it: minus the mean of the logits of y, a scalar. y: `[B, 3, H, W]`.
    pub(crate) fn generator_loss(&self, y: &Tensor) -> Result<Tensor> {
        // Its own parameters are constants here.
        self.store.freeze();
        let loss = self.network.forward(y, Statistics::Batch).and_then(|logits| generator_loss(&logits));
        self.store.set_trainable(is_trained);
        loss
    }

    /// Adds the gradients of its own loss on pictures x and reconstructions y, without a graph behind them, which are `share` of
    /// the step's.
    pub(crate) fn judge(&mut self, x: &Tensor, y: &Tensor, share: f64) -> Result<Judgement> {
        let real = self.network.forward(x, Statistics::Batch)?;
        let fake = self.network.forward(y, Statistics::Batch)?;
        let loss = self.loss.discriminator(&real, &fake)?;
        self.gradients.extend(backward(&(&loss * share)?)?)?;
        Ok(Judgement { loss, real: real.mean_all()?, fake: fake.mean_all()? })
    }

    /// A step along the gradients that were added since the last.
    pub(crate) fn step(&mut self, options: StepOptions) -> Result<()> {
        self.optimizer.step(&std::mem::take(&mut self.gradients), options)?;
        Ok(())
    }

    /// Parameters, running statistics and the optimizer's state, for a checkpoint.
    pub(crate) fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let of_optimizer = self.optimizer.tensors()?.into_iter().map(|(name, t)| (format!("{OPTIMIZER}{name}"), t));
        Ok(self.store.tensors().into_iter().chain(of_optimizer).collect())
    }

    /// Takes up what [`Self::tensors`] gave.
    pub(crate) fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let (of_optimizer, own): (HashMap<_, _>, HashMap<_, _>) =
            tensors.iter().map(|(name, t)| (name.clone(), t.clone())).partition(|(name, _)| name.starts_with(OPTIMIZER));
        self.store.load(&own, "the discriminator's checkpoint")?;
        let named = |(name, t): (String, Tensor)| (name[OPTIMIZER.len()..].to_string(), t);
        Ok(self.optimizer.load(&of_optimizer.into_iter().map(named).collect())?)
    }

    /// Whether a tensor of a checkpoint is one of [`Self::tensors`].
    pub(crate) fn owns(name: &str) -> bool {
        name.starts_with("discriminator")
    }
}

/// Where the optimizer's state begins in a checkpoint.
const OPTIMIZER: &str = "discriminator_optimizer.";

fn is_trained(name: &str) -> bool {
    !name.contains("running_")
}
