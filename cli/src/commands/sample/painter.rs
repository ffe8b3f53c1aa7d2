//! What draws: a model, the autoencoder of its latents if it has one, and perhaps a worse model that guides.

use std::path::Path;

use anyhow::ensure;
use candle_core::Tensor;
use strata_autoencoder::LoadedAutoencoder;
use strata_datasets::RgbImage;
use strata_diffusion::{model::Model, training};
use strata_training::sha256_file;

use crate::{
    commands::train_diffusion::{AUTOENCODER, check_autoencoder},
    context::Context,
    hint::hinted,
};

/// A model, and the autoencoder that turns its latents into pictures.
pub struct Painter {
    /// The diffusion model.
    pub model: Model,
    /// SHA-256 of its weight file.
    pub model_sha256: String,
    /// The autoencoder of its latents; none where its samples are pictures.
    pub autoencoder: Option<LoadedAutoencoder>,
    /// The model of autoguidance with its SHA-256.
    pub worse: Option<(Model, String)>,
    /// Side of the tiles that the autoencoder works by, in pixels; absent: whole.
    pub tile: Option<usize>,
}

impl Painter {
    /// From a run directory or weight file; the autoencoder is the one kept beside it, or the given one.
    ///
    /// # Errors
    /// If one of them cannot be read, or they do not belong together.
    pub fn load(path: &Path, autoencoder: Option<&Path>, worse: Option<&Path>, context: &Context) -> anyhow::Result<Self> {
        Self::of(load_model(path, context)?, path, autoencoder, worse, context)
    }

    /// Of a loaded model with its SHA-256, whose run directory or weight file is at `path`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of(
        (model, model_sha256): (Model, String),
        path: &Path,
        autoencoder: Option<&Path>,
        worse: Option<&Path>,
        context: &Context,
    ) -> anyhow::Result<Self> {
        let latents = &model.config().latents;
        if latents.is_pixels() && autoencoder.is_some() {
            anyhow::bail!("--autoencoder: the samples of {} are pictures, not latents", path.display());
        }
        let autoencoder = match latents.is_pixels() {
            true => None,
            false => Some(load_autoencoder(path, autoencoder, &latents.autoencoder_sha256, context)?),
        };
        let worse = worse.map(|path| load_model(path, context)).transpose()?;
        if let Some((worse, _)) = &worse {
            let theirs = &worse.config().latents;
            ensure!(
                *theirs == model.config().latents,
                "--autoguidance: its latents are others: of autoencoder sha256 {}, scale {:?}, shift {:?}; the model's are of {}",
                theirs.autoencoder_sha256,
                theirs.scale,
                theirs.shift,
                model.config().latents.autoencoder_sha256
            );
        }
        Ok(Self { model, model_sha256, autoencoder, worse, tile: None })
    }

    /// Lets the autoencoder work by tiles of `side` pixels.
    ///
    /// # Errors
    /// If there is no autoencoder.
    pub fn with_tile(mut self, side: Option<usize>) -> anyhow::Result<Self> {
        ensure!(side.is_none() || self.autoencoder.is_some(), "--tile: the samples are pictures already, nothing is decoded");
        self.tile = side;
        Ok(self)
    }

    /// Pictures of samples: [B, C, H, W], scaled as the model was trained.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn pictures(&self, x: &Tensor) -> anyhow::Result<Vec<RgbImage>> {
        let z = self.model.config().latents.undo(x)?;
        match &self.autoencoder {
            Some(autoencoder) => Ok(strata_autoencoder::decode_latents(autoencoder, &z, self.tile)?),
            None => Ok(strata_autoencoder::pictures::from_tensor(&z)?),
        }
    }

    /// Pixels to a number of a sample, along a side.
    pub fn factor(&self) -> usize {
        self.autoencoder.as_ref().map_or(1, |a| a.config.factor())
    }

    /// Side of the pictures.
    pub fn size(&self) -> usize {
        self.model.config().shape[1] * self.factor()
    }
}

/// The autoencoder kept beside a model, or the given one.
fn load_autoencoder(path: &Path, given: Option<&Path>, made_by: &str, context: &Context) -> anyhow::Result<LoadedAutoencoder> {
    let beside = if path.is_dir() { path.join(AUTOENCODER) } else { path.with_file_name(AUTOENCODER) };
    let file = given.map_or(beside, Path::to_path_buf);
    if given.is_none() && !file.is_file() {
        let hint = "name the autoencoder of its latents with --autoencoder";
        return Err(hinted(format!("{}: there is no {AUTOENCODER} beside the model", path.display()), hint));
    }
    let weights = strata_autoencoder::weight_file(&file)?;
    check_autoencoder(&weights, made_by)?;
    Ok(strata_autoencoder::load(&weights, &context.device)?)
}

fn load_model(path: &Path, context: &Context) -> anyhow::Result<(Model, String)> {
    let file = training::weight_file(path)?;
    Ok((Model::load(&file, &context.device)?, sha256_file(&file)?))
}
