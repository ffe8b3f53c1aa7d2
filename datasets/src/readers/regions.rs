//! Parts of files, read in place by many threads.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::readers::files::MAX_FILE_BYTES;
use crate::{Error, Result};

/// A file of which parts are read by offset.
pub(crate) struct RangeFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl RangeFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::file(path, e))?;
        Self::of(file, path)
    }

    fn of(file: File, path: &Path) -> Result<Self> {
        let len = file.metadata().map_err(|e| Error::file(path, e))?.len();
        Ok(Self { file, path: path.to_path_buf(), len })
    }

    /// The same for a file compressed with gzip, which cannot be read in place: it is unpacked into a file without a name,
    /// which vanishes with the process.
    pub(crate) fn open_gzip(path: &Path) -> Result<Self> {
        let packed = File::open(path).map_err(|e| Error::file(path, e))?;
        let size = packed.metadata().map_err(|e| Error::file(path, e))?.len();
        let mut unpacked = tempfile::tempfile().map_err(|e| Error::file(std::env::temp_dir(), e))?;
        // Shards of pictures hardly shrink; a file that grows a hundredfold is a bomb.
        let limit = size.saturating_mul(100).max(64 << 20);
        let written = io::copy(&mut MultiGzDecoder::new(io::BufReader::new(packed)).take(limit + 1), &mut unpacked);
        if written.map_err(|e| Error::file(path, format!("gzip: {e}")))? > limit {
            return Err(Error::file(path, format!("unpacks to more than {limit} bytes: refused")));
        }
        Self::of(unpacked, path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes from `offset`. Errors, before anything is allocated, if they do not lie in the file.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside || len > MAX_FILE_BYTES {
            return Err(self.error(format!("{len} bytes at {offset} are not in the file of {} bytes", self.len)));
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| self.error(e))?;
        Ok(bytes)
    }

    /// What the system gives at `offset`, at most as much as fits.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    pub(crate) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::file(&self.path, message)
    }

    /// A reader from `at`, with a position of its own.
    pub(crate) fn reader_at(&self, at: u64) -> impl Read + '_ {
        io::BufReader::with_capacity(1 << 16, Cursor { file: self, at })
    }
}

struct Cursor<'a> {
    file: &'a RangeFile,
    at: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Little-endian numbers at offsets of a buffer; none where they leave it.
pub(crate) trait Numbers {
    fn u16_at(&self, at: usize) -> Option<u16>;
    fn u32_at(&self, at: usize) -> Option<u32>;
    fn u64_at(&self, at: usize) -> Option<u64>;
}

impl Numbers for [u8] {
    fn u16_at(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(*self.get(at..)?.first_chunk()?))
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.get(at..)?.first_chunk()?))
    }

    fn u64_at(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(*self.get(at..)?.first_chunk()?))
    }
}
