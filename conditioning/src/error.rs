//! The crate's error type.

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
    /// Parameters and operators.
    #[error(transparent)]
    Nn(#[from] strata_nn::Error),
    /// Tensor arithmetic.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
