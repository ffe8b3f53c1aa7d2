//! Images and labels in, latents out.
//!
//! - [`Dataset`]: pictures with labels, captions and keys behind one interface, whatever their layout on disk.
//! - [`Transform`]: from a picture of any size to a square, with the published preparations' results ([`rules`],
//!   [`resize`]).
//! - [`prepare()`], [`ImageLoader`]: pictures for training, all in memory or streamed by workers; [`Order`] and [`split()`]
//!   say which, as functions of their coordinates.
//! - [`convert`](convert()): any of them as one archive that other programs read as well.
//! - [`LatentWriter`], [`LatentSet`]: shards of latents with a manifest that says what they were made from.
//!
//! A broken picture is an error of that picture alone. Whoever reads many counts and names them, and stops when they are
//! more than tolerated.
//!
//! ```
//! use strata_datasets::{Dataset, DatasetOptions, Transform, prepare, split};
//!
//! let emoji = Dataset::open("emoji", &DatasetOptions::default())?;
//! let held_out = split(&emoji, 0.02).held_out;
//! let pictures = prepare(&emoji, &held_out, &Transform::new(32), 0.01, &|_done| {})?;
//! assert_eq!(pictures.images.len(), held_out.len() * 32 * 32 * 3);
//! # Ok::<(), strata_datasets::Error>(())
//! ```

mod ahead;
mod convert;
mod dataset;
mod decode;
mod error;
mod jpeg;
mod latents;
mod layout;
mod listing;
mod loader;
pub mod npz;
mod order;
mod picture;
mod prepare;
mod readers;
pub mod resize;
pub mod rules;
mod stream;
mod transform;

pub use ahead::Ahead;
pub use convert::{ConvertOptions, Converted, convert};
pub use dataset::{Dataset, DatasetOptions, ItemInfo, Metadata, Summary};
pub use decode::{Decode, dimensions};
pub use error::{Error, Result};
pub use latents::{
    Contexts, EmbeddingSource, Finished, ImageKind, ImageSource, LatentImages, LatentImagesWriter, LatentItem, LatentKind,
    LatentManifest, LatentSet, LatentType, LatentWriter, PictureContextsWriter, Shard, ShardWriter, SourceInfo,
};
pub use layout::Layout;
pub use loader::{ImageBatch, ImageLoader, LoaderOptions};
pub use order::{Order, Split, split, split_latents};
pub use picture::{Alpha, RgbImage, StoredImage};
pub use prepare::{Prepared, PreparedItem, prepare, probe, tolerated};
pub use stream::PictureStream;
pub use transform::{Crop, Resampling, Transform};
