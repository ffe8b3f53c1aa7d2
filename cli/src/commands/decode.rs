//! `strata decode`

use std::path::Path;

use anyhow::Context as _;
use candle_core::Tensor;
use strata_autoencoder::LoadedAutoencoder;
use strata_datasets::LatentSet;

use super::train_diffusion::{AUTOENCODER, check_autoencoder};
use crate::{Outcome, args, context::Context, grid};

/// The command.
///
/// # Errors
/// If latents and autoencoder do not belong together, or a picture cannot be written.
pub fn run(args: &args::Decode, context: &Context) -> anyhow::Result<Outcome> {
    let (latents, autoencoder) = open(&args.latents, args.autoencoder.as_deref(), context)?;
    let count = args.limit.unwrap_or(latents.len()).min(latents.len());
    anyhow::ensure!(args.batch > 0, "--batch: expected 1 or more, got 0");
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}", args.out.display()))?;
    context.progress.start("decoding", count as u64, "images");
    for first in (0..count).step_by(args.batch) {
        if context.interrupt.is_set() {
            return Ok(Outcome::Interrupted);
        }
        let rows = first..(first + args.batch).min(count);
        for (i, image) in rows.clone().zip(pictures(&autoencoder, &latents, rows, args.tile, context)?) {
            grid::write_png(&image, &args.out.join(format!("{i:06}.png")))?;
        }
        context.progress.advance((first + args.batch).min(count) as u64, "");
    }
    context.progress.finish();
    println!("{}: {count} images", args.out.display());
    Ok(Outcome::Done)
}

/// Latents and the autoencoder that made them, which lies beside them if none is given.
///
/// # Errors
/// If they cannot be read or do not belong together.
pub fn open(folder: &Path, autoencoder: Option<&Path>, context: &Context) -> anyhow::Result<(LatentSet, LoadedAutoencoder)> {
    let latents = LatentSet::open(folder)?;
    let given = autoencoder.map_or_else(|| folder.join(AUTOENCODER), Path::to_path_buf);
    let file = strata_autoencoder::weight_file(&given)?;
    check_autoencoder(&file, &latents.manifest().autoencoder_sha256)?;
    Ok((latents, strata_autoencoder::load(&file, &context.device)?))
}

/// The pictures of the latents `rows`: of their means.
///
/// # Errors
/// If a latent cannot be read; as the library's.
pub fn pictures(
    autoencoder: &LoadedAutoencoder,
    latents: &LatentSet,
    rows: std::ops::Range<usize>,
    tile: Option<usize>,
    context: &Context,
) -> anyhow::Result<Vec<strata_datasets::RgbImage>> {
    let manifest = latents.manifest();
    let n = manifest.channels * manifest.height * manifest.width;
    let mut means = Vec::with_capacity(rows.len() * n);
    for i in rows.clone() {
        means.extend_from_slice(&latents.moments(i)?[..n]);
    }
    let z = Tensor::from_vec(means, (rows.len(), manifest.channels, manifest.height, manifest.width), &context.device)?;
    Ok(strata_autoencoder::decode_latents(autoencoder, &z, tile)?)
}
