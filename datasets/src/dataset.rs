//! One interface over every layout.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::decode::Decode;
use crate::layout::{self, Layout};
use crate::picture::{RgbImage, StoredImage};
use crate::{Error, Result};

/// Further values of an item, by name.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

/// How a data set is opened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatasetOptions {
    /// The layout, where it is not to be detected.
    pub layout: Option<Layout>,
    /// Emoji: also the flags and components, 1911 pictures rather than 1636.
    pub include_flags: bool,
    /// Only the items of this split (`train`, `valid`, `test`), where the layout has splits.
    pub split: Option<String>,
    /// Parquet: the column of pictures; `image` or `img` where not given.
    pub image_column: Option<String>,
    /// Parquet and metadata files: the column of labels; `label` where not given and there.
    pub label_column: Option<String>,
    /// Parquet and metadata files: the column of captions; `text` or `caption` where not given and there.
    pub caption_column: Option<String>,
    /// How pictures are decoded.
    pub decode: Decode,
}

/// What is known of an item without decoding it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemInfo {
    /// Names the item within the set, the same on every machine.
    pub key: String,
    /// Class index.
    pub label: Option<u32>,
    /// Name of that class.
    pub class: Option<String>,
    /// Text that describes the picture.
    pub caption: Option<String>,
    /// Binary attributes, 1 or -1, one for each of [`Summary::attribute_names`]; 0 where unknown.
    pub attributes: Vec<i8>,
    /// What else the layout knows: `split`, `attributes`, `identity`, `label_vector`, `filename`, `shard`, `json`, ...
    pub metadata: Metadata,
}

/// What is known of a set as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Class names by index; empty when unlabelled or unnamed.
    pub class_names: Vec<String>,
    /// Names of binary attributes (CelebA).
    pub attribute_names: Vec<String>,
    /// What labels are: `index`, `vector`, `ClassLabel`.
    pub label_kind: Option<String>,
    /// Side of every picture, where the layout promises one.
    pub resolution: Option<usize>,
    /// Items of each split.
    pub splits: BTreeMap<String, usize>,
}

/// A picture as its reader gives it.
pub(crate) enum Content {
    /// The bytes of a picture file.
    Encoded(Vec<u8>),
    /// Pixels.
    Stored(StoredImage),
}

/// A reader of one layout. Indices are below `len()`.
pub(crate) trait Source: Send + Sync {
    fn len(&self) -> usize;
    fn key(&self, i: usize) -> String;
    fn label(&self, _i: usize) -> Option<u32> {
        None
    }
    fn caption(&self, _i: usize) -> Result<Option<String>> {
        Ok(None)
    }
    fn metadata(&self, _i: usize) -> Result<Metadata> {
        Ok(Metadata::new())
    }
    /// The split that the item belongs to.
    fn split(&self, _i: usize) -> Option<&str> {
        None
    }
    /// Size of the item as stored, for the fingerprint.
    fn stored_bytes(&self, i: usize) -> Result<u64>;
    fn content(&self, i: usize) -> Result<Content>;
    /// What the layout demands of a decoded picture.
    fn check(&self, _image: &StoredImage) -> std::result::Result<(), String> {
        Ok(())
    }
    fn summary(&self) -> Summary {
        Summary::default()
    }
}

struct Inner {
    source: Box<dyn Source>,
    /// Positions in the source, where only a part of it was asked for.
    chosen: Option<Vec<u32>>,
    layout: Layout,
    summary: Summary,
    options: DatasetOptions,
    spec: String,
    fingerprint: OnceLock<String>,
}

/// Pictures with labels, captions and keys, in a fixed order. Cheap to clone; may be read from many threads.
#[derive(Clone)]
pub struct Dataset(Arc<Inner>);

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset({}, {}, {} pictures)", self.spec(), self.layout(), self.len())
    }
}

impl Dataset {
    /// Opens `spec`: the word `emoji`, or the path of a folder or archive whose layout is detected.
    /// Errors if there is nothing there, nothing in it, or its own files contradict each other.
    pub fn open(spec: &str, options: &DatasetOptions) -> Result<Self> {
        let (layout, source) = layout::open(spec, options)?;
        Self::from_source(spec, layout, source, options)
    }

    fn from_source(spec: &str, layout: Layout, source: Box<dyn Source>, options: &DatasetOptions) -> Result<Self> {
        let mut summary = source.summary();
        for i in 0..source.len() {
            if let Some(split) = source.split(i) {
                match summary.splits.get_mut(split) {
                    Some(n) => *n += 1,
                    None => drop(summary.splits.insert(split.to_string(), 1)),
                }
            }
        }
        let chosen = options.split.as_deref().map(|split| choose(spec, source.as_ref(), split, &summary)).transpose()?;
        let options = options.clone();
        let spec = spec.to_string();
        Ok(Self(Arc::new(Inner { source, chosen, layout, summary, options, spec, fingerprint: OnceLock::new() })))
    }

    /// What was handed to [`Dataset::open`].
    pub fn spec(&self) -> &str {
        &self.0.spec
    }

    /// How it was opened.
    pub fn options(&self) -> &DatasetOptions {
        &self.0.options
    }

    /// The layout that was found.
    pub fn layout(&self) -> Layout {
        self.0.layout
    }

    /// Number of items, readable or not.
    pub fn len(&self) -> usize {
        self.0.chosen.as_ref().map_or(self.0.source.len(), Vec::len)
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Class names by index; empty when unlabelled.
    pub fn class_names(&self) -> &[String] {
        &self.0.summary.class_names
    }

    /// What is known of the set as a whole.
    pub fn summary(&self) -> &Summary {
        &self.0.summary
    }

    fn position(&self, i: usize) -> Result<usize> {
        if i >= self.len() {
            return Err(Error::argument("item", format!("an index below {}", self.len()), i));
        }
        Ok(self.0.chosen.as_ref().map_or(i, |chosen| chosen[i] as usize))
    }

    /// What is known of item `i` without decoding it. Errors if `i` is out of range or its texts cannot be read.
    pub fn info(&self, i: usize) -> Result<ItemInfo> {
        let at = self.position(i)?;
        let source = &self.0.source;
        let label = source.label(at);
        let class = label.and_then(|l| self.0.summary.class_names.get(l as usize).cloned());
        let mut metadata = source.metadata(at)?;
        if let Some(split) = source.split(at) {
            metadata.insert("split".into(), split.into());
        }
        let attributes = attributes(&metadata, self.0.summary.attribute_names.len());
        Ok(ItemInfo { key: source.key(at), label, class, caption: source.caption(at)?, attributes, metadata })
    }

    /// The key of item `i`. Errors if `i` is out of range.
    pub fn key(&self, i: usize) -> Result<String> {
        Ok(self.0.source.key(self.position(i)?))
    }

    /// The label of item `i`. Errors if `i` is out of range.
    pub fn label(&self, i: usize) -> Result<Option<u32>> {
        Ok(self.0.source.label(self.position(i)?))
    }

    /// The caption of item `i`. Errors if `i` is out of range or its text cannot be read.
    pub fn caption(&self, i: usize) -> Result<Option<String>> {
        self.0.source.caption(self.position(i)?)
    }

    /// What its reader gives of item `i`.
    pub(crate) fn content(&self, i: usize) -> Result<Content> {
        self.0.source.content(self.position(i)?)
    }

    /// The picture of item `i` as 8-bit RGB: upright and on white, unless the options say otherwise.
    /// Errors, naming the item, if it is missing, damaged or absurd; other items are not affected.
    pub fn load(&self, i: usize) -> Result<RgbImage> {
        Ok(self.0.options.decode.finish(self.stored(i)?))
    }

    /// The picture of item `i` with the channels and orientation that its file stores. Errors as [`Dataset::load`].
    pub fn stored(&self, i: usize) -> Result<StoredImage> {
        let at = self.position(i)?;
        let source = &self.0.source;
        let named = |why: String| Error::item(source.key(at), why);
        let content = source.content(at).map_err(|e| named(e.reason()))?;
        let image = match content {
            Content::Stored(image) => image,
            Content::Encoded(bytes) => self.0.options.decode.stored(&bytes).map_err(named)?,
        };
        source.check(&image).map_err(named)?;
        Ok(image)
    }

    /// SHA-256, in hexadecimal, over the listing (key, label and stored size of every item) and over what the options say of
    /// its pictures and captions. It tells sets apart without reading the pictures.
    pub fn fingerprint(&self) -> Result<String> {
        if let Some(known) = self.0.fingerprint.get() {
            return Ok(known.clone());
        }
        let mut hash = Sha256::new();
        for i in 0..self.len() {
            let at = self.position(i)?;
            let (key, label) = (self.0.source.key(at), self.0.source.label(at));
            hash.update((key.len() as u64).to_le_bytes());
            hash.update(key.as_bytes());
            hash.update(label.map_or(-1, i64::from).to_le_bytes());
            hash.update(self.0.source.stored_bytes(at).unwrap_or(u64::MAX).to_le_bytes());
        }
        let DatasetOptions { decode, caption_column, .. } = self.options();
        if *decode != Decode::default() || caption_column.is_some() {
            hash.update(format!("{decode:?} {caption_column:?}"));
        }
        let text = format!("{:x}", hash.finalize());
        Ok(self.0.fingerprint.get_or_init(|| text).clone())
    }

    /// SHA-256, in hexadecimal, over the content of the items at `indices`, in their order: the files' bytes, or the pixels where a layout
    /// has no files, and how they are decoded. Two sets of equal pictures under other names have the same. Errors if one
    /// cannot be read.
    pub fn content_sha256(&self, indices: &[usize]) -> Result<String> {
        let one = |&i: &usize| -> Result<[u8; 32]> {
            let mut hash = Sha256::new();
            match self.content(i)? {
                Content::Encoded(bytes) => hash.update(bytes),
                Content::Stored(image) => {
                    hash.update(format!("{} {} {} {}", image.width, image.height, image.channels, image.orientation));
                    hash.update(&image.pixels);
                }
            }
            Ok(hash.finalize().into())
        };
        let mut all = Sha256::new();
        for digest in indices.par_iter().map(one).collect::<Result<Vec<_>>>()? {
            all.update(digest);
        }
        all.update(format!("{:?}", self.options().decode));
        Ok(format!("{:x}", all.finalize()))
    }
}

fn attributes(metadata: &Metadata, count: usize) -> Vec<i8> {
    let values = metadata.get("attributes").and_then(serde_json::Value::as_array);
    let value = |v: &serde_json::Value| v.as_i64().map_or(0, |v| v.signum() as i8);
    let mut attributes: Vec<i8> = values.into_iter().flatten().map(value).collect();
    attributes.resize(count, 0);
    attributes
}

fn choose(spec: &str, source: &dyn Source, split: &str, summary: &Summary) -> Result<Vec<u32>> {
    if source.len() > u32::MAX as usize {
        return Err(Error::file(Path::new(spec), "more than 2^32 items cannot be split"));
    }
    let chosen: Vec<u32> = (0..source.len()).filter(|&i| source.split(i) == Some(split)).map(|i| i as u32).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = summary.splits.keys().map(String::as_str).collect();
        let expected =
            if names.is_empty() { "none: this layout has no splits".into() } else { format!("one of {}", names.join(", ")) };
        return Err(Error::argument("split", expected, split));
    }
    Ok(chosen)
}
