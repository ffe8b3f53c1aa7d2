//! One process at a time: locks on files, which Python's libraries take as well.

use std::{
    fs::{File, TryLockError},
    path::Path,
    time::Duration,
};

use crate::{Error, Result};

/// Between two attempts to take a lock.
const PAUSE: Duration = Duration::from_millis(50);

/// A lock that is held until it is dropped.
pub(crate) struct Lock(#[allow(dead_code, reason = "closing the file frees the lock")] File);

impl Lock {
    /// Takes the lock at `path`, when nobody else has it; `stop` is asked in between.
    pub(crate) fn take(path: &Path, stop: &dyn Fn() -> bool) -> Result<Self> {
        let failed = |e: std::io::Error| Error::file(path, e);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options().create(true).append(true).open(path).map_err(failed)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if stop() => return Err(Error::Stopped),
                Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
                // Some network file systems have no locks; Python's libraries go on without them, too.
                Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => return Ok(Self(file)),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
        }
    }
}
