//! Repositories of models and data sets on a hub, in the protocol of the Hugging Face Hub.
//!
//! - [`Spec`] reads `owner/name[@revision][/file]`.
//! - [`pull`] and [`pull_file`] fetch into the cache that Python's `huggingface_hub` keeps, in its layout and under its locks:
//!   blobs by their published hash, snapshots of links to them by commit, revisions that name a commit.
//! - [`push`] writes files as one commit.
//!
//! A blob is there only when it is whole: it grows beside its place, is resumed from there, and is moved when its size and hash are
//! the published ones. The crate hf-hub gives the addresses, names and places; it neither verifies nor retries, which is done here.
//!
//! ```no_run
//! use strata_hub::{Client, Kind, Settings, Silent, Spec, Wanted, pull};
//!
//! let client = Client::new(Settings::from_env(false))?;
//! let spec = Spec::parse("owner/name@main", Kind::Model)?;
//! let pulled = pull(&client, &spec.repo, &Wanted::All, &Silent)?;
//! println!("{} files in {}", pulled.files.len(), pulled.folder.display());
//! # Ok::<(), strata_hub::Error>(())
//! ```

mod cache;
mod client;
mod download;
mod error;
mod glob;
mod identity;
mod listing;
mod lock;
mod pull;
mod push;
mod select;
mod settings;
mod spec;

pub use client::Client;
pub use error::{Error, Result};
pub use pull::{Progress, Pulled, Silent, pull, pull_file};
pub use push::{Pushed, Upload, push};
pub use select::Wanted;
pub use settings::Settings;
pub use spec::{Kind, Repository, Spec};
