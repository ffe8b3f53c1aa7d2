//! `--init-image`, `--strength`, `--mask`: pictures as latents, and what of their pixels stays.

use std::path::Path;

use anyhow::ensure;
use candle_core::Tensor;
use strata_autoencoder::pictures::to_tensor;
use strata_conditioning::ImageCondition;
use strata_datasets::{RgbImage, Transform};
use strata_diffusion::sampling;
use strata_training::sha256_file;

use super::Painter;
use crate::{args, commands::images};

/// Without a mask, how much is drawn anew.
const DEFAULT_STRENGTH: f64 = 0.6;

/// What sampling begins with.
pub struct Beginning {
    /// The latent, strength and mask.
    pub start: sampling::Start,
    /// The picture at the model's size, and for each pixel whether it stays.
    kept: Option<(RgbImage, Vec<bool>)>,
    /// What a model that was trained to inpaint is shown, `[1, C, h, w]`.
    pub hole: Option<Tensor>,
    /// SHA-256 of the picture's and of the mask's file.
    pub sha256: (String, Option<String>),
}

impl Beginning {
    /// # Errors
    /// If a file is no picture, or the mask keeps all or nothing.
    pub fn load(args: &args::Start, painter: &Painter) -> anyhow::Result<Option<Self>> {
        let Some(file) = &args.init_image else { return Ok(None) };
        let transform = Transform::new(painter.size());
        let image = images::read_picture(file, &transform)?;
        let x0 = encode(painter, &image)?;
        let kept = args.mask.as_deref().map(|mask| kept_pixels(mask, file, &transform)).transpose()?;
        let inpaints = painter.model.config().image.as_ref().is_some_and(|i| i.condition == ImageCondition::Inpaint);
        // A model that was trained to inpaint sees what is known; any other is led along it.
        let (hole, mask) = match &kept {
            Some(kept) if inpaints => (Some(hole(kept, &image, painter)?), None),
            Some(kept) => (None, Some(latent_mask(kept, painter)?)),
            None => (None, None),
        };
        let default = if kept.is_some() { 1.0 } else { DEFAULT_STRENGTH };
        let start = sampling::Start { x0, strength: args.strength.unwrap_or(default), mask };
        let sha256 = (sha256_file(file)?, args.mask.as_deref().map(sha256_file).transpose()?);
        Ok(Some(Self { start, kept: kept.map(|kept| (image, kept)), hole, sha256 }))
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

/// The sample [C, H, W] of a picture: itself, or its scaled latent: the mode of the posterior, or what comes before the codebook.
fn encode(painter: &Painter, image: &RgbImage) -> anyhow::Result<Tensor> {
    let x = to_tensor(&image.pixels, 1, image.width, painter.model.store().device())?;
    let z = match &painter.autoencoder {
        Some(autoencoder) => autoencoder.model.encode_by(&x, painter.tile)?,
        None => x,
    };
    Ok(painter.model.config().latents.apply(&z)?.squeeze(0)?)
}

/// Which pixels of the picture in `of` stay: those that are darker than the middle. Cropped as the picture is, without blending.
fn kept_pixels(file: &Path, of: &Path, transform: &Transform) -> anyhow::Result<Vec<bool>> {
    let (mask, picture) = (images::decode(file)?, images::decode(of)?);
    ensure!(
        (mask.width, mask.height) == (picture.width, picture.height),
        "{}: a mask of {}x{} pixels, but {} has {}x{}",
        file.display(),
        mask.width,
        mask.height,
        of.display(),
        picture.width,
        picture.height
    );
    let mask = images::unblended(transform).apply(&mask)?;
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
    let drawn: Vec<bool> = kept.iter().map(|kept| !kept).collect();
    let mask: Vec<f32> = images::cells(&drawn, size, factor).into_iter().map(|drawn| if drawn { 0.0 } else { 1.0 }).collect();
    Ok(Tensor::from_vec(mask, (1, size / factor, size / factor), painter.model.store().device())?)
}

/// The sample of the picture with its hole, scaled as the model's are, and the mask.
fn hole(kept: &[bool], image: &RgbImage, painter: &Painter) -> anyhow::Result<Tensor> {
    let x = to_tensor(&image.pixels, 1, image.width, painter.model.store().device())?;
    let drawn: Vec<bool> = kept.iter().map(|kept| !kept).collect();
    let holes = images::holes(painter.autoencoder.as_ref(), &x, &drawn, painter.tile)?;
    let z = holes.dim(1)? - 1;
    let latents = painter.model.config().latents.apply(&holes.narrow(1, 0, z)?.contiguous()?)?;
    Ok(Tensor::cat(&[&latents, &holes.narrow(1, z, 1)?], 1)?)
}
