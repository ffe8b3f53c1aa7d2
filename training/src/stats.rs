//! The log of a run: one JSON object a line, each with the images seen.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Error, Result};

#[derive(Debug)]
pub(crate) struct Stats {
    path: PathBuf,
    file: File,
}

impl Stats {
    /// Opens the log, without the records that are later than `seen_images` or that were cut off.
    pub fn open(path: PathBuf, seen_images: u64) -> Result<Self> {
        keep_until(&path, seen_images)?;
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::file(&path, e))?;
        Ok(Self { path, file })
    }

    /// Appends a record: an object with `seen_images`.
    pub fn log(&mut self, record: &Value) -> Result<()> {
        if seen(record).is_none() {
            return Err(Error::Config(format!("log record: expected an object with `seen_images`, got {record}")));
        }
        let length = self.file.metadata().map_err(|e| Error::file(&self.path, e))?.len();
        if let Err(e) = self.file.write_all(format!("{record}\n").as_bytes()) {
            // No half a line stays, so that the log can be read and go on.
            let _ = self.file.set_len(length);
            return Err(Error::file(&self.path, e));
        }
        Ok(())
    }
}

/// All records of a log; a last line that was cut off is left out.
pub(crate) fn read(path: &Path) -> Result<Vec<Value>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let data = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    Ok(String::from_utf8_lossy(&data).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Cuts the log before its first record that is later than `seen_images` or broken.
fn keep_until(path: &Path, seen_images: u64) -> Result<()> {
    let Ok(data) = std::fs::read(path) else { return Ok(()) };
    let whole = |line: &[u8]| {
        let record: Option<Value> = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
        record.as_ref().and_then(seen).is_some_and(|n| n <= seen_images)
    };
    let kept: usize = data.split_inclusive(|b| *b == b'\n').take_while(|line| whole(line)).map(<[u8]>::len).sum();
    if kept < data.len() {
        let cut = || OpenOptions::new().write(true).open(path)?.set_len(kept as u64);
        cut().map_err(|e| Error::file(path, e))?;
    }
    Ok(())
}

fn seen(record: &Value) -> Option<u64> {
    record.get("seen_images")?.as_u64()
}
