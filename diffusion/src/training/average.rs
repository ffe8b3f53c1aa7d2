//! Which weights of a checkpoint: its average, those that were trained, or an average of another length, put together afterwards.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use candle_core::Device;
use strata_training::{
    checkpoint::{self, Part},
    post_hoc,
    power_ema::exponent,
    sha256_bytes, sha256_file,
};

use crate::{Error, Result, model::Model};

/// An average of the weights along a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Average {
    /// The one that the run keeps.
    Kept,
    /// None: the weights as they were trained.
    None,
    /// Of this width relative to the images seen (Karras et al. 2024), from the averages that the run has stored.
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
                let parts = post_hoc::files(&self.run, Some(self.seen_images))?;
                let all = parts.iter().map(sha256_file).collect::<strata_training::Result<Vec<_>>>()?;
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
                let average = post_hoc::average(&self.run, width, Some(self.seen_images))?;
                model.store().load(&average.tensors.into_iter().collect(), &format!("an average of width {width}"))?;
                Ok(model)
            }
        }
    }
}

fn recorded(checkpoint: &Path, part: Part) -> Result<String> {
    checkpoint::recorded_sha256(checkpoint, part)?
        .ok_or_else(|| Error::file(checkpoint.join(part.file_name()), "the checkpoint was saved without it"))
}
