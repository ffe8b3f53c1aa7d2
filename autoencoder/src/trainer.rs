//! One training step of an autoencoder, and what a checkpoint holds.

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use serde::{Deserialize, Serialize};
use strata_nn::{backward, params::ParamStore, random::Key};
use strata_training::{CheckpointParts, Ema, LrSchedule, Optimizer, RunDir, StepOptions, ema::EmaCounters, optimizer::Group};

use crate::{
    Autoencoder, AutoencoderTraining, Error, Result,
    adversary::Adversary,
    codebook::{self, Usage},
    meter::Meter,
    objective::{Coded, Codes, Likelihood, code},
    pictures::to_tensor,
    store,
};

/// Steps in a row with gradients that are not finite, after which training gives up.
const MAX_SKIPPED: u64 = 20;
/// Where the loss's own parameters and moments begin in a checkpoint.
const LOSS: &str = "loss.";

/// An autoencoder in training.
pub(crate) struct Trainer<'a> {
    config: &'a AutoencoderTraining,
    device: &'a Device,
    store: ParamStore,
    model: Autoencoder,
    /// Of the loss itself: the learned log-variance.
    loss_store: ParamStore,
    likelihood: Likelihood,
    adversary: Option<Adversary>,
    usage: Option<Usage>,
    optimizer: Optimizer,
    schedule: LrSchedule,
    ema: Ema,
    steps: u64,
    pub(crate) seen_images: u64,
    pub(crate) meter: Meter,
}

/// What is not a tensor in a checkpoint.
#[derive(Serialize, Deserialize)]
struct State {
    steps: u64,
    seen_images: u64,
    ema: EmaCounters,
    meter: Meter,
}

/// What the parts of a batch add up to.
#[derive(Default)]
struct Parts {
    gradients: GradStore,
    /// By name: values times the part's share.
    values: Vec<(&'static str, f64)>,
    codes: Vec<Codes>,
}

impl<'a> Trainer<'a> {
    /// A training at its beginning.
    pub(crate) fn new(config: &'a AutoencoderTraining, device: &'a Device) -> Result<Self> {
        let (store, loss_store) = (ParamStore::new(config.seed, device), ParamStore::new(config.seed, device));
        let mut model = Autoencoder::new(&config.network(), &store.root())?;
        model.checkpoint_activations(config.checkpoint_activations);
        let likelihood = Likelihood::new(config, &loss_store)?;
        let usage = matches!(model, Autoencoder::Vq(_)).then(|| Usage::new(config.codebook.codes));
        Ok(Self {
            config,
            device,
            model,
            likelihood,
            usage,
            adversary: Adversary::new(config, device)?,
            optimizer: optimizer(config, &store, &loss_store)?,
            schedule: config.lr_schedule(),
            ema: Ema::new(&store, config.ema())?,
            steps: 0,
            seen_images: 0,
            meter: Meter::default(),
            store,
            loss_store,
        })
    }

    /// Goes on from a checkpoint.
    pub(crate) fn load(&mut self, parts: &CheckpointParts) -> Result<()> {
        let state: State = serde_json::from_value(parts.state.clone())
            .map_err(|e| Error::input("state.json", "the state of an autoencoder's training", e.to_string()))?;
        self.store.load(&parts.model_map(), "the checkpoint")?;
        self.ema.load(&parts.ema_map(), state.ema)?;
        let mut rest = parts.optimizer_map();
        let mut those = |wanted: &dyn Fn(&str) -> bool| -> HashMap<String, Tensor> {
            let names: Vec<String> = rest.keys().filter(|name| wanted(name)).cloned().collect();
            names.into_iter().filter_map(|name| rest.remove_entry(&name)).collect()
        };
        let (adversary, usage) = (those(&Adversary::owns), those(&codebook::owns));
        let loss = those(&|name: &str| self.loss_store.parameters().iter().any(|p| name == format!("{LOSS}{}", p.name())));
        self.optimizer.load(&rest)?;
        let unprefixed = loss.into_iter().map(|(name, t)| (name[LOSS.len()..].to_string(), t)).collect();
        self.loss_store.load(&unprefixed, "the checkpoint's loss")?;
        if let Some(ours) = &mut self.adversary {
            ours.load(&adversary)?;
        }
        if let Some(ours) = &mut self.usage {
            ours.load(&usage)?;
        }
        (self.steps, self.seen_images, self.meter) = (state.steps, state.seen_images, state.meter);
        Ok(())
    }

    /// Writes a checkpoint. The optimizer's file also holds the discriminator with its optimizer, the loss's own parameters and the
    /// use of the codebook: what only training needs.
    pub(crate) fn save(&self, run: &RunDir) -> Result<()> {
        let meter = self.meter.clone();
        let state = State { steps: self.steps, seen_images: self.seen_images, ema: self.ema.counters(), meter };
        let mut optimizer = self.optimizer.tensors()?;
        optimizer.extend(self.loss_store.tensors().into_iter().map(|(name, t)| (format!("{LOSS}{name}"), t)));
        if let Some(adversary) = &self.adversary {
            optimizer.extend(adversary.tensors()?);
        }
        if let Some(usage) = &self.usage {
            optimizer.extend(usage.tensors()?);
        }
        let parts = CheckpointParts {
            model: self.store.tensors(),
            ema: self.ema.tensors(),
            optimizer,
            state: serde_json::to_value(state).map_err(|e| Error::file(run.path(), e))?,
            metadata: store::metadata(&self.config.network(), self.config.size)?,
            metric: None,
        };
        run.save(self.seen_images, &parts)?;
        Ok(())
    }

    /// The network with the averaged weights, frozen.
    pub(crate) fn averaged(&self) -> Result<Autoencoder> {
        store::frozen(&self.config.network(), &self.ema.tensors(), self.device)
    }

    /// One step on a batch, packed 8-bit RGB.
    pub(crate) fn step(&mut self, pixels: &[u8]) -> Result<()> {
        let n = self.config.batch;
        let part = if self.config.micro_batch == 0 { n } else { self.config.micro_batch.min(n) };
        let bytes = self.config.size * self.config.size * 3;
        let mut parts = Parts::default();
        for first in (0..n).step_by(part) {
            let count = part.min(n - first);
            let x = to_tensor(&pixels[first * bytes..(first + count) * bytes], count, self.config.size, self.device)?;
            self.add_part(&x, self.seen_images + first as u64, count as f64 / n as f64, &mut parts)?;
        }
        self.update(&parts)
    }

    /// Forward and backward for a part of a batch; `share`: of the batch.
    fn add_part(&mut self, x: &Tensor, first: u64, share: f64, parts: &mut Parts) -> Result<()> {
        let Coded { latent, penalty, terms, codes } = code(&self.model, self.config, x, first)?;
        let features = self.model.features(&latent)?;
        let y = self.model.finish(&features)?;
        // The reconstruction as a leaf: each loss is differentiated down to it, their sum through the network once.
        let leaf = Var::from_tensor(&y.detach())?;
        let nll = self.likelihood.nll(x, leaf.as_tensor())?;
        let mut gradients = backward(&nll.total)?;
        let mut slope = remove(&mut gradients, &leaf)?;
        let mut report = |name, value: &Tensor| -> Result<()> {
            parts.values.push((name, share * f64::from(value.to_scalar::<f32>()?)));
            Ok(())
        };
        report("rec", &nll.pixels)?;
        if let Some(looks) = &nll.looks {
            report("perceptual", looks)?;
        }
        for (name, term) in &terms {
            report(name, term)?;
        }
        let loss = penalty.as_ref().map_or(Ok(nll.total.clone()), |penalty| &nll.total + penalty)?;
        report("loss", &loss)?;
        if let Some(adversary) = self.adversary.as_mut().filter(|a| a.is_active(self.seen_images)) {
            let g = adversary.generator_loss(leaf.as_tensor())?;
            let adversarial_slope = remove(&mut backward(&g)?, &leaf)?;
            let at_last_layer = |slope: &Tensor| last_layer_gradient(&self.model, &features, slope);
            let weight = adversary.weight.adaptive(&at_last_layer(&slope)?, &at_last_layer(&adversarial_slope)?)?;
            slope = (slope + (adversarial_slope * weight)?)?;
            let judgement = adversary.judge(x, leaf.as_detached_tensor().as_ref(), share)?;
            report("generator", &g)?;
            report("discriminator", &judgement.loss)?;
            report("logits_real", &judgement.real)?;
            report("logits_fake", &judgement.fake)?;
            parts.values.push(("adversarial_weight", share * weight));
        }
        // This sum has the slope as its gradient at the reconstruction.
        let mut total = (&y * slope.detach())?.sum_all()?;
        if let Some(penalty) = penalty {
            total = (total + penalty)?;
        }
        parts.gradients.extend(backward(&(total * share)?)?)?;
        if let Some(logvar) = &self.likelihood.logvar {
            let gradient = (remove(&mut gradients, logvar.var())? * share)?;
            let sum = parts.gradients.remove(logvar.var()).map_or(Ok(gradient.clone()), |sum| sum + gradient)?;
            parts.gradients.insert(logvar.var(), sum);
        }
        parts.codes.extend(codes);
        Ok(())
    }

    /// Steps along the gradients of all parts.
    fn update(&mut self, parts: &Parts) -> Result<()> {
        let lr_multiplier = self.schedule.multiplier(self.steps, self.seen_images);
        let max_grad_norm = Some(self.config.max_grad_norm).filter(|max| *max > 0.0);
        let options = StepOptions { lr_multiplier, max_grad_norm };
        let batch = self.config.batch as u64;
        // Codes are revived between the step and their average.
        let report = match self.usage {
            Some(_) => self.optimizer.step(&parts.gradients, options)?,
            None => self.optimizer.step_and_average(&parts.gradients, options, &mut self.ema, batch)?,
        };
        if self.optimizer.skipped_in_a_row() >= MAX_SKIPPED {
            let got = format!("{MAX_SKIPPED} steps in a row without, at {} images; lower `lr`", self.seen_images);
            return Err(Error::input("gradients", "finite numbers", got));
        }
        if let Some(adversary) = self.adversary.as_mut().filter(|a| a.is_active(self.seen_images)) {
            adversary.step(options)?;
        }
        if self.usage.is_some() {
            self.look_after_codebook(&parts.codes)?;
            self.ema.update(batch)?;
        }
        self.record(&parts.values, report.grad_norm);
        self.steps += 1;
        self.seen_images += self.config.batch as u64;
        Ok(())
    }

    fn look_after_codebook(&mut self, parts: &[Codes]) -> Result<()> {
        let (Some(usage), Autoencoder::Vq(model)) = (&mut self.usage, &self.model) else { return Ok(()) };
        let indices: Vec<u32> = parts.iter().flat_map(|part| part.indices.iter().copied()).collect();
        usage.add(&indices, self.config.batch as u64);
        let latents = Tensor::cat(&parts.iter().map(|part| part.latents.clone()).collect::<Vec<_>>(), 0)?;
        let key = Key::new(self.config.seed, "revive").step(self.steps);
        let moved = usage.revive(model.codebook(), &Codes { latents, indices }, self.config.codebook.revive_after_images, key)?;
        self.meter.add("codes_revived", moved as f64);
        Ok(())
    }

    fn record(&mut self, values: &[(&'static str, f64)], grad_norm: f64) {
        let mut sums: Vec<(&'static str, f64)> = Vec::new();
        for &(name, value) in values {
            match sums.iter_mut().find(|(n, _)| *n == name) {
                Some((_, sum)) => *sum += value,
                None => sums.push((name, value)),
            }
        }
        for (name, value) in sums {
            self.meter.add(name, value);
        }
        self.meter.add("grad_norm", grad_norm);
        if let Some(logvar) = &self.likelihood.logvar {
            let value = logvar.var().as_detached_tensor().to_scalar::<f32>().unwrap_or(f32::NAN);
            self.meter.add("logvar", f64::from(value));
        }
    }

    /// The record for the log since the last one.
    pub(crate) fn take_record(&mut self) -> serde_json::Map<String, serde_json::Value> {
        let mut record = self.meter.take();
        if let Some(usage) = &mut self.usage {
            let (share, perplexity) = usage.take();
            record.insert("codebook_used".into(), share.into());
            record.insert("codebook_perplexity".into(), perplexity.into());
        }
        record.insert("seen_images".into(), self.seen_images.into());
        let before = self.seen_images.saturating_sub(self.config.batch as u64);
        let lr = self.config.lr * self.schedule.multiplier(self.steps.saturating_sub(1), before);
        record.insert("lr".into(), lr.into());
        record
    }
}

/// The optimizer of the network and of the loss's own parameters, which do not decay.
fn optimizer(config: &AutoencoderTraining, store: &ParamStore, loss: &ParamStore) -> Result<Optimizer> {
    let group = |store: &ParamStore, weight_decay: f64| Group {
        parameters: store.trainable().iter().map(|p| (p.name().to_string(), p.var().clone())).collect(),
        lr: config.lr,
        weight_decay,
    };
    let groups = vec![group(store, config.weight_decay), group(loss, 0.0)];
    Ok(Optimizer::with_groups(groups, config.optimizer())?)
}

/// The gradient of the decoder's last weight when that of the reconstruction is `slope`.
fn last_layer_gradient(model: &Autoencoder, features: &Tensor, slope: &Tensor) -> Result<Tensor> {
    let y = model.finish(&features.detach())?;
    let mut gradients = backward(&(y * slope.detach())?.sum_all()?)?;
    remove(&mut gradients, model.last_layer().var())
}

fn remove(gradients: &mut GradStore, of: &Var) -> Result<Tensor> {
    gradients.remove(of).ok_or_else(|| Error::input("loss", "one that depends on the reconstruction", of.dims()))
}
