//! Latents on disk: safetensors shards, and a manifest that says what they were made from.
//!
//! A folder of latents holds `latents-00000.safetensors`, ... and `manifest.json`. While it is being written,
//! `encoding.json` stands in the manifest's place, `shard-00000.json` beside each shard that is whole, and
//! `part-00000.safetensors` for one that is not. A shard has the tensors `moments` `[n, C, h, w]`, where C is 2Z (mean,
//! then log-variance) or Z; `labels` `[n]` int64, -1 for none; and, of sets that have them, `attributes` `[n, A]` int8,
//! 1 or -1. Its metadata hold the keys and captions. With a text or picture encoder there is
//! `captions.safetensors` or `embeddings.safetensors`, too: see [`Contexts`]; for models that are shown images, `images.safetensors`: see [`LatentImages`].

mod beside;
mod contexts;
mod files;
mod images;
mod manifest;
mod set;
mod shard;
mod shard_writer;
mod sums;
mod writer;

pub use contexts::{Contexts, EmbeddingSource, PictureContextsWriter};
pub use images::{ImageKind, ImageSource, LatentImages, LatentImagesWriter};
pub use manifest::{LatentKind, LatentManifest, LatentType, Shard, SourceInfo};
pub use set::LatentSet;
pub use shard::LatentItem;
pub use shard_writer::ShardWriter;
pub use writer::{Finished, LatentWriter};
