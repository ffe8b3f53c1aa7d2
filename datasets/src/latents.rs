//! Latents on disk: safetensors shards, and a manifest that says what they were made from.
//!
//! A folder of latents holds `latents-00000.safetensors`, ... and `manifest.json`. While it is being written,
//! `encoding.json` stands in the manifest's place. A shard has two tensors: `moments` `[n, C, h, w]`, where C is 2Z (mean,
//! then log-variance) or Z, and `labels` `[n]` int64, -1 for none; its metadata hold the keys and captions.

mod manifest;
mod set;
mod shard;
mod writer;

pub use manifest::{LatentKind, LatentManifest, LatentType, Shard, SourceInfo};
pub use set::LatentSet;
pub use shard::LatentItem;
pub use writer::LatentWriter;
