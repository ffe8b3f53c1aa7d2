//! Pictures that samples are to be like: embedded beside latents once, and when samples are drawn.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use candle_core::Tensor;
use strata_datasets::{LatentSet, PictureContextsWriter, RgbImage, TextSource, Transform};
use strata_diffusion::{
    evaluation::{extractor::Extractor as _, vision::VisionExtractor},
    sampling::Prompts,
};

use super::{
    images::{self, Pictures},
    sample::Painter,
    texts,
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
        return texts::check_same(there.source(), &source, dir);
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

fn source(path: &Path, encoder: &VisionExtractor) -> anyhow::Result<TextSource> {
    let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
    let identity = encoder.identity();
    Ok(TextSource {
        encoder: path.display().to_string(),
        sha256: identity.weights_sha256.clone(),
        tokens: 1,
        width: identity.features,
        pictures: true,
    })
}

/// What samples are to be like, embedded, and the names of the files; nothing for a model that is told no pictures. The encoder is gone
/// afterwards.
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
        let hint = "leave --like out, or train on latents that `strata encode --picture-encoder` wrote";
        return Err(hinted("--like: the model was trained without embedded pictures", hint));
    };
    if told.prompt.is_some() || told.prompts.is_some() || told.negative_prompt.is_some() {
        return Err(hinted("a text is asked for, but the model is told pictures", "show it one with --like"));
    }
    let mut files: Vec<PathBuf> = told.like.as_deref().map_or(Ok(Vec::new()), images::files)?;
    let all = files.len() as u64;
    // Only what is taken is read.
    files.truncate(seeds.iter().max().map_or(1, |last| (*last as usize).saturating_add(1)).min(files.len()));
    let transform = Transform::new(painter.size());
    let read = |file: &PathBuf| Ok(transform.apply(&images::decode(file)?)?);
    let shown = files.iter().map(read).collect::<anyhow::Result<Vec<RgbImage>>>()?;
    // Zeros first: nothing, which guidance moves away from.
    let mut rows = vec![0.0; trained.width];
    if !shown.is_empty() {
        rows.extend(trained_encoder(trained, told.picture_encoder.as_deref(), context)?.describe(&shown)?.features);
    }
    let contexts = Tensor::from_vec(rows, (shown.len() + 1, 1, trained.width), &context.device)?;
    let of = seeds.iter().map(|seed| if all > 0 { 1 + (seed % all) as u32 } else { 0 }).collect();
    let names = files.iter().map(|file| file.display().to_string()).collect();
    Ok(Some((Prompts { contexts, of, negative: 0 }, names)))
}

/// The encoder that a model was trained with, from where it lay then or the given folder.
fn trained_encoder(trained: &TextSource, given: Option<&Path>, context: &Context) -> anyhow::Result<VisionExtractor> {
    let path = given.map_or_else(|| PathBuf::from(&trained.encoder), Path::to_path_buf);
    if given.is_none() && !path.exists() {
        let message = format!("the picture encoder of this model is no longer at {}", path.display());
        return Err(hinted(
            message,
            format!("name its folder with --picture-encoder; its weights are sha256 {}", trained.sha256),
        ));
    }
    let encoder = VisionExtractor::load(&path, &context.device)?;
    let sha256 = &encoder.identity().weights_sha256;
    ensure!(
        *sha256 == trained.sha256,
        "{}: not the picture encoder of this model: it was trained with sha256 {}, this is {sha256}",
        path.display(),
        trained.sha256
    );
    Ok(encoder)
}
