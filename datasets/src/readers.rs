//! One file per layout.

pub(crate) mod celeba;
pub(crate) mod cifar;
pub(crate) mod edm;
pub(crate) mod emoji;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod lmdb;
pub(crate) mod metadata;
pub(crate) mod mnist;
pub(crate) mod npz;
pub(crate) mod parquet;
pub(crate) mod pickle;
mod regions;
mod table;
mod tar;
pub(crate) mod tree;
pub(crate) mod webdataset;
pub(crate) mod zip;
