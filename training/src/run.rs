//! The run directory, the unit of work: the resolved configuration, the log, samples and checkpoints.
//!
//! ```text
//! run.toml        what kind of run this is
//! config.toml     the resolved configuration, which `--config` takes again
//! stats.jsonl     the log
//! events/         the same for TensorBoard
//! samples/
//! checkpoints/<images seen>/
//! lock            held by the process that trains here
//! ```
//!
//! The same command goes on where the directory stands; a directory of another configuration is refused.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use candle_core::Device;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strata_nn::weights::write_atomic;

use crate::{
    CheckpointParts, Error, Result,
    checkpoint::{self, TEMPORARY},
    settings::first_difference,
    stats::{self, Stats},
    tensorboard::Events,
};

const FORMAT_VERSION: u32 = 1;

/// Which checkpoints stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keep {
    /// The newest ones; at least 1.
    pub last: usize,
    /// Besides, the first one at or after each multiple of so many images; 0: none.
    pub every_images: u64,
    /// Besides, the one of the lowest metric.
    pub best: bool,
}

impl Default for Keep {
    /// Two: should the newest be damaged on disk, one is left.
    fn default() -> Self {
        Self { last: 2, every_images: 0, best: false }
    }
}

/// What to do about a damaged newest checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// Stop, naming the file and the newest complete checkpoint before it.
    Refuse,
    /// Go on from the newest checkpoint that is whole.
    FallBack,
}

/// A run directory opened for training; no other process can open it meanwhile.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    keep: Keep,
    stats: Stats,
    events: Events,
    _lock: File,
}

/// What a run directory says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct RunInfo {
    /// What was trained, for example `autoencoder`.
    pub kind: String,
    /// The resolved configuration.
    pub config: toml::Table,
}

#[derive(Debug, Serialize, Deserialize)]
struct RunFile {
    format_version: u32,
    kind: String,
}

impl RunDir {
    /// Creates the directory, or opens one of the same kind and configuration to go on.
    ///
    /// # Errors
    /// A directory of another origin, kind or configuration (with the first key that differs), one that another process
    /// trains in, or one that cannot be written; nothing in it is changed then.
    pub fn open(path: impl AsRef<Path>, kind: &str, config: &toml::Table) -> Result<Self> {
        Self::open_changing(path, kind, config, &[])
    }

    /// As [`Self::open`], but the keys `may_change` (dotted) may differ, for example the length of the training; the
    /// new values are written.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_changing(path: impl AsRef<Path>, kind: &str, config: &toml::Table, may_change: &[&str]) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        refuse_foreign(&path)?;
        fs::create_dir_all(path.join("samples")).map_err(|e| unwritable(&path, &e))?;
        let lock = lock(&path)?;
        settle(&path, kind, config, may_change)?;
        let folder = path.join("checkpoints");
        fs::create_dir_all(&folder).map_err(|e| unwritable(&path, &e))?;
        remove_leftovers(&path);
        remove_leftovers(&folder);
        let seen_images = checkpoint::list(&folder).last().map_or(0, |c| c.0);
        let stats = Stats::open(path.join("stats.jsonl"), seen_images)?;
        let events = Events::new(&path, seen_images);
        Ok(Self { path, keep: Keep::default(), stats, events, _lock: lock })
    }

    /// Sets which checkpoints stay.
    ///
    /// # Errors
    /// `last` of 0.
    pub fn set_keep(&mut self, keep: Keep) -> Result<()> {
        if keep.last == 0 {
            return Err(Error::Config("checkpoints to keep: expected `last` of at least 1, got 0".to_string()));
        }
        self.keep = keep;
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where pictures of the training belong; it exists.
    pub fn samples_dir(&self) -> PathBuf {
        self.path.join("samples")
    }

    /// The complete checkpoints with the images seen, oldest first.
    pub fn checkpoints(&self) -> Vec<(u64, PathBuf)> {
        checkpoints(&self.path)
    }

    /// The newest complete checkpoint.
    pub fn latest(&self) -> Option<(u64, PathBuf)> {
        self.checkpoints().pop()
    }

    /// Writes the checkpoint at `seen_images` and removes those that [`Keep`] does not want.
    ///
    /// # Errors
    /// [`Error::Save`], for example when the disk is full or the directory was removed, with the checkpoint that is left.
    pub fn save(&self, seen_images: u64, parts: &CheckpointParts) -> Result<PathBuf> {
        let folder = self.path.join("checkpoints");
        let path = folder.join(checkpoint::folder_name(seen_images));
        let saved = checkpoint::write(&folder, seen_images, parts).map_err(|e| self.failed(path, &e))?;
        let all = self.checkpoints();
        let best = if self.keep.best { best(&all) } else { None };
        for path in superseded(&all, self.keep).into_iter().filter(|path| Some(path) != best.as_ref()) {
            if let Err(e) = checkpoint::remove(&path) {
                tracing::warn!("cannot remove the old checkpoint {}: {e}", path.display());
            }
        }
        Ok(saved)
    }

    /// The error of a file in the directory that could not be written, with the checkpoint that is left.
    pub fn failed(&self, path: PathBuf, e: &Error) -> Error {
        let there = self.path.join("checkpoints").is_dir();
        let message = if there { e.to_string() } else { "the run directory was removed".to_string() };
        Error::Save { path, message, kept: self.latest().map(|c| c.1) }
    }

    /// Reads a checkpoint of [`Self::checkpoints`] onto `device`.
    ///
    /// # Errors
    /// As [`checkpoint::read`].
    pub fn load(&self, path: &Path, device: &Device) -> Result<CheckpointParts> {
        checkpoint::read(path, device)
    }

    /// The checkpoint to go on from with its images seen; none in a fresh directory. After falling back, the damaged
    /// checkpoints and the records of the log that are later are removed.
    ///
    /// # Errors
    /// A damaged newest checkpoint under [`Damaged::Refuse`]; no whole checkpoint under [`Damaged::FallBack`].
    pub fn resume(&mut self, device: &Device, damaged: Damaged) -> Result<Option<(u64, CheckpointParts)>> {
        let mut refused = Vec::new();
        for (seen_images, path) in self.checkpoints().into_iter().rev() {
            match checkpoint::read(&path, device) {
                Ok(parts) => {
                    self.rewind(seen_images, &refused)?;
                    return Ok(Some((seen_images, parts)));
                }
                Err(e @ Error::Checkpoint { .. }) if damaged == Damaged::FallBack => {
                    tracing::warn!("{e}");
                    refused.push((path, e));
                }
                Err(e) => return Err(e),
            }
        }
        refused.pop().map_or(Ok(None), |(_, e)| Err(e))
    }

    fn rewind(&mut self, seen_images: u64, refused: &[(PathBuf, Error)]) -> Result<()> {
        for (path, _) in refused {
            checkpoint::remove(path).map_err(|e| Error::file(path, e))?;
        }
        if !refused.is_empty() {
            self.stats = Stats::open(self.path.join("stats.jsonl"), seen_images)?;
            self.events = Events::new(&self.path, seen_images);
        }
        Ok(())
    }

    /// Appends a record, an object with `seen_images`, to `stats.jsonl`, and its numbers to the event file.
    ///
    /// # Errors
    /// A record without `seen_images`; those of the file system.
    #[allow(clippy::needless_pass_by_value, reason = "callers build the record with json!")]
    pub fn log(&mut self, record: Value) -> Result<()> {
        self.stats.log(&record).map_err(|e| match e {
            e @ Error::File { .. } => self.failed(self.path.join("stats.jsonl"), &e),
            e => e,
        })?;
        self.events.log(&record);
        Ok(())
    }
}

/// What the run directory at `path` says about itself, without opening it for training.
///
/// # Errors
/// A path that is no run directory.
pub fn read_info(path: &Path) -> Result<RunInfo> {
    let run: RunFile = read_toml(&path.join("run.toml")).map_err(|e| Error::run(path, format!("not a run directory ({e})")))?;
    if run.format_version != FORMAT_VERSION {
        return Err(Error::run(path, format!("expected format version {FORMAT_VERSION}, got {}", run.format_version)));
    }
    Ok(RunInfo { kind: run.kind, config: read_toml(&path.join("config.toml"))? })
}

/// The complete checkpoints of the run directory at `path` with the images seen, oldest first.
pub fn checkpoints(path: &Path) -> Vec<(u64, PathBuf)> {
    checkpoint::list(&path.join("checkpoints"))
}

/// The records of the log of the run directory at `path`.
///
/// # Errors
/// A log that cannot be read.
pub fn read_stats(path: &Path) -> Result<Vec<Value>> {
    stats::read(&path.join("stats.jsonl"))
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    toml::from_str(&text).map_err(|e| Error::file(path, e))
}

fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    Error::run(path, format!("cannot be written ({e}); choose another output directory"))
}

/// Errors if the directory holds something that no run of ours wrote.
fn refuse_foreign(path: &Path) -> Result<()> {
    if path.join("run.toml").is_file() {
        return Ok(());
    }
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unwritable(path, &e)),
    };
    // What a process that was killed while it created the directory leaves.
    let ours = |name: &str| name.starts_with(TEMPORARY) || matches!(name, "lock" | "samples");
    let foreign = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).find(|name| !ours(name));
    match foreign {
        None => Ok(()),
        Some(name) => Err(Error::run(
            path,
            format!("is not empty and not a run directory (it holds `{name}`); choose another output directory"),
        )),
    }
}

/// Takes the lock; it goes when the process ends, however it ends.
fn lock(path: &Path) -> Result<File> {
    let file = path.join("lock");
    let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&file);
    let mut handle = open.map_err(|e| unwritable(path, &e))?;
    match handle.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = handle.read_to_string(&mut pid);
            let message =
                format!("another process (pid {}) is training in it; wait for it or choose another output directory", pid.trim());
            return Err(Error::run(path, message));
        }
        Err(TryLockError::Error(e)) => {
            tracing::warn!("cannot lock {}: {e}; make sure that one process alone trains here", file.display());
        }
    }
    let _ = handle.set_len(0).and_then(|()| handle.write_all(format!("{}\n", std::process::id()).as_bytes()));
    Ok(handle)
}

/// Writes `run.toml` and `config.toml` in a fresh directory, compares them in another.
fn settle(path: &Path, kind: &str, config: &toml::Table, may_change: &[&str]) -> Result<()> {
    let (run_file, config_file) = (path.join("run.toml"), path.join("config.toml"));
    if run_file.is_file() {
        let run: RunFile = read_toml(&run_file)?;
        if run.kind != kind {
            return Err(Error::run(
                path,
                format!("is a run of `{}`, not of `{kind}`; choose another output directory", run.kind),
            ));
        }
    } else {
        let run = RunFile { format_version: FORMAT_VERSION, kind: kind.to_string() };
        write_atomic(&run_file, toml::to_string(&run).map_err(|e| Error::file(&run_file, e))?.as_bytes())?;
    }
    if config_file.is_file() {
        let before: toml::Table = read_toml(&config_file)?;
        if let Some(difference) = first_difference(&before, config, may_change) {
            let message = format!(
                "belongs to another configuration: {difference}; choose another output directory or the same configuration"
            );
            return Err(Error::run(path, message));
        }
        if before == *config {
            return Ok(());
        }
    }
    let text = toml::to_string_pretty(config).map_err(|e| Error::file(&config_file, e))?;
    Ok(write_atomic(&config_file, text.as_bytes())?)
}

fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(TEMPORARY)) {
        let path = entry.path();
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// The checkpoint of the lowest metric, the newest of several; none where none has one.
fn best(all: &[(u64, PathBuf)]) -> Option<PathBuf> {
    let metric = |path: &PathBuf| checkpoint::read_metric(path).ok().flatten().filter(|m| m.is_finite());
    let rated = all.iter().rev().filter_map(|(_, path)| Some((metric(path)?, path)));
    rated.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, path)| path.clone())
}

/// The checkpoints that `keep` does not want; `all` is sorted.
fn superseded(all: &[(u64, PathBuf)], keep: Keep) -> Vec<PathBuf> {
    let newest = all.len().saturating_sub(keep.last);
    let era = |seen: u64| seen.checked_div(keep.every_images).unwrap_or(0);
    let opens_era = |i: usize| era(all[i].0) > if i == 0 { 0 } else { era(all[i - 1].0) };
    (0..newest).filter(|&i| !opens_era(i)).map(|i| all[i].1.clone()).collect()
}
