//! What can go wrong between here and a hub.

use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A text that names no repository or file.
    #[error("`{given}`: expected {expected}")]
    Spec {
        /// The text.
        given: String,
        /// What would do.
        expected: String,
    },
    /// The hub said no.
    #[error("{subject}: {message}")]
    Refused {
        /// What was asked for.
        subject: String,
        /// The reason, in a sentence.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// No answer, or broken ones, also after several attempts.
    #[error("{subject}: {message}")]
    Network {
        /// What was asked for.
        subject: String,
        /// What happened last.
        message: String,
    },
    /// What arrived is not what was published.
    #[error("{subject}: {message}")]
    Damaged {
        /// The file.
        subject: String,
        /// What differs.
        message: String,
    },
    /// A file here cannot be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        message: String,
    },
    /// Not in the cache, and nothing may be fetched.
    #[error("{0}: is not in the cache, and the network is not to be used")]
    Offline(String),
    /// Stopped because it was asked to; what has arrived stays for the next attempt.
    #[error("stopped; what has arrived is kept, and the same command goes on from there")]
    Stopped,
    /// Several files failed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))]
    Several(Vec<Error>),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    #[allow(clippy::needless_pass_by_value, reason = "named where errors are mapped")]
    pub(crate) fn file(path: &Path, why: impl ToString) -> Self {
        Self::File { path: path.to_path_buf(), message: why.to_string() }
    }

    /// What to do next, where it is known.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Refused { remedy, .. } => remedy.as_deref(),
            Self::Network { .. } => Some("the same command goes on from where it stopped"),
            Self::Damaged { .. } => Some("try again; if it stays so, the file on the hub is damaged"),
            Self::Offline(_) => Some("leave out --offline (and HF_HUB_OFFLINE), or pull it first"),
            Self::Several(all) => all.iter().find_map(Self::remedy),
            Self::Spec { .. } | Self::File { .. } | Self::Stopped => None,
        }
    }
}
