//! Reading latents for training.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::contexts::Contexts;
use super::images::LatentImages;
use super::manifest::{LatentManifest, sha256};
use super::shard::{ShardLayout, bytes_per_number, decode, to_attributes, to_labels};
use crate::listing::Texts;
use crate::{Error, Result};

/// A finished folder of latents. Items are read where they are asked for; labels are in memory. May be read from many
/// threads.
pub struct LatentSet {
    dir: PathBuf,
    manifest: LatentManifest,
    shards: Vec<OpenShard>,
    /// Index of the first item of each shard.
    starts: Vec<usize>,
    labels: Vec<i64>,
    /// Row after row.
    attributes: Vec<i8>,
    contexts: Option<Contexts>,
    images: Option<LatentImages>,
}

struct OpenShard {
    file: File,
    path: PathBuf,
    moments: u64,
    keys: Texts,
    captions: Texts,
}

impl LatentSet {
    /// Opens the folder `dir`. Errors if it is unfinished, or a shard is missing, short or not what the manifest says.
    /// The hashes are checked by [`LatentSet::verify`].
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest = LatentManifest::read(dir)?;
        let (mut shards, mut starts, mut labels, mut attributes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for shard in &manifest.shards {
            starts.push(labels.len());
            let (open, more, more_attributes) = OpenShard::open(dir.join(&shard.file), &manifest)?;
            if more.len() != shard.count {
                let why = format!("expected {} latents as the manifest says, got {}", shard.count, more.len());
                return Err(Error::file(open.path, why));
            }
            labels.extend(more);
            attributes.extend(more_attributes);
            shards.push(open);
        }
        if labels.len() != manifest.count || labels.is_empty() {
            return Err(Error::file(dir, format!("the manifest says {} latents, its shards {}", manifest.count, labels.len())));
        }
        let (contexts, images) = (Contexts::open(dir, labels.len())?, LatentImages::open(dir, labels.len())?);
        Ok(Self { dir: dir.to_path_buf(), manifest, shards, starts, labels, attributes, contexts, images })
    }

    /// The manifest.
    pub fn manifest(&self) -> &LatentManifest {
        &self.manifest
    }

    /// Number of latents.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none; never so for an open set.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Class names by label; empty when unlabelled.
    pub fn class_names(&self) -> &[String] {
        &self.manifest.class_names
    }

    /// The label of latent `i`; none also when `i` is out of range.
    pub fn label(&self, i: usize) -> Option<u32> {
        self.labels.get(i).and_then(|&l| u32::try_from(l).ok())
    }

    /// The key of latent `i`; none when `i` is out of range.
    pub fn key(&self, i: usize) -> Option<&str> {
        let (shard, at) = self.place(i)?;
        Some(self.shards[shard].keys.get(at))
    }

    /// The caption of latent `i`.
    pub fn caption(&self, i: usize) -> Option<&str> {
        let (shard, at) = self.place(i)?;
        self.shards[shard].captions.optional(at)
    }

    /// The embedded captions; none where `strata encode` was given no text encoder.
    pub fn contexts(&self) -> Option<&Contexts> {
        self.contexts.as_ref()
    }

    /// Images that a model is shown; none where `strata encode` was asked for none.
    pub fn images(&self) -> Option<&LatentImages> {
        self.images.as_ref()
    }

    /// The binary attributes of latent `i`, 1 or -1, one for each name of the manifest; empty when `i` is out of range.
    pub fn attributes(&self, i: usize) -> &[i8] {
        let n = self.manifest.attribute_names.len();
        self.attributes.get(i * n..(i + 1) * n).unwrap_or_default()
    }

    fn place(&self, i: usize) -> Option<(usize, usize)> {
        if i >= self.len() {
            return None;
        }
        let shard = self.starts.partition_point(|&s| s <= i) - 1;
        Some((shard, i - self.starts[shard]))
    }

    /// Latent `i` as stored: C x h x w numbers. Errors if `i` is out of range or the file cannot be read.
    pub fn moments(&self, i: usize) -> Result<Vec<f32>> {
        let (shard, at) = self.place(i).ok_or_else(|| Error::argument("latent", format!("below {}", self.len()), i))?;
        let open = &self.shards[shard];
        let n = self.manifest.item_len();
        let mut bytes = vec![0; n * bytes_per_number(self.manifest.dtype)];
        let offset = open.moments + (at * bytes.len()) as u64;
        open.file.read_exact_at(&mut bytes, offset).map_err(|e| Error::file(&open.path, e))?;
        Ok(decode(&bytes, n, self.manifest.dtype))
    }

    /// Reads every shard and compares it with its hash in the manifest. Errors name every shard that differs.
    pub fn verify(&self) -> Result<()> {
        let mut problems = Vec::new();
        for shard in &self.manifest.shards {
            let path = self.dir.join(&shard.file);
            let found = std::fs::read(&path).map(|bytes| sha256(&bytes));
            match found {
                Ok(found) if found == shard.sha256 => {}
                Ok(found) => problems.push(format!("{}: sha256 {found}, the manifest says {}", shard.file, shard.sha256)),
                Err(error) => problems.push(format!("{}: {error}", shard.file)),
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::file(&self.dir, problems.join("; "))) }
    }
}

/// No header of a shard is longer.
const MAX_HEADER: u64 = 100_000_000;

impl OpenShard {
    /// The shard, its labels and its attributes.
    fn open(path: PathBuf, manifest: &LatentManifest) -> Result<(Self, Vec<i64>, Vec<i8>)> {
        let failed = |e: std::io::Error| Error::file(&path, e);
        let file = File::open(&path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut head = [0; 8];
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        let header = u64::from_le_bytes(head);
        if header > MAX_HEADER.min(len.saturating_sub(8)) {
            return Err(Error::file(&path, format!("damaged shard: a header of {header} bytes in a file of {len}")));
        }
        let mut bytes = vec![0; header as usize + 8];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let layout = ShardLayout::read(&bytes, len as usize, manifest, &path)?;
        let column = |(start, size): (usize, usize)| {
            let mut bytes = vec![0; size];
            file.read_exact_at(&mut bytes, start as u64).map(|()| bytes).map_err(failed)
        };
        let labels = to_labels(&column(layout.labels_range())?);
        let attributes = to_attributes(&column(layout.attributes_range(manifest))?);
        let keys = layout.texts.keys.iter().collect();
        let mut captions = Texts::default();
        layout.texts.captions.iter().for_each(|caption| captions.push_optional(caption.as_deref()));
        Ok((Self { file, moments: layout.moments as u64, keys, captions, path }, labels, attributes))
    }
}
