//! Pictures that samples are to be like: embedded beside latents once, and when samples are drawn.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use strata_datasets::{EmbeddingSource, LatentSet, PictureContextsWriter, RgbImage, Transform};
use strata_diffusion::{
    evaluation::{extractor::Extractor as _, vision::VisionExtractor},
    sampling::Prompts,
};

use super::{
    encoders,
    images::{self, Pictures, Taken},
    sample::Painter,
};
use crate::{args, context::Context, hint::hinted};

/// Embeds the pictures of the finished latents in `dir`; embeddings that are there already stay.
///
/// # Errors
/// If the encoder cannot be used, or there are embeddings of another.
pub fn embed_pictures(dir: &Path, encoder: Option<&Path>, pictures: &Pictures<'_>, context: &Context) -> anyhow::Result<()> {
    let Some(path) = encoder else { return Ok(()) };
    let encoder = VisionExtractor::load(path, &context.device)?;
    let (latents, source) = (LatentSet::open(dir)?, source(path, &encoder)?);
    if let Some(there) = latents.contexts() {
        return encoders::check_same(there.source(), &source, dir);
    }
    let mut writer = PictureContextsWriter::new(dir, latents.len(), &source)?;
    context.progress.start("embedding pictures", latents.len() as u64, "images");
    let mut read = images::read_ahead(&latents, pictures)?;
    let mut done = 0;
    while let Some(batch) = read.next() {
        let batch: Vec<RgbImage> = batch?.into_iter().map(|read| read.picture).collect();
        writer.push(&encoder.describe(&batch)?.features)?;
        done += batch.len();
        context.progress.advance(done as u64, "");
    }
    context.progress.finish();
    writer.finish()?;
    println!("{}: {done} pictures embedded, {} wide", dir.display(), source.width);
    Ok(())
}

fn source(path: &Path, encoder: &VisionExtractor) -> anyhow::Result<EmbeddingSource> {
    let identity = encoder.identity();
    Ok(EmbeddingSource {
        encoder: encoders::place(path)?,
        sha256: identity.weights_sha256.clone(),
        tokens: 1,
        width: identity.features,
        pictures: true,
    })
}

/// What samples are to be like, embedded, and the SHA-256 of the files; nothing for a model that is told no pictures. The encoder is
/// gone afterwards.
///
/// # Errors
/// If the model is told no pictures but one is given, or the encoder cannot be found or is another.
pub fn pictures(
    painter: &Painter,
    told: &args::Told,
    seeds: &[u64],
    context: &Context,
) -> anyhow::Result<Option<(Prompts, Vec<String>)>> {
    let Some(trained) = painter.model.config().text.as_ref().filter(|source| source.pictures) else {
        if told.like.is_none() && told.picture_encoder.is_none() {
            return Ok(None);
        }
        let hint = "leave --like and --picture-encoder out, or train on latents that `strata encode --picture-encoder` wrote";
        return Err(hinted("--like: the model was trained without embedded pictures", hint));
    };
    if told.prompt.is_some() || told.prompts.is_some() || told.negative_prompt.is_some() || told.text_encoder.is_some() {
        return Err(hinted("a text is asked for, but the model is told pictures", "show it one with --like"));
    }
    // Zeros first: nothing, which guidance moves away from.
    let mut rows = vec![0.0; trained.width];
    let mut taken = Taken::default();
    if let Some(path) = &told.like {
        taken = Taken::new(path, seeds)?;
        let transform = Transform::new(painter.size());
        let read = |file: &PathBuf| images::read_picture(file, &transform);
        let shown = taken.files.iter().map(read).collect::<anyhow::Result<Vec<RgbImage>>>()?;
        rows.extend(trained_encoder(trained, told.picture_encoder.as_deref(), context)?.describe(&shown)?.features);
    }
    let contexts = Tensor::from_vec(rows, (taken.files.len() + 1, 1, trained.width), &context.device)?;
    let of = if taken.of.is_empty() { vec![0; seeds.len()] } else { taken.of.iter().map(|file| 1 + file).collect() };
    Ok(Some((Prompts { contexts, of, negative: 0 }, taken.sha256()?)))
}

/// The encoder that a model was trained with.
fn trained_encoder(trained: &EmbeddingSource, given: Option<&Path>, context: &Context) -> anyhow::Result<VisionExtractor> {
    let path = encoders::find(trained, given)?;
    let encoder = VisionExtractor::load(&path, &context.device)?;
    let identity = encoder.identity();
    encoders::check_trained(trained, &path, (&identity.weights_sha256, identity.features))?;
    Ok(encoder)
}
