//! The crate's error type.

/// What can go wrong in schedules, stages, networks, training and sampling.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot be used: which, why, and what would do.
    #[error("{0}")]
    Config(String),
    /// Parts that do not belong together.
    #[error("{what} does not fit: expected {expected}, got {got}")]
    Mismatch {
        /// What was compared.
        what: String,
        /// What the other part was made with.
        expected: String,
        /// What is here.
        got: String,
    },
    /// A value that is not finite, and where it appeared.
    #[error("non-finite values {0}")]
    NonFinite(String),
    /// The run was asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A file that cannot be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// An operator, parameter or weight file.
    #[error(transparent)]
    Nn(#[from] strata_nn::Error),
    /// Run directory, optimizer or settings.
    #[error(transparent)]
    Training(#[from] strata_training::Error),
    /// Data sets and latents.
    #[error(transparent)]
    Data(#[from] strata_datasets::Error),
    /// Conditions.
    #[error(transparent)]
    Conditioning(#[from] strata_conditioning::Error),
    /// Tensor arithmetic.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A file that cannot be used, and why.
    pub fn file(path: impl Into<std::path::PathBuf>, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }
}
