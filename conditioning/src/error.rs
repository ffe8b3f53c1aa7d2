//! The crate's error type.

use std::path::{Path, PathBuf};

/// What can go wrong in conditioning.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Batches with different parts cannot be stacked.
    #[error("cannot stack conditions: {present} of {batches} batches have a `{part}`")]
    Parts {
        /// `vector`, `context` or `concat`.
        part: &'static str,
        /// Batches that have it.
        present: usize,
        /// All batches.
        batches: usize,
    },
    /// A class that the embedder does not have.
    #[error("class {class}: expected a number below {classes}")]
    Class {
        /// What was asked for.
        class: u32,
        /// Classes, the null class not counted.
        classes: usize,
    },
    /// A setting that cannot be used.
    #[error("{0}")]
    Config(String),
    /// A file that cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A text that a tokenizer cannot take.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// Parameters and operators.
    #[error(transparent)]
    Nn(#[from] strata_nn::Error),
    /// Tensor arithmetic.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A file that cannot be used, and why.
    pub(crate) fn file(path: &Path, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.to_path_buf(), message: message.to_string() }
    }

    /// What the tokenizer says.
    pub(crate) fn tokenizer(error: impl std::fmt::Display) -> Self {
        Self::Tokenizer(error.to_string())
    }
}
