//! Pictures of a training on its way: a grid of samples of fixed seeds, and the curves of its loss.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use strata_autoencoder::LoadedAutoencoder;
use strata_diffusion::{
    model::{LatentScaling, ModelConfig},
    training::Observer,
};
use strata_training::run::read_stats;

use super::{demo_report::loss_curves, train_diffusion::AUTOENCODER};
use crate::grid;

/// Writes them into a run directory.
pub struct Pictures {
    run: PathBuf,
    autoencoder: Option<LoadedAutoencoder>,
    latents: LatentScaling,
    stages: usize,
}

impl Pictures {
    /// Of the model that is trained in `run`; its latents are decoded where their autoencoder is kept there.
    ///
    /// # Errors
    /// If the autoencoder cannot be read.
    pub fn new(run: &Path, model: &ModelConfig, device: &Device) -> anyhow::Result<Self> {
        let file = run.join(AUTOENCODER);
        let autoencoder = file.is_file().then(|| strata_autoencoder::load(&file, device)).transpose()?;
        Ok(Self { run: run.to_path_buf(), autoencoder, latents: model.latents.clone(), stages: model.boundaries.len() + 1 })
    }

    fn write(&self, seen_images: u64, samples: Option<&Tensor>) -> anyhow::Result<()> {
        loss_curves(&read_stats(&self.run)?, self.stages).write(&self.run.join("loss.png"))?;
        let Some(samples) = samples else { return Ok(()) };
        let z = self.latents.undo(samples)?;
        let pictures = match &self.autoencoder {
            Some(autoencoder) => strata_autoencoder::decode_latents(autoencoder, &z, None)?,
            None if self.latents.is_pixels() => strata_autoencoder::pictures::from_tensor(&z)?,
            None => return Ok(()),
        };
        let file = self.run.join("samples").join(format!("{seen_images:012}.png"));
        grid::write_grid(&pictures, grid::square(pictures.len()), &file)
    }
}

impl Observer for Pictures {
    fn milestone(&self, seen_images: u64, samples: Option<&Tensor>) -> Result<(), Box<dyn std::error::Error>> {
        Ok(self.write(seen_images, samples)?)
    }
}
