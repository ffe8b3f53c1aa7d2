//! Texts and their encoder: captions that are embedded once, and prompts that are embedded when they are drawn.

use std::{collections::BTreeMap, path::Path, time::Instant};

use anyhow::{Context as _, ensure};
use candle_core::{Device, Tensor};
use strata_conditioning::text::TextEncoder;
use strata_datasets::{Contexts, EmbeddingSource, LatentSet};
use strata_diffusion::{model::Model, sampling::Prompts};
use strata_training::sha256_file;

use super::encoders;
use crate::{args, context::Context, hint::hinted};

/// Texts to a forward pass of the encoder.
const BATCH: usize = 32;
/// Warnings of one kind that are printed one by one.
const MAX_WARNINGS: usize = 5;

/// Embeds the captions of the finished latents in `dir`, each distinct one once; those that are there already stay.
///
/// # Errors
/// If there are no captions, or embeddings of another encoder.
pub fn embed_captions(dir: &Path, args: &args::Texts, context: &Context) -> anyhow::Result<()> {
    let Some(path) = &args.text_encoder else { return Ok(()) };
    let encoder = TextEncoder::open(path, args.text_tokens, &context.device)?;
    let latents = LatentSet::open(dir)?;
    let source = source(path, &encoder)?;
    if let Some(there) = latents.contexts() {
        return encoders::check_same(there.source(), &source, dir);
    }
    let texts = Contexts::texts(&latents);
    if texts.len() == 1 {
        return Err(hinted(
            "--text-encoder: the images have no captions",
            "leave it out, or name the column with --caption-column",
        ));
    }
    let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
    let embedded = embed(&encoder, &refs, context)?.flatten_all()?.to_vec1::<f32>()?;
    Contexts::write(dir, &source, texts, &embedded)?;
    let after = LatentSet::open(dir)?;
    let n = after.contexts().map_or(0, Contexts::len);
    println!("{}: {n} distinct captions embedded, {} tokens of width {}", dir.display(), source.tokens, source.width);
    Ok(())
}

/// Which encoder it is, for those who use its embeddings.
///
/// # Errors
/// If its weights cannot be read.
pub fn source(path: &Path, encoder: &TextEncoder) -> anyhow::Result<EmbeddingSource> {
    Ok(EmbeddingSource {
        encoder: encoders::place(path)?,
        sha256: sha256_file(encoder.weights())?,
        tokens: encoder.tokens(),
        width: encoder.width(),
        pictures: false,
    })
}

/// `[N, tokens, width]` on the encoder's device; says what did not fit.
fn embed(encoder: &TextEncoder, texts: &[&str], context: &Context) -> anyhow::Result<Tensor> {
    let (mut parts, mut cuts) = (Vec::new(), 0);
    context.progress.start("embedding texts", texts.len() as u64, "texts");
    for (n, batch) in texts.chunks(BATCH).enumerate() {
        let (embedded, cut) = encoder.encode(batch)?;
        for cut in &cut {
            cuts += 1;
            if cuts <= MAX_WARNINGS {
                context.say(format!("warning: {:?}: {cut}", batch.get(cut.index).unwrap_or(&"")));
            }
        }
        parts.push(embedded);
        context.progress.advance(((n + 1) * BATCH).min(texts.len()) as u64, "");
    }
    context.progress.finish();
    if cuts > MAX_WARNINGS {
        context.say(format!("warning: {} more texts were cut to {} tokens", cuts - MAX_WARNINGS, encoder.tokens()));
    }
    Ok(Tensor::cat(&parts, 0)?)
}

/// The prompts of samples as embedded texts, each distinct one encoded once; the encoder is gone afterwards. None for a model without
/// texts.
///
/// # Errors
/// If the model is told no texts but one is asked for, a text is empty or no UTF-8, or the encoder cannot be found or is another.
pub fn prompts(
    model: &Model,
    wish: &args::Wish,
    seeds: &[u64],
    context: &Context,
) -> anyhow::Result<Option<(Prompts, Vec<String>)>> {
    let asked = asked(&wish.told)?;
    let Some(trained) = model.config().text.as_ref().filter(|source| !source.pictures) else {
        if asked.is_empty() && wish.told.negative_prompt.is_none() && wish.told.text_encoder.is_none() {
            return Ok(None);
        }
        let hint = "leave prompts and text encoder out";
        return Err(hinted("a text is asked for, but the model was trained without texts", hint));
    };
    // Seeds take the prompts in turn; without any they are told the empty text.
    let texts: Vec<&str> = match asked.as_slice() {
        [] => vec![""; seeds.len()],
        all => seeds.iter().map(|seed| all[(seed % all.len() as u64) as usize].as_str()).collect(),
    };
    // Without guidance nothing is moved away from, and what nobody looks at is not encoded.
    let unguided = wish.guidance == Some(1.0) && wish.told.negative_prompt.is_none();
    let negative = if unguided { texts[0] } else { wish.told.negative_prompt.as_deref().unwrap_or_default() };
    let mut rows: BTreeMap<&str, u32> = BTreeMap::new();
    for text in texts.iter().chain([&negative]) {
        let next = rows.len() as u32;
        rows.entry(text).or_insert(next);
    }
    let mut distinct = vec![""; rows.len()];
    rows.iter().for_each(|(text, row)| distinct[*row as usize] = text);
    let began = Instant::now();
    let contexts = embed(&trained_encoder(trained, wish.told.text_encoder.as_deref(), &context.device)?, &distinct, context)?;
    let seconds = began.elapsed().as_secs_f64();
    context.say(format!("{} texts encoded for {} images in {seconds:.2} s, loading included", distinct.len(), seeds.len()));
    let of = texts.iter().map(|text| rows[text]).collect();
    Ok(Some((Prompts { contexts, of, negative: rows[negative] }, asked)))
}

/// The texts as typed: one, or the lines of a file.
fn asked(told: &args::Told) -> anyhow::Result<Vec<String>> {
    if let Some(text) = &told.prompt {
        ensure!(!text.trim().is_empty(), "--prompt: expected a text, got an empty one; leave it out to ask for nothing");
        return Ok(vec![text.clone()]);
    }
    let Some(file) = &told.prompts else { return Ok(Vec::new()) };
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let mut texts = Vec::new();
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let (mut foreign, mut empty) = (Vec::new(), Vec::new());
    for (line, number) in bytes.split(|&b| b == b'\n').zip(1..) {
        match std::str::from_utf8(line) {
            Err(_) => foreign.push(number),
            Ok(text) if text.trim().is_empty() => empty.push(number),
            Ok(text) => texts.push(text.trim().to_string()),
        }
    }
    let lines = |numbers: &[i32]| numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    ensure!(foreign.is_empty(), "{}: expected a prompt a line in UTF-8, but lines are not: {}", file.display(), lines(&foreign));
    ensure!(empty.is_empty(), "{}: expected a prompt a line, but lines are empty: {}", file.display(), lines(&empty));
    Ok(texts)
}

/// The encoder that a model was trained with.
fn trained_encoder(trained: &EmbeddingSource, given: Option<&Path>, device: &Device) -> anyhow::Result<TextEncoder> {
    let path = encoders::find(trained, given)?;
    let encoder = TextEncoder::open(&path, Some(trained.tokens), device)?;
    encoders::check_trained(trained, &path, (&sha256_file(encoder.weights())?, encoder.width()))?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(content: &[u8]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prompts.txt");
        std::fs::write(&file, content).unwrap();
        asked(&args::Told { prompts: Some(file), ..args::Told::default() }).map_err(|e| e.to_string())
    }

    #[test]
    fn files_of_prompts() {
        assert_eq!(lines(b"a cat\n a dog\r\n").unwrap(), ["a cat", "a dog"]);
        assert!(lines(b"a cat\n\n\xff\nb").unwrap_err().ends_with("lines are not: 3"));
        assert!(lines(b"a\n\nb\n \n").unwrap_err().ends_with("lines are empty: 2, 4"));
        let blank = asked(&args::Told { prompt: Some(" ".into()), ..args::Told::default() });
        assert!(blank.unwrap_err().to_string().starts_with("--prompt: expected a text"));
    }
}
