//! `--init-image`, `--strength`, `--mask`: pictures as latents, and what of their pixels stays.

use std::path::Path;

use anyhow::{Context as _, ensure};
use candle_core::Tensor;
use strata_autoencoder::pictures::to_tensor;
use strata_datasets::{Decode, Resampling, RgbImage, Transform, resize::Filter};
use strata_diffusion::sampling;
use strata_training::sha256_file;

use super::Painter;
use crate::args;

/// Without a mask, how much is drawn anew.
const DEFAULT_STRENGTH: f64 = 0.6;

/// What sampling begins with.
pub struct Beginning {
    /// The latent, strength and mask.
    pub start: sampling::Start,
    /// The picture at the model's size, and for each pixel whether it stays.
    kept: Option<(RgbImage, Vec<bool>)>,
    /// SHA-256 of the picture's and of the mask's file.
    pub sha256: (String, Option<String>),
}

impl Beginning {
    /// # Errors
    /// If a file is no picture, or the mask keeps all or nothing.
    pub fn load(args: &args::Start, painter: &Painter) -> anyhow::Result<Option<Self>> {
        let Some(file) = &args.init_image else { return Ok(None) };
        let transform = Transform::new(painter.size());
        let image = read(file, &transform)?;
        let x0 = encode(painter, &image)?;
        let kept = args.mask.as_deref().map(|file| kept_pixels(file, &transform)).transpose()?;
        let mask = kept.as_ref().map(|kept| latent_mask(kept, painter)).transpose()?;
        let default = if kept.is_some() { 1.0 } else { DEFAULT_STRENGTH };
        let start = sampling::Start { x0, strength: args.strength.unwrap_or(default), mask };
        let sha256 = (sha256_file(file)?, args.mask.as_deref().map(sha256_file).transpose()?);
        Ok(Some(Self { start, kept: kept.map(|kept| (image, kept)), sha256 }))
    }

    /// Puts the pixels that stay over a drawn picture.
    pub fn restore(&self, drawn: &mut RgbImage) {
        let Some((image, kept)) = &self.kept else { return };
        let pixels = drawn.pixels.chunks_exact_mut(3).zip(image.pixels.chunks_exact(3));
        for ((to, from), _) in pixels.zip(kept).filter(|(_, kept)| **kept) {
            to.copy_from_slice(from);
        }
    }
}

fn read(file: &Path, transform: &Transform) -> anyhow::Result<RgbImage> {
    let context = || file.display().to_string();
    let bytes = std::fs::read(file).with_context(context)?;
    let image = Decode::default().rgb(&bytes).map_err(anyhow::Error::msg).with_context(context)?;
    transform.apply(&image).with_context(context)
}

/// The sample [C, H, W] of a picture: itself, or its scaled latent: the mode of the posterior, or what comes before the codebook.
fn encode(painter: &Painter, image: &RgbImage) -> anyhow::Result<Tensor> {
    let x = to_tensor(&image.pixels, 1, image.width, painter.model.store().device())?;
    let z = match &painter.autoencoder {
        Some(autoencoder) => autoencoder.model.encode_by(&x, painter.tile)?,
        None => x,
    };
    Ok(painter.model.config().latents.apply(&z)?.squeeze(0)?)
}

/// Which pixels stay: those that are darker than the middle. Cropped as the picture is, without blending.
fn kept_pixels(file: &Path, transform: &Transform) -> anyhow::Result<Vec<bool>> {
    let mask = read(file, &Transform { filter: Resampling::Pillow(Filter::Nearest), ..*transform })?;
    let kept: Vec<bool> = mask.pixels.chunks_exact(3).map(|p| p.iter().map(|&v| u32::from(v)).sum::<u32>() < 3 * 128).collect();
    let count = kept.iter().filter(|kept| **kept).count();
    let expected = "expected a picture that is white where to draw and black where to keep";
    ensure!(
        count > 0 && count < kept.len(),
        "{}: {expected}, got one that keeps {count} of {} pixels",
        file.display(),
        kept.len()
    );
    Ok(kept)
}

/// [1, H, W]: 1 for the latents of whose pixels all stay.
fn latent_mask(kept: &[bool], painter: &Painter) -> anyhow::Result<Tensor> {
    let (size, factor) = (painter.size(), painter.factor());
    let side = size / factor;
    let cell = |i: usize| {
        let (top, left) = (i / side * factor, i % side * factor);
        let stays = (0..factor * factor).all(|j| kept[(top + j / factor) * size + left + j % factor]);
        if stays { 1f32 } else { 0.0 }
    };
    let mask: Vec<f32> = (0..side * side).map(cell).collect();
    Ok(Tensor::from_vec(mask, (1, side, side), painter.model.store().device())?)
}
