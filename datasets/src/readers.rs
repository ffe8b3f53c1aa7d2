//! One file per layout.

pub(crate) mod emoji;
pub(crate) mod files;
pub(crate) mod folder;
