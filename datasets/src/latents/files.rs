//! Files that are there whole or not at all, also where several processes write into one folder.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

use crate::{Error, Result};

/// Files being written begin with this; one that is left over belongs to a run that was killed.
pub(super) const TEMPORARY: &str = ".strata-tmp-";

/// Writes beside `dir/name`, syncs and renames.
pub(super) fn write_whole(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = dir.join(name);
    written(dir, name, bytes)?.persist(&path).map_err(|e| Error::file(&path, e.error))?;
    sync_folder(dir);
    Ok(())
}

/// The same, but a file that is there stays; answers whether it was not.
pub(super) fn write_new(dir: &Path, name: &str, bytes: &[u8]) -> Result<bool> {
    let path = dir.join(name);
    match written(dir, name, bytes)?.persist_noclobber(&path) {
        Ok(_) => sync_folder(dir),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
        Err(e) => return Err(Error::file(&path, e.error)),
    }
    Ok(true)
}

/// An empty file in `dir` that is to become `name`.
pub(super) fn temporary(dir: &Path, name: &str) -> Result<NamedTempFile> {
    // As any new file: what the process's mask leaves.
    let permissions = Permissions::from_mode(0o666);
    let prefix = format!("{TEMPORARY}{name}-");
    Builder::new().prefix(&prefix).permissions(permissions).tempfile_in(dir).map_err(|e| Error::file(dir.join(name), e))
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> Result<NamedTempFile> {
    let mut file = temporary(dir, name)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| Error::file(dir.join(name), e))?;
    Ok(file)
}

/// The rename itself must reach the disk; not every file system can sync a folder.
pub(super) fn sync_folder(dir: &Path) {
    drop(File::open(dir).and_then(|folder| folder.sync_all()));
}

/// Names in the folder.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::file(dir, e))?;
    entries.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()).map_err(|e| Error::file(dir, e))).collect()
}

/// Removes a file; that another process has removed it already is no error.
pub(super) fn remove(dir: &Path, name: &str) -> Result<()> {
    let path = dir.join(name);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::file(path, e)),
        _ => Ok(()),
    }
}

/// The whole of a file; none if it is not there.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(path, e)),
    }
}
