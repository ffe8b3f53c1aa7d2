//! Encoders of texts and pictures: which one made embeddings, and the one that a model was trained with.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use strata_datasets::EmbeddingSource;

use crate::hint::hinted;

/// Where an encoder lies, to be written down.
///
/// # Errors
/// If the working directory is gone.
pub fn place(path: &Path) -> anyhow::Result<String> {
    let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
    Ok(path.display().to_string())
}

/// The same weights and rows; where they lie may differ.
///
/// # Errors
/// If the embeddings in `dir` are of another encoder than asked for.
pub fn check_same(there: &EmbeddingSource, asked: &EmbeddingSource, dir: &Path) -> anyhow::Result<()> {
    let of = |s: &EmbeddingSource| (s.sha256.clone(), s.tokens);
    if of(there) == of(asked) {
        return Ok(());
    }
    let describe = |s: &EmbeddingSource| format!("sha256 {} with {} tokens", s.sha256, s.tokens);
    let (what, file) = if there.pictures { ("pictures", "embeddings") } else { ("captions", "captions") };
    let message = format!("{}: its {what} were embedded by {}, not by {}", dir.display(), describe(there), describe(asked));
    Err(hinted(message, format!("choose another --out, or delete {file}.safetensors to embed anew")))
}

/// The folder of the encoder that a model was trained with: the given one, or where it lay then.
///
/// # Errors
/// If it is not given and no longer there.
pub fn find(trained: &EmbeddingSource, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = given.map_or_else(|| PathBuf::from(&trained.encoder), Path::to_path_buf);
    if given.is_none() && !path.exists() {
        let what = trained.what();
        let message = format!("the {what} encoder of this model is no longer at {}", path.display());
        return Err(hinted(message, format!("name its folder with --{what}-encoder; its weights are sha256 {}", trained.sha256)));
    }
    Ok(path)
}

/// What was found is what the model was trained with.
///
/// # Errors
/// If its weights or the width of its embeddings are others.
pub fn check_trained(trained: &EmbeddingSource, path: &Path, (sha256, width): (&str, usize)) -> anyhow::Result<()> {
    ensure!(
        width == trained.width,
        "{}: its embeddings are {width} wide, the model was trained with {}",
        path.display(),
        trained.width
    );
    if sha256 == trained.sha256 {
        return Ok(());
    }
    let what = trained.what();
    let message = format!(
        "{}: not the {what} encoder of this model: it was trained with sha256 {}, this is {sha256}",
        path.display(),
        trained.sha256
    );
    Err(hinted(message, format!("name the other one with --{what}-encoder")))
}
