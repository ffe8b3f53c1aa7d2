//! Models that are compared: runs at their checkpoints with their averages, and weight files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use strata_diffusion::{
    model::{Model, ModelConfig},
    training::{self, Average, Point, Spent},
};
use strata_nn::checkpoint::Checkpoint;
use strata_training::{checkpoint::Part, run, sha256_file};

use crate::{args, commands::sample::Painter, context::Context};

/// One of the models.
pub struct Subject {
    /// As it was typed.
    pub name: PathBuf,
    /// SHA-256 of its weights.
    pub sha256: String,
    weights: Weights,
}

enum Weights {
    /// Of a run.
    Point(Point),
    /// By themselves.
    File(PathBuf),
}

impl Subject {
    /// Every run at every checkpoint that is asked for, with every average; a weight file stands for itself.
    ///
    /// # Errors
    /// If a run has no such checkpoint or no checkpoint at all; as the library's.
    pub fn all(runs: &[PathBuf], checkpoints: &[String], averages: &[Average]) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::new();
        for name in runs {
            if !name.join("run.toml").is_file() {
                let file = training::weight_file(name)?;
                ensure!(file.is_file(), "{}: expected a run directory or a weight file", name.display());
                all.push(Self { name: name.clone(), sha256: sha256_file(&file)?, weights: Weights::File(file) });
                continue;
            }
            for (seen_images, checkpoint) in chosen(name, checkpoints)? {
                for &average in averages {
                    let point = Point { run: name.clone(), checkpoint: checkpoint.clone(), seen_images, average };
                    all.push(Self { name: name.clone(), sha256: point.sha256()?, weights: Weights::Point(point) });
                }
            }
        }
        Ok(all)
    }

    /// Images seen, where that is known.
    pub fn seen_images(&self) -> Option<u64> {
        match &self.weights {
            Weights::Point(point) => Some(point.seen_images),
            Weights::File(_) => None,
        }
    }

    /// Which average of the weights, where that is known.
    pub fn average(&self) -> String {
        match &self.weights {
            Weights::Point(point) => point.average.to_string(),
            Weights::File(_) => String::new(),
        }
    }

    /// What the training has computed up to here; none for a weight file.
    ///
    /// # Errors
    /// If the run's records do not say.
    pub fn spent(&self) -> anyhow::Result<Option<Spent>> {
        let Weights::Point(point) = &self.weights else { return Ok(None) };
        let config = config_of(&point.checkpoint.join(Part::Ema.file_name()))?;
        Ok(Some(Spent::until(&point.run, &point.checkpoint, &config)?))
    }

    /// Loads it.
    ///
    /// # Errors
    /// As the library's.
    pub fn load(&self, told: &args::Told, context: &Context) -> anyhow::Result<Painter> {
        let model = match &self.weights {
            Weights::Point(point) => point.load(&context.device)?,
            Weights::File(file) => Model::load(file, &context.device)?,
        };
        Painter::of((model, self.sha256.clone()), &self.name, None, told.autoguidance.as_deref(), context)
    }

    /// For the answer.
    pub fn describe(&self) -> Value {
        json!({ "run": self.name, "seen_images": self.seen_images(), "ema": self.average(), "model_sha256": self.sha256 })
    }
}

/// The checkpoints of a run that are asked for, oldest first.
fn chosen(name: &Path, checkpoints: &[String]) -> anyhow::Result<Vec<(u64, PathBuf)>> {
    let there = run::checkpoints(name);
    let Some(last) = there.last().map(|c| c.0) else { bail!("{}: has no checkpoint yet", name.display()) };
    let mut wanted = Vec::new();
    for which in checkpoints {
        match (which.as_str(), which.parse::<u64>()) {
            ("all", _) => wanted.extend(there.iter().map(|c| c.0)),
            ("last", _) => wanted.push(last),
            (_, Ok(seen)) => wanted.push(seen),
            _ => bail!("--checkpoint: expected last, all or a number of images seen, got `{which}`"),
        }
    }
    for seen in &wanted {
        let list = || there.iter().map(|c| c.0.to_string()).collect::<Vec<_>>().join(", ");
        ensure!(there.iter().any(|c| c.0 == *seen), "{}: has no checkpoint at {seen} images; it has {}", name.display(), list());
    }
    Ok(there.into_iter().filter(|(seen, _)| wanted.contains(seen)).collect())
}

/// What a weight file of ours was built from.
fn config_of(file: &Path) -> anyhow::Result<ModelConfig> {
    let open = Checkpoint::open(file)?;
    let config = open.metadata().get("__metadata__.config").and_then(Value::as_str);
    let config = config.with_context(|| format!("{}: its metadata have no `config`", file.display()))?;
    serde_json::from_str(config).with_context(|| format!("{}: `config`", file.display()))
}
