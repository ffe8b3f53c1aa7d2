//! A file as bytes: mapped, so that only what is looked at is read.

use std::{fs::File, path::Path};

use bytes::Bytes;
use memmap2::Mmap;

use crate::{Error, Result};

/// Maps the file at `path`. The bytes live as long as any slice of them.
///
/// # Errors
/// If it cannot be opened, or is empty or a folder.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(|e| Error::file(path, e))?;
    let metadata = file.metadata().map_err(|e| Error::file(path, e))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "is no file"));
    }
    if metadata.len() == 0 {
        return Err(Error::file(path, "is empty"));
    }
    // SAFETY: the map is only read, and only as plain bytes, for which every value is valid; every length and text taken from
    // them is checked before use. As with every mapped file, another process must not shorten it meanwhile.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::file(path, e))?;
    Ok(Bytes::from_owner(map))
}
