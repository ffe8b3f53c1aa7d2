//! What the samples of latents are told, embedded: each distinct caption once, in `captions.safetensors`, or the picture of each latent,
//! in `embeddings.safetensors`.
//!
//! The files have the tensor `context` `[N, T, D]` in half precision, whose first row is that of nothing: the empty text, or zeros (the
//! null condition of guidance). Their metadata say which encoder made it; those of captions hold the N texts.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use half::f16;
use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::beside::{Beside, BesideWriter};
use super::files::write_whole;
use super::set::LatentSet;
use crate::{Error, Result};

const CAPTIONS: &str = "captions.safetensors";
const PICTURES: &str = "embeddings.safetensors";
const TENSOR: &str = "context";
const DESCRIPTION: &str = "captions";

/// Which encoder made embeddings, and their shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingSource {
    /// Where it lay.
    pub encoder: String,
    /// SHA-256 of its weights.
    pub sha256: String,
    /// Rows of every text, T.
    pub tokens: usize,
    /// Numbers in a row, D.
    pub width: usize,
    /// What it embeds are pictures, each in one row, instead of texts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pictures: bool,
}

impl EmbeddingSource {
    /// What it embeds: `text` or `picture`.
    pub fn what(&self) -> &'static str {
        if self.pictures { "picture" } else { "text" }
    }
}

#[derive(Serialize, Deserialize)]
struct Description {
    source: EmbeddingSource,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    texts: Vec<String>,
}

/// The embedded captions or pictures of a folder of latents. Embeddings are read where they are asked for. May be read from many threads.
pub struct Contexts {
    file: Beside,
    source: EmbeddingSource,
    rows: HashMap<String, usize>,
}

impl Contexts {
    /// The distinct texts of `set` in the order of the file: the empty one, then the others, sorted.
    pub fn texts(set: &LatentSet) -> Vec<String> {
        let captions: BTreeSet<&str> = (0..set.len()).filter_map(|i| set.caption(i)).filter(|text| !text.is_empty()).collect();
        std::iter::once("").chain(captions).map(str::to_string).collect()
    }

    /// Writes `context`, row after row of every text, into the folder `dir`.
    ///
    /// # Errors
    /// If the sizes do not agree, or the file cannot be written.
    pub fn write(dir: &Path, source: &EmbeddingSource, texts: Vec<String>, context: &[f32]) -> Result<()> {
        let shape = vec![texts.len(), source.tokens, source.width];
        if context.len() != shape.iter().product::<usize>() {
            return Err(Error::argument("context", format!("{shape:?} numbers"), context.len()));
        }
        let failed = |e: &dyn std::fmt::Display| Error::file(dir.join(CAPTIONS), e);
        let bytes: Vec<u8> = context.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let tensor = TensorView::new(Dtype::F16, shape, &bytes).map_err(|e| failed(&e))?;
        let description = Description { source: source.clone(), texts };
        let description = serde_json::to_string(&description).map_err(|e| failed(&e))?;
        let metadata = HashMap::from([(DESCRIPTION.to_string(), description)]);
        let file = serialize([(TENSOR, tensor)], Some(metadata)).map_err(|e| failed(&e))?;
        write_whole(dir, CAPTIONS, &file)
    }

    /// The embeddings in the folder `dir` of `count` latents; none where there are none.
    ///
    /// # Errors
    /// If the file is damaged, or of other latents.
    pub fn open(dir: &Path, count: usize) -> Result<Option<Self>> {
        match Beside::open(dir, CAPTIONS, TENSOR, DESCRIPTION)? {
            Some(file) => Self::of_captions(file).map(Some),
            None => Beside::open(dir, PICTURES, TENSOR, DESCRIPTION)?.map(|file| Self::of_pictures(file, count)).transpose(),
        }
    }

    fn of_captions(file: Beside) -> Result<Self> {
        let Description { source, texts } =
            serde_json::from_str(&file.description).map_err(|e| file.error(format!("damaged: {e}")))?;
        let shape = [texts.len(), source.tokens, source.width];
        if file.shape != shape || file.dtype != Dtype::F16 || texts.first().is_none_or(|t| !t.is_empty()) {
            return Err(file.error(format!("damaged: expected {shape:?} numbers of 2 bytes, the empty text first")));
        }
        let rows = texts.into_iter().zip(0..).collect();
        Ok(Self { file, source, rows })
    }

    fn of_pictures(file: Beside, count: usize) -> Result<Self> {
        let Description { source, .. } =
            serde_json::from_str(&file.description).map_err(|e| file.error(format!("damaged: {e}")))?;
        let shape = [count + 1, source.tokens, source.width];
        if file.shape != shape || file.dtype != Dtype::F16 || !source.pictures {
            let why = format!("expected {shape:?} numbers of 2 bytes, got {:?}: these are of other latents", file.shape);
            return Err(file.error(why));
        }
        Ok(Self { file, source, rows: HashMap::new() })
    }

    /// Which encoder made them.
    pub fn source(&self) -> &EmbeddingSource {
        &self.source
    }

    /// Number of embeddings, that of nothing included.
    pub fn len(&self) -> usize {
        self.file.shape[0]
    }

    /// Never so: that of nothing is always there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The T x D numbers of nothing.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn nothing(&self) -> Result<Vec<f32>> {
        self.row(0)
    }

    /// The T x D numbers of latent `item`, whose caption is `text`.
    ///
    /// # Errors
    /// If it is not among the captions or the latents, or the file cannot be read.
    pub fn get(&self, item: usize, text: &str) -> Result<Vec<f32>> {
        if self.source.pictures {
            return match item + 1 < self.len() {
                true => self.row(item + 1),
                false => Err(Error::argument("latent", format!("below {}", self.len() - 1), item)),
            };
        }
        let row = self.rows.get(text).ok_or_else(|| {
            self.file.error(format!("the caption {text:?} is not in it: run `strata encode` again with --text-encoder"))
        })?;
        self.row(*row)
    }

    fn row(&self, row: usize) -> Result<Vec<f32>> {
        let bytes = self.file.row(row)?;
        Ok(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
    }
}

/// Writes the embedded pictures of a finished folder of latents.
pub struct PictureContextsWriter {
    file: BesideWriter,
    numbers: usize,
}

impl PictureContextsWriter {
    /// Into the folder `dir` of `count` latents; zeros stand for nothing.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(dir: &Path, count: usize, source: &EmbeddingSource) -> Result<Self> {
        let description = Description { source: EmbeddingSource { pictures: true, ..source.clone() }, texts: Vec::new() };
        let description = serde_json::to_string(&description).map_err(|e| Error::file(dir.join(PICTURES), e))?;
        let shape = vec![count + 1, source.tokens, source.width];
        let file = BesideWriter::new(dir, PICTURES, (TENSOR, Dtype::F16, shape), (DESCRIPTION, description))?;
        let mut writer = Self { file, numbers: source.tokens * source.width };
        writer.push(&vec![0.0; writer.numbers])?;
        Ok(writer)
    }

    /// The next latents' embeddings, end to end.
    ///
    /// # Errors
    /// If they are not whole, or the disk is full.
    pub fn push(&mut self, context: &[f32]) -> Result<()> {
        if !context.len().is_multiple_of(self.numbers) {
            return Err(Error::argument("context", format!("a multiple of {} numbers", self.numbers), context.len()));
        }
        let bytes: Vec<u8> = context.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        self.file.push(&bytes)
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If embeddings are missing, or the disk is full.
    pub fn finish(self) -> Result<()> {
        self.file.finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let source = EmbeddingSource { encoder: "encoder".into(), sha256: "ab".into(), tokens: 2, width: 3, pictures: false };
        assert!(Contexts::open(dir.path(), 5).unwrap().is_none());
        let context: Vec<f32> = (0..12u8).map(f32::from).collect();
        let texts = vec![String::new(), "cat".to_string()];
        assert!(Contexts::write(dir.path(), &source, texts.clone(), &context[1..]).is_err());
        Contexts::write(dir.path(), &source, texts, &context).unwrap();
        let read = Contexts::open(dir.path(), 5).unwrap().unwrap();
        assert_eq!((read.len(), read.source()), (2, &source));
        assert_eq!((read.get(3, "cat").unwrap(), read.nothing().unwrap()), (context[6..].to_vec(), context[..6].to_vec()));
        assert!(read.get(3, "dog").unwrap_err().to_string().contains("\"dog\""));
        let path = dir.path().join(CAPTIONS);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(Contexts::open(dir.path(), 5).is_err());
    }

    #[test]
    fn pictures_are_found_by_their_latents() {
        let dir = tempfile::tempdir().unwrap();
        let source = EmbeddingSource { encoder: "encoder".into(), sha256: "ab".into(), tokens: 1, width: 2, pictures: true };
        let mut writer = PictureContextsWriter::new(dir.path(), 3, &source).unwrap();
        assert!(writer.push(&[1.0]).is_err());
        writer.push(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        writer.push(&[5.0, 6.0]).unwrap();
        writer.finish().unwrap();
        assert!(Contexts::open(dir.path(), 4).is_err());
        let read = Contexts::open(dir.path(), 3).unwrap().unwrap();
        assert_eq!((read.len(), read.source()), (4, &source));
        assert_eq!((read.get(2, "").unwrap(), read.nothing().unwrap()), (vec![5.0, 6.0], vec![0.0; 2]));
        assert!(read.get(3, "").is_err());
    }
}
