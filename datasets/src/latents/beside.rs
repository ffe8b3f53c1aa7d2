//! One tensor in a file of its own beside the shards, with a description in its metadata.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use tempfile::NamedTempFile;

use super::files::{sync_folder, temporary};
use crate::{Error, Result};

/// Such a file, open for reading. May be read from many threads.
pub(super) struct Beside {
    file: File,
    path: PathBuf,
    start: u64,
    /// What the metadata say.
    pub(super) description: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
}

impl Beside {
    /// The file `name` in `dir` with the one tensor `tensor`; none where it is not there.
    ///
    /// # Errors
    /// If it is damaged.
    pub(super) fn open(dir: &Path, name: &str, tensor: &str, description: &str) -> Result<Option<Self>> {
        let path = dir.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let failed = |e: &dyn std::fmt::Display| Error::file(&path, format!("damaged: {e}"));
        let file = File::open(&path).map_err(|e| failed(&e))?;
        let len = file.metadata().map_err(|e| failed(&e))?.len();
        let mut head = [0; 8];
        file.read_exact_at(&mut head, 0).map_err(|e| failed(&e))?;
        let header = u64::from_le_bytes(head);
        if header > len.saturating_sub(8) {
            return Err(failed(&format!("a header of {header} bytes in a file of {len}")));
        }
        let mut bytes = vec![0; header as usize];
        file.read_exact_at(&mut bytes, 8).map_err(|e| failed(&e))?;
        let info: Metadata = serde_json::from_slice(&bytes).map_err(|e| failed(&e))?;
        let text = info.metadata().as_ref().and_then(|m| m.get(description)).ok_or_else(|| failed(&"no description"))?;
        let found = info.info(tensor).ok_or_else(|| failed(&format!("no tensor `{tensor}`")))?;
        let (dtype, shape) = (found.dtype, found.shape.clone());
        let size = bytes_of(dtype, &shape);
        if shape.is_empty() || len != (header + 8).saturating_add(size) {
            return Err(failed(&format!("expected {size} bytes behind a header of {header} bytes, got {len} bytes")));
        }
        let description = text.clone();
        Ok(Some(Self { file, path, start: header + 8, description, dtype, shape }))
    }

    /// The bytes of the `row`-th of its first dimension.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(super) fn row(&self, row: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; bytes_of(self.dtype, &self.shape[1..]) as usize];
        let offset = self.start + (row * bytes.len()) as u64;
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| self.error(e))?;
        Ok(bytes)
    }

    /// An error about it.
    pub(super) fn error(&self, why: impl std::fmt::Display) -> Error {
        Error::file(&self.path, why)
    }
}

fn bytes_of(dtype: Dtype, shape: &[usize]) -> u64 {
    shape.iter().fold(dtype.bitsize() as u64 / 8, |n, &side| n.saturating_mul(side as u64))
}

/// Such a file while it is written, row after row, so that it need not fit in memory. It appears once it is whole.
pub(super) struct BesideWriter {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
    left: u64,
}

impl BesideWriter {
    /// For the file `name` in `dir`, with one `tensor` and a `description` (key and text).
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn new(
        dir: &Path,
        name: &str,
        (tensor, dtype, shape): (&str, Dtype, Vec<usize>),
        description: (&str, String),
    ) -> Result<Self> {
        let path = dir.join(name);
        let failed = |e: &dyn std::fmt::Display| Error::file(&path, e);
        let size = bytes_of(dtype, &shape);
        let info = TensorInfo { dtype, shape, data_offsets: (0, size as usize) };
        let metadata = HashMap::from([(description.0.to_string(), description.1)]);
        let header = Metadata::new(Some(metadata), vec![(tensor.to_string(), info)]).map_err(|e| failed(&e))?;
        let mut header = serde_json::to_string(&header).map_err(|e| failed(&e))?.into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut file = BufWriter::new(temporary(dir, name)?);
        file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).map_err(|e| failed(&e))?;
        Ok(Self { file, path, left: size })
    }

    /// Appends bytes of the tensor.
    ///
    /// # Errors
    /// If the disk is full, or there are more than the tensor has.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| Error::file(&self.path, "more rows than were announced"))?;
        self.file.write_all(bytes).map_err(|e| Error::file(&self.path, e))
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If rows are missing, or the disk is full.
    pub(super) fn finish(self) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::file(&self.path, e);
        if self.left > 0 {
            return Err(failed(&format!("{} bytes are missing", self.left)));
        }
        let file = self.file.into_inner().map_err(|e| failed(&e.error()))?;
        file.as_file().sync_all().map_err(|e| failed(&e))?;
        file.persist(&self.path).map_err(|e| failed(&e.error))?;
        sync_folder(self.path.parent().unwrap_or(Path::new(".")));
        Ok(())
    }
}
