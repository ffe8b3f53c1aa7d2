//! The crate's error type.

use std::path::PathBuf;

/// What can go wrong between a folder of pictures and a shard of latents.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder that cannot be read or written, or whose content is not what its layout says.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A data set in which there is nothing to learn from.
    #[error("{}: no pictures found (looked for {looked_for})", path.display())]
    NoImages {
        /// Folder or archive.
        path: PathBuf,
        /// What would have been accepted.
        looked_for: String,
    },
    /// One picture that cannot be used.
    #[error("picture `{key}`: {message}")]
    Item {
        /// Its key in the listing.
        key: String,
        /// Why.
        message: String,
    },
    /// More unusable pictures than tolerated: every one of them (the first 50), one a line.
    #[error("{} of {total} pictures cannot be used, at most {allowed} are tolerated:\n{}", bad.len(), list(bad))]
    TooManyBad {
        /// Key and reason.
        bad: Vec<(String, String)>,
        /// Pictures looked at.
        total: usize,
        /// Tolerated.
        allowed: usize,
    },
    /// An argument that does not fit.
    #[error("{what}: expected {expected}, got {got}")]
    Argument {
        /// Which.
        what: &'static str,
        /// What fits.
        expected: String,
        /// What was given.
        got: String,
    },
    /// Latents or an archive of another origin: neither is overwritten or appended to.
    #[error("{}: is there already, of another origin: {what} is {found} there, {wanted} here", path.display())]
    Origin {
        /// The folder or file.
        path: PathBuf,
        /// What differs.
        what: String,
        /// The value on disk.
        found: String,
        /// The value of this run.
        wanted: String,
    },
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A file that cannot be used, and why.
    pub fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }

    /// A picture that cannot be used, and why.
    pub fn item(key: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Self::Item { key: key.into(), message: message.to_string() }
    }

    /// An argument that does not fit.
    pub fn argument(what: &'static str, expected: impl Into<String>, got: impl std::fmt::Display) -> Self {
        Self::Argument { what, expected: expected.into(), got: got.to_string() }
    }

    /// The reason alone, for a list in which the key stands beside it.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Item { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

fn list(bad: &[(String, String)]) -> String {
    let mut lines: Vec<String> = bad.iter().take(50).map(|(key, why)| format!("  {key}: {why}")).collect();
    if bad.len() > 50 {
        lines.push(format!("  and {} more", bad.len() - 50));
    }
    lines.join("\n")
}
