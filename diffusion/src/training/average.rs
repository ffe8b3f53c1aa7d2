//! Which weights of a checkpoint: its average, those that were trained, or an average of another length, put together afterwards.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use candle_core::{Device, Tensor};
use strata_training::{
    EmaSchedule,
    checkpoint::{self, Part},
    power_ema::{Profile, exponent, reconstruct},
    run, sha256_bytes,
};

use super::DiffusionTraining;
use crate::{Error, Result, model::Model};

/// An average of the weights along a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Average {
    /// The one that the run keeps.
    Kept,
    /// None: the weights as they were trained.
    None,
    /// Of this width relative to the images seen (Karras et al. 2024), from the averages of several checkpoints.
    Width(f64),
}

impl FromStr for Average {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.parse()) {
            ("kept", _) => Ok(Self::Kept),
            ("none", _) => Ok(Self::None),
            (_, Ok(width)) => Ok(exponent(width).map(|_| Self::Width(width))?),
            _ => Err(Error::Config(format!("average: expected kept, none or a relative width such as 0.05, got `{text}`"))),
        }
    }
}

impl fmt::Display for Average {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::None => f.write_str("none"),
            Self::Width(width) => write!(f, "{width}"),
        }
    }
}

/// Weights along a training: a checkpoint of a run, and which average.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The run directory.
    pub run: PathBuf,
    /// Folder of the checkpoint.
    pub checkpoint: PathBuf,
    /// Images seen there.
    pub seen_images: u64,
    /// Which of its weights.
    pub average: Average,
}

impl Point {
    /// What identifies the weights: the file's SHA-256; of an average put together, that of its parts and its width.
    ///
    /// # Errors
    /// If the checkpoint has no such part or is damaged; as [`Point::load`].
    pub fn sha256(&self) -> Result<String> {
        match self.average {
            Average::Kept => recorded(&self.checkpoint, Part::Ema),
            Average::None => recorded(&self.checkpoint, Part::Model),
            Average::Width(width) => {
                let parts = self.stored()?;
                let all = parts.iter().map(|(_, folder)| recorded(folder, Part::Ema)).collect::<Result<Vec<_>>>()?;
                Ok(sha256_bytes(format!("{} {width}", all.join(" ")).as_bytes()))
            }
        }
    }

    /// The model with these weights.
    ///
    /// # Errors
    /// If a file is damaged; if the run keeps no averages of which others can be made.
    pub fn load(&self, device: &Device) -> Result<Model> {
        let file = |part: Part| self.checkpoint.join(part.file_name());
        match self.average {
            Average::Kept => Model::load(&file(Part::Ema), device),
            Average::None => Model::load(&file(Part::Model), device),
            Average::Width(width) => {
                let model = Model::load(&file(Part::Ema), device)?;
                model.store().load(&self.put_together(width, device)?, &format!("an average of width {width}"))?;
                Ok(model)
            }
        }
    }

    /// Sum of the stored averages, each with its share.
    fn put_together(&self, width: f64, device: &Device) -> Result<HashMap<String, Tensor>> {
        let (stored, parts) = (self.stored_width()?, self.stored()?);
        let profile = |seen: u64, std: f64| Profile { time: seen as f64, std };
        let profiles: Vec<Profile> = parts.iter().map(|(seen, _)| profile(*seen, stored)).collect();
        let shares = reconstruct(&profiles, &[profile(self.seen_images, width)])?.coefficients;
        let mut sums: HashMap<String, Tensor> = HashMap::new();
        for ((_, folder), share) in parts.iter().zip(shares) {
            for (name, tensor) in checkpoint::read_part(folder, Part::Ema, device)?.tensors {
                let scaled = tensor.affine(share[0], 0.0)?;
                let sum = match sums.get(&name) {
                    Some(sum) => (sum + scaled)?,
                    None => scaled,
                };
                sums.insert(name, sum);
            }
        }
        Ok(sums)
    }

    /// The width of the averages that the run keeps.
    fn stored_width(&self) -> Result<f64> {
        let mut table = run::read_info(&self.run)?.config;
        table.remove("inputs");
        let config: DiffusionTraining = table.try_into().map_err(|e| Error::file(&self.run, format!("its settings: {e}")))?;
        match config.ema {
            EmaSchedule::Power { relative_width } => Ok(relative_width),
            other => Err(Error::file(
                &self.run,
                format!(
                    "averages of other widths are put together from those of `ema = {{ kind = \"power\", ... }}`, this run has {other:?}"
                ),
            )),
        }
    }

    /// The checkpoints up to this one.
    fn stored(&self) -> Result<Vec<(u64, PathBuf)>> {
        self.stored_width()?;
        Ok(run::checkpoints(&self.run).into_iter().filter(|(seen, _)| *seen <= self.seen_images).collect())
    }
}

fn recorded(checkpoint: &Path, part: Part) -> Result<String> {
    checkpoint::recorded_sha256(checkpoint, part)?
        .ok_or_else(|| Error::file(checkpoint.join(part.file_name()), "the checkpoint was saved without it"))
}
