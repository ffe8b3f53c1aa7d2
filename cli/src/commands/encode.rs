//! `strata encode`

use std::path::Path;

use strata_autoencoder::{EncodeOptions, EncodeReport, Encoded, LoadedAutoencoder};
use strata_datasets::{Dataset, LatentManifest, Transform};
use strata_training::Ranks;

use super::{
    eval::size_of,
    images::{self, Pictures},
    likeness, texts,
    train_diffusion::keep_autoencoder,
};
use crate::{Outcome, args, context::Context};

/// The command.
///
/// # Errors
/// Unusable autoencoder, data or output; see the libraries.
pub fn run(args: &args::Encode, context: &Context) -> anyhow::Result<Outcome> {
    let autoencoder = strata_autoencoder::load(&args.autoencoder, &context.device)?;
    let data = Dataset::open(&args.data.data, &args.data.reading.options())?;
    let transform = args.preparing.transform(size_of(args.size, &autoencoder)?);
    let options = EncodeOptions {
        batch: args.batch,
        max_bad: args.data.max_bad,
        flip: args.flip,
        kind: args.store.into(),
        dtype: args.store_dtype.into(),
        shard_pictures: args.shard_images,
        ranks: Ranks::from_env()?,
        tile: args.tile,
        ..EncodeOptions::default()
    };
    match encode(&autoencoder, &data, &transform, &options, &args.out, context)? {
        Encoded::Complete(manifest) => {
            print(&manifest, &args.out);
            texts::embed_captions(&args.out, &args.texts, context)?;
            let pictures =
                Pictures { autoencoder: &autoencoder, data: &data, transform: &transform, batch: args.batch, tile: args.tile };
            likeness::embed_pictures(&args.out, args.texts.picture_encoder.as_deref(), &pictures, context)?;
            images::store(&args.out, &args.images, &pictures, context)?;
        }
        Encoded::Missing(shards) => {
            let Ranks { rank, count, .. } = options.ranks;
            println!("{}: the part of process {rank} of {count} is done, {shards} shards are missing", args.out.display());
            context.say("the last process completes the folder; if one was lost, the same command completes it");
        }
        Encoded::Interrupted => return Ok(Outcome::Interrupted),
    }
    Ok(Outcome::Done)
}

fn print(manifest: &LatentManifest, out: &Path) {
    println!(
        "{}: {} latents of {}x{}x{} in {} shards, scale {:?}, {} classes, {} images left out",
        out.display(),
        manifest.count,
        manifest.channels,
        manifest.height,
        manifest.width,
        manifest.shards.len(),
        manifest.scale,
        manifest.class_names.len(),
        manifest.left_out
    );
}

/// Encodes into the folder `out`, from where it stands, and keeps the autoencoder beside the latents.
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
) -> anyhow::Result<Encoded> {
    let progress = context.progress.as_ref();
    let report = strata_autoencoder::encode(autoencoder, data, transform, options, out, progress, &context.interrupt)?;
    context.say(busy(&report));
    if matches!(report.outcome, Encoded::Complete(_)) {
        keep_autoencoder(&autoencoder.file, out)?;
    }
    Ok(report.outcome)
}

/// How much of the time the network worked.
fn busy(report: &EncodeReport) -> String {
    let (all, waited) = (report.elapsed.as_secs_f64(), report.waited.as_secs_f64());
    let share = 100.0 * (1.0 - waited / all.max(1e-9));
    format!("encoding took {all:.1} s, of which the network waited {waited:.2} s for images: {share:.1} % busy")
}
