//! `strata encode`

use std::path::Path;

use strata_autoencoder::{EncodeOptions, LoadedAutoencoder};
use strata_datasets::{Dataset, DatasetOptions, LatentManifest, Transform};

use super::train_diffusion::AUTOENCODER;
use crate::{Outcome, args, context::Context};

/// The command.
///
/// # Errors
/// Unusable autoencoder, data or output; see the libraries.
pub fn run(args: &args::Encode, context: &Context) -> anyhow::Result<Outcome> {
    let autoencoder = strata_autoencoder::load(&args.autoencoder, &context.device)?;
    let data = Dataset::open(&args.data.data, &DatasetOptions::default())?;
    let transform = Transform::new(args.size.unwrap_or(autoencoder.size));
    let options = EncodeOptions { batch: args.batch, max_bad: args.data.max_bad, ..EncodeOptions::default() };
    let Some(manifest) = encode(&autoencoder, &data, &transform, &options, &args.out, context)? else {
        return Ok(Outcome::Interrupted);
    };
    println!(
        "{}: {} latents of {}x{}x{} in {} shards, scale {:?}, {} classes",
        args.out.display(),
        manifest.count,
        manifest.channels,
        manifest.height,
        manifest.width,
        manifest.shards.len(),
        manifest.scale,
        manifest.class_names.len()
    );
    Ok(Outcome::Done)
}

/// Encodes into the folder `out`, from where it stands, and keeps the autoencoder beside the latents. `None`: interrupted.
///
/// # Errors
/// As the library's.
pub fn encode(
    autoencoder: &LoadedAutoencoder,
    data: &Dataset,
    transform: &Transform,
    options: &EncodeOptions,
    out: &Path,
    context: &Context,
) -> anyhow::Result<Option<LatentManifest>> {
    let progress = context.progress.as_ref();
    let manifest = strata_autoencoder::encode(autoencoder, data, transform, options, out, progress, &context.interrupt)?;
    if manifest.is_some() {
        super::train_diffusion::keep_copy(&autoencoder.file, &out.join(AUTOENCODER))?;
    }
    Ok(manifest)
}
