//! Embedded captions beside latents: each distinct caption once, in `captions.safetensors`.
//!
//! The file has the tensor `context` `[N, T, D]` in half precision. Its metadata hold the N texts, of which the first is empty (what a
//! sample without a caption is told, and the null condition of guidance), and which encoder made it.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use half::f16;
use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::beside::Beside;
use super::files::write_whole;
use super::set::LatentSet;
use crate::{Error, Result};

const FILE: &str = "captions.safetensors";
const TENSOR: &str = "context";
const DESCRIPTION: &str = "captions";

/// Which encoder made embeddings, and their shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSource {
    /// Where it lay.
    pub encoder: String,
    /// SHA-256 of its weights.
    pub sha256: String,
    /// Rows of every text, T.
    pub tokens: usize,
    /// Numbers in a row, D.
    pub width: usize,
}

#[derive(Serialize, Deserialize)]
struct Description {
    source: TextSource,
    texts: Vec<String>,
}

/// The embedded captions of a folder of latents. Embeddings are read where they are asked for. May be read from many threads.
pub struct CaptionContexts {
    file: Beside,
    source: TextSource,
    rows: HashMap<String, usize>,
}

impl CaptionContexts {
    /// The distinct texts of `set` in the order of the file: the empty one, then the others, sorted.
    pub fn texts(set: &LatentSet) -> Vec<String> {
        let captions: BTreeSet<&str> = (0..set.len()).filter_map(|i| set.caption(i)).filter(|text| !text.is_empty()).collect();
        std::iter::once("").chain(captions).map(str::to_string).collect()
    }

    /// Writes `context`, row after row of every text, into the folder `dir`.
    ///
    /// # Errors
    /// If the sizes do not agree, or the file cannot be written.
    pub fn write(dir: &Path, source: &TextSource, texts: Vec<String>, context: &[f32]) -> Result<()> {
        let shape = vec![texts.len(), source.tokens, source.width];
        if context.len() != shape.iter().product::<usize>() {
            return Err(Error::argument("context", format!("{shape:?} numbers"), context.len()));
        }
        let failed = |e: &dyn std::fmt::Display| Error::file(dir.join(FILE), e);
        let bytes: Vec<u8> = context.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let tensor = TensorView::new(Dtype::F16, shape, &bytes).map_err(|e| failed(&e))?;
        let description = Description { source: source.clone(), texts };
        let description = serde_json::to_string(&description).map_err(|e| failed(&e))?;
        let metadata = HashMap::from([(DESCRIPTION.to_string(), description)]);
        let file = serialize([(TENSOR, tensor)], Some(metadata)).map_err(|e| failed(&e))?;
        write_whole(dir, FILE, &file)
    }

    /// The embedded captions in the folder `dir`; none where there are none.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let Some(file) = Beside::open(dir, FILE, TENSOR, DESCRIPTION)? else { return Ok(None) };
        let Description { source, texts } =
            serde_json::from_str(&file.description).map_err(|e| file.error(format!("damaged: {e}")))?;
        let shape = [texts.len(), source.tokens, source.width];
        if file.shape != shape || file.dtype != Dtype::F16 || texts.first().is_none_or(|t| !t.is_empty()) {
            return Err(file.error(format!("damaged: expected {shape:?} numbers of 2 bytes, the empty text first")));
        }
        let rows = texts.into_iter().zip(0..).collect();
        Ok(Some(Self { file, source, rows }))
    }

    /// Which encoder made them.
    pub fn source(&self) -> &TextSource {
        &self.source
    }

    /// Number of distinct texts, the empty one included.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never so: the empty text is always there.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The T x D numbers of a text.
    ///
    /// # Errors
    /// If it is not among the captions, or the file cannot be read.
    pub fn get(&self, text: &str) -> Result<Vec<f32>> {
        let row = self.rows.get(text).ok_or_else(|| {
            self.file.error(format!("the caption {text:?} is not in it: run `strata encode` again with --text-encoder"))
        })?;
        let bytes = self.file.row(*row)?;
        Ok(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let source = TextSource { encoder: "encoder".into(), sha256: "ab".into(), tokens: 2, width: 3 };
        assert!(CaptionContexts::open(dir.path()).unwrap().is_none());
        let context: Vec<f32> = (0..12u8).map(f32::from).collect();
        let texts = vec![String::new(), "cat".to_string()];
        assert!(CaptionContexts::write(dir.path(), &source, texts.clone(), &context[1..]).is_err());
        CaptionContexts::write(dir.path(), &source, texts, &context).unwrap();
        let read = CaptionContexts::open(dir.path()).unwrap().unwrap();
        assert_eq!((read.len(), read.source()), (2, &source));
        assert_eq!(read.get("cat").unwrap(), context[6..]);
        assert!(read.get("dog").unwrap_err().to_string().contains("\"dog\""));
        let path = dir.path().join(FILE);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(CaptionContexts::open(dir.path()).is_err());
    }
}
