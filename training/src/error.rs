//! The crate's error type.

use std::path::PathBuf;

/// What can go wrong in and around a training run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that cannot be used.
    #[error("{0}")]
    Config(String),
    /// The processes that train together cannot go on.
    #[error("the ranks of this run: {0}")]
    Peers(String),
    /// A configuration key that does not exist.
    #[error("unknown key `{key}` in {origin}{}; known here: {}", hint(nearest.as_deref()), known.join(", "))]
    UnknownKey {
        /// The key, dotted.
        key: String,
        /// Where it was written: a file, `--set`, a preset, a flag.
        origin: String,
        /// The known key that is nearest to it.
        nearest: Option<String>,
        /// All keys that exist beside it, dotted.
        known: Vec<String>,
    },
    /// A configuration value that does not fit its key.
    #[error("key `{key}` in {origin}: expected {expected}, got {got}")]
    Setting {
        /// The key, dotted.
        key: String,
        /// Where it was written.
        origin: String,
        /// What fits.
        expected: String,
        /// What was given.
        got: String,
    },
    /// Several wrong settings.
    #[error("{} settings are wrong:\n  {}", .0.len(), .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Settings(Vec<Error>),
    /// A file that cannot be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A run directory that cannot be used.
    #[error("run directory {}: {message}", path.display())]
    Run {
        /// The directory.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// A checkpoint that cannot be read.
    #[error("damaged checkpoint: {}: {message}; {}", path.display(), previous_words(previous.as_ref()))]
    Checkpoint {
        /// The file that is damaged.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// The newest complete checkpoint before it.
        previous: Option<PathBuf>,
    },
    /// A checkpoint, or another file of a run, that could not be written.
    #[error("cannot save {}: {message}; {}", path.display(), kept_words(kept.as_ref()))]
    Save {
        /// Where it should have been.
        path: PathBuf,
        /// Why not.
        message: String,
        /// The newest complete checkpoint that is still there.
        kept: Option<PathBuf>,
    },
    /// An error of `strata-nn`.
    #[error(transparent)]
    Nn(#[from] strata_nn::Error),
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A file that cannot be used, and why.
    pub fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }

    /// A run directory that cannot be used, and why.
    pub fn run(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Self {
        Self::Run { path: path.into(), message: message.to_string() }
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|key| format!("; did you mean `{key}`?")).unwrap_or_default()
}

fn previous_words(previous: Option<&PathBuf>) -> String {
    match previous {
        Some(path) => format!("remove it to go on from the newest complete one before it, {}", path.display()),
        None => "there is no complete one before it: begin anew in another directory".to_string(),
    }
}

fn kept_words(kept: Option<&PathBuf>) -> String {
    match kept {
        Some(path) => format!("the last complete checkpoint is kept: {}", path.display()),
        None => "there is no complete checkpoint".to_string(),
    }
}
