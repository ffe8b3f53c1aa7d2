//! Reading latents for training.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::manifest::{LatentManifest, sha256};
use super::shard::{ShardLayout, ShardTexts, bytes_per_number, decode, to_labels};
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
}

struct OpenShard {
    file: File,
    path: PathBuf,
    moments: u64,
    texts: ShardTexts,
}

impl LatentSet {
    /// Opens the folder `dir`. Errors if it is unfinished, or a shard is missing, short or not what the manifest says.
    /// The hashes are checked by [`LatentSet::verify`].
    pub fn open(dir: &Path) -> Result<Self> {
        let manifest = LatentManifest::read(dir)?;
        let (mut shards, mut starts, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for shard in &manifest.shards {
            starts.push(labels.len());
            let (open, more) = OpenShard::open(dir.join(&shard.file), &manifest)?;
            if more.len() != shard.count {
                let why = format!("expected {} latents as the manifest says, got {}", shard.count, more.len());
                return Err(Error::file(open.path, why));
            }
            labels.extend(more);
            shards.push(open);
        }
        if labels.len() != manifest.count || labels.is_empty() {
            return Err(Error::file(dir, format!("the manifest says {} latents, its shards {}", manifest.count, labels.len())));
        }
        Ok(Self { dir: dir.to_path_buf(), manifest, shards, starts, labels })
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
        self.shards[shard].texts.keys.get(at).map(String::as_str)
    }

    /// The caption of latent `i`.
    pub fn caption(&self, i: usize) -> Option<&str> {
        let (shard, at) = self.place(i)?;
        self.shards[shard].texts.captions.get(at)?.as_deref()
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
    fn open(path: PathBuf, manifest: &LatentManifest) -> Result<(Self, Vec<i64>)> {
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
        let (start, size) = layout.labels_range();
        let mut labels = vec![0; size];
        file.read_exact_at(&mut labels, start as u64).map_err(failed)?;
        Ok((Self { file, moments: layout.moments as u64, texts: layout.texts, path }, to_labels(&labels)))
    }
}
