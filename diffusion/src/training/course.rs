//! A training from its present step to its last.

use candle_core::Tensor;
use strata_nn::memory::card_bytes;
use strata_training::{Optimizer, RunDir, StepOptions, Stopwatch, memory::resident_bytes};

use super::{
    Batches, DiffusionTraining, TrainContext, TrainSummary,
    checkpoint::{Parts, Position, State},
    grid,
    held_out::HeldOut,
    record::{Facts, StepOutcome},
    step::{Gradient, Worker},
};
use crate::{Error, Result, model::Model};

/// A training in this process.
pub(super) struct Course<'a> {
    pub config: &'a DiffusionTraining,
    pub context: &'a TrainContext<'a>,
    pub worker: Worker<'a>,
    pub parts: Parts<'a>,
    /// Of the first process, where the run is kept.
    pub run: Option<&'a mut RunDir>,
    pub state: State,
    pub watch: Stopwatch,
    /// Of the first process, where something is held out.
    pub held_out: Option<HeldOut<'a>>,
    /// See [`super::flops`].
    pub flops: Vec<f64>,
}

impl Course<'_> {
    /// Steps until all images are seen, or it is stopped.
    pub fn complete(mut self, batches: &mut Batches<'_>) -> Result<TrainSummary> {
        let begun_at = self.seen();
        let label = format!("training the {}-stage model", self.worker.model.stages());
        self.context.progress.start(&label, self.config.images, "images");
        let (mut stopped, mut last_rated) = (false, None);
        while self.seen() < self.config.images && !stopped {
            let stop = self.is_asked_to_stop();
            if stop && self.worker.peers.ranks().count == 1 {
                stopped = true;
                break;
            }
            // The last batch is as long as the others: a run's length does not change what came before it.
            let gradient = self.worker.gradient(batches, self.state.position, stop, self.context.device)?;
            stopped = gradient.stop;
            let lr_multiplier = self.step(&gradient)?;
            let rated = self.rate()?;
            let message = self.log(&gradient, lr_multiplier, rated)?;
            drop(gradient);
            self.context.progress.advance(self.seen(), &message);
            self.keep(stopped || self.seen() >= self.config.images, rated)?;
            last_rated = rated;
        }
        let finished = !stopped || self.seen() >= self.config.images;
        self.save_last(begun_at, finished, last_rated)?;
        self.context.progress.finish();
        Ok(TrainSummary {
            seen_images: self.seen(),
            seconds_per_step: self.watch.seconds_per_step(),
            seconds: self.watch.elapsed(),
            skipped_steps: self.parts.optimizer.skipped(),
            finished,
        })
    }

    fn seen(&self) -> u64 {
        self.state.position.seen_images
    }

    /// By a signal, or, on the first process, by its time limit.
    fn is_asked_to_stop(&self) -> bool {
        let limit = 60.0 * self.config.max_minutes;
        let overtime = limit > 0.0 && self.watch.elapsed() > limit && self.worker.peers.is_first();
        self.context.interrupt.is_set() || overtime
    }

    /// Whether the last step passed a multiple of `every` images; 0: never.
    fn passed(&self, every: u64) -> bool {
        every > 0 && self.seen() / every > (self.seen() - self.config.batch as u64) / every
    }

    /// Changes parameters and averages; answers the factor of the learning rate.
    fn step(&mut self, gradient: &Gradient) -> Result<f64> {
        let Position { step, seen_images } = self.state.position;
        let lr_multiplier = self.config.lr_schedule.multiplier(step, seen_images);
        let max_grad_norm = (self.config.max_grad_norm > 0.0).then_some(self.config.max_grad_norm);
        let options = StepOptions { lr_multiplier, max_grad_norm };
        let (parts, images) = (&mut self.parts, self.config.batch as u64);
        let report = if self.run.is_some() {
            let report = parts.optimizer.step_and_average(&gradient.grads, options, parts.ema, images)?;
            parts.tracks.update(images)?;
            report
        } else {
            parts.optimizer.step(&gradient.grads, options)?
        };
        self.state.position.advance(self.config.batch);
        self.watch.network(gradient.network);
        self.watch.step();
        check_skipped(self.config, parts.optimizer, &self.state.position)?;
        let outcome = StepOutcome {
            losses: &gradient.losses,
            x0_errors: &gradient.x0_errors,
            sigmas: &gradient.sigmas,
            pairs: gradient.pairs,
            grad_norm: report.grad_norm,
        };
        self.state.record.add(&outcome, self.worker.model);
        Ok(lr_multiplier)
    }

    /// The averaged network's loss on what is held out, where a checkpoint follows.
    fn rate(&mut self) -> Result<Option<f64>> {
        let due = self.passed(self.config.save_every_images) || self.seen() >= self.config.images;
        if !due || self.held_out.is_none() {
            return Ok(None);
        }
        let averaged = self.averaged()?;
        let Some(held_out) = &mut self.held_out else { return Ok(None) };
        let loss = held_out.loss(&averaged, self.worker.objective, self.context.device)?;
        self.watch.pause();
        Ok(loss)
    }

    /// Writes a line of the log where one is due, and says its essence.
    fn log(&mut self, gradient: &Gradient, lr_multiplier: f64, held_out: Option<f64>) -> Result<String> {
        if !self.passed(self.config.log_every_images) && held_out.is_none() {
            return Ok(String::new());
        }
        let Some(run) = &mut self.run else { return Ok(String::new()) };
        let (seconds, batch) = (self.watch.seconds_per_step(), self.config.batch as f64);
        let left = self.config.images.saturating_sub(self.state.position.seen_images) as f64;
        let facts = Facts {
            skipped_steps: self.parts.optimizer.skipped(),
            lr: self.config.optimizer.lr * lr_multiplier,
            seconds_per_step: seconds,
            share_outside: self.watch.share_outside(),
            seconds_left: left / batch * seconds,
            images_per_second: if seconds > 0.0 { batch / seconds } else { 0.0 },
            memory_bytes: resident_bytes(),
            card_memory_bytes: card_bytes(self.context.device),
            flops: self.flops.clone(),
            grad_norms: self.worker.norms(&gradient.grads)?,
            held_out,
        };
        let line = self.state.record.take(&self.state.position, &facts);
        run.log(line.json)?;
        Ok(line.message)
    }

    /// Averages, checkpoint and pictures, where they are due. `rated`: the loss on what is held out.
    fn keep(&mut self, last: bool, rated: Option<f64>) -> Result<()> {
        let config = self.config;
        let (averages, save, draw) = (
            last || self.passed(config.post_hoc.every_images),
            !last && self.passed(config.save_every_images),
            !last && self.passed(config.grid.every_images),
        );
        if averages && let Some(run) = &self.run {
            self.parts.store_averages(run, self.seen())?;
        }
        if save {
            self.save(rated)?;
            self.watch.pause();
        }
        if draw && self.run.is_some() {
            self.milestone()?;
            self.watch.pause();
        }
        Ok(())
    }

    /// Writes a checkpoint.
    fn save(&mut self, rated: Option<f64>) -> Result<()> {
        let Some(run) = &self.run else { return Ok(()) };
        let mean = self.state.record.take_metric();
        let metric = if self.held_out.is_some() { rated } else { mean };
        self.parts.save(run, &self.state, metric)
    }

    /// The last checkpoint. A run that was complete before stays as it is.
    fn save_last(&mut self, begun_at: u64, finished: bool, rated: Option<f64>) -> Result<()> {
        match &self.run {
            Some(run) if self.seen() > begun_at || run.latest().is_none() => self.save(rated)?,
            _ => return Ok(()),
        }
        if finished { self.milestone() } else { Ok(()) }
    }

    /// Draws with the average and shows it.
    fn milestone(&self) -> Result<()> {
        let (seen, context) = (self.seen(), self.context);
        let Some(observer) = context.observer else { return Ok(()) };
        let shown = match self.draw() {
            Ok(samples) => observer.milestone(seen, samples.as_ref()),
            // Weights that are not good yet, or a request to stop: the next steps deal with it.
            Err(e) => observer.milestone(seen, None).and(Err(e.into())),
        };
        if let Err(e) = shown
            && !context.interrupt.is_set()
        {
            tracing::warn!("no pictures of the training at {seen} images: {e}");
        }
        Ok(())
    }

    /// The model with averaged weights.
    fn averaged(&self) -> Result<Model> {
        let averaged = Model::new(self.worker.model.config(), self.config.seed, self.context.device)?;
        averaged.store().load(&self.parts.ema.tensors().into_iter().collect(), "the average")?;
        averaged.store().freeze();
        Ok(averaged)
    }

    fn draw(&self) -> Result<Option<Tensor>> {
        grid::draw(&self.averaged()?, &self.config.grid, self.context.interrupt)
    }
}

fn check_skipped(config: &DiffusionTraining, optimizer: &Optimizer, position: &Position) -> Result<()> {
    if optimizer.skipped_in_a_row() < config.max_skipped_steps {
        return Ok(());
    }
    Err(Error::NonFinite(format!(
        "in the gradients of {} steps in a row, the last at {} images; the last checkpoint is kept: lower the learning rate or look at the data",
        config.max_skipped_steps, position.seen_images
    )))
}
