//! The crate's error type.

use std::path::PathBuf;

/// What can go wrong in an autoencoder, its training and its files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot be used.
    #[error("`{key}`: expected {expected}, got {got}")]
    Config {
        /// The setting, dotted.
        key: String,
        /// What can be used.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A tensor or picture that does not fit the network.
    #[error("{what}: expected {expected}, got {got}")]
    Input {
        /// What it is.
        what: &'static str,
        /// What fits.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A file or folder that cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// From whoever watches.
    #[error("{0}")]
    Watcher(String),
    /// From operators, parameters and weight files.
    #[error(transparent)]
    Nn(#[from] strata_nn::Error),
    /// From the images or the latent shards.
    #[error(transparent)]
    Datasets(#[from] strata_datasets::Error),
    /// From the run directory or the optimizer.
    #[error(transparent)]
    Training(#[from] strata_training::Error),
    /// From candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn config(key: impl Into<String>, expected: impl Into<String>, got: impl std::fmt::Display) -> Self {
        Self::Config { key: key.into(), expected: expected.into(), got: got.to_string() }
    }

    pub(crate) fn input(what: &'static str, expected: impl Into<String>, got: impl std::fmt::Debug) -> Self {
        Self::Input { what, expected: expected.into(), got: format!("{got:?}") }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }
}
