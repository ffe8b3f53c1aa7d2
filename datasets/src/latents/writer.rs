//! Writing latents so that a kill at any moment loses and repeats nothing that is on disk.

use std::path::{Path, PathBuf};

use super::manifest::{LatentKind, LatentManifest, MANIFEST, Shard, UNFINISHED, remove_temporaries, sha256, write_whole};
use super::shard::{Items, LatentItem};
use crate::{Error, Result};

/// Writes a folder of latents, shard by shard.
///
/// The caller encodes its pictures in a fixed order, skips the first [`LatentWriter::written`], and pushes the rest.
pub struct LatentWriter {
    dir: PathBuf,
    manifest: LatentManifest,
    shard_items: usize,
    pending: Items,
    sums: Sums,
    finished: bool,
}

impl LatentWriter {
    /// Opens `dir` for latents that `manifest` describes (its `shards` and `count` are ignored), `shard_items` to a file.
    /// A folder of the same origin is continued, or found finished. Errors if the folder holds latents of another origin
    /// (naming what differs) or anything else, or cannot be written.
    pub fn create(dir: &Path, manifest: LatentManifest, shard_items: usize) -> Result<Self> {
        if manifest.item_len() == 0 || shard_items == 0 {
            let got = format!("{} numbers, {shard_items} to a shard", manifest.item_len());
            return Err(Error::argument("latents", "a size above 0 and at least one to a shard", got));
        }
        std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
        let manifest = LatentManifest { shards: Vec::new(), count: 0, ..manifest };
        let sums = Sums::new(manifest.channels);
        let mut writer = Self { dir: dir.to_path_buf(), manifest, shard_items, pending: Items::default(), sums, finished: false };
        writer.resume()?;
        Ok(writer)
    }

    fn resume(&mut self) -> Result<()> {
        remove_temporaries(&self.dir)?;
        if self.dir.join(MANIFEST).exists() {
            let found = LatentManifest::read(&self.dir)?;
            self.manifest.same_origin(&found, &self.dir)?;
            (self.manifest, self.finished) = (found, true);
            return Ok(());
        }
        let unfinished = self.dir.join(UNFINISHED);
        if unfinished.exists() {
            self.manifest.same_origin(&LatentManifest::read_file(&unfinished)?, &self.dir)?;
            return self.take_in_shards();
        }
        if let Some(entry) = std::fs::read_dir(&self.dir).map_err(|e| Error::file(&self.dir, e))?.next() {
            let name = entry.map_err(|e| Error::file(&self.dir, e))?.file_name();
            let why = format!("is not empty and holds no latents (`{}`); choose another folder", name.to_string_lossy());
            return Err(Error::file(&self.dir, why));
        }
        write_whole(&self.dir, UNFINISHED, to_json(&self.manifest)?.as_bytes())
    }

    /// Takes up full shards as they are, and the items of a shorter one, which was the last, as pending.
    fn take_in_shards(&mut self) -> Result<()> {
        loop {
            let path = self.dir.join(self.next_name());
            if !path.exists() {
                return Ok(());
            }
            let bytes = std::fs::read(&path).map_err(|e| Error::file(&path, e))?;
            let items = Items::from_bytes(&bytes, &self.manifest, &path)?;
            self.sums.add(&items.moments, &self.manifest);
            if items.len() < self.shard_items {
                self.pending = items;
                return Ok(());
            }
            self.note_shard(&bytes, items.len());
        }
    }

    fn next_name(&self) -> String {
        format!("latents-{:05}.safetensors", self.manifest.shards.len())
    }

    fn note_shard(&mut self, bytes: &[u8], count: usize) {
        let file = self.next_name();
        self.manifest.shards.push(Shard { file, sha256: sha256(bytes), count });
        self.manifest.count += count;
    }

    /// How many latents the folder holds already: the caller goes on with the one after.
    pub fn written(&self) -> usize {
        self.manifest.count + self.pending.len()
    }

    /// Whether the folder was finished before: there is nothing to push.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Adds the next latent. Errors if its length does not fit, a number is not finite, the folder is finished or the
    /// disk is full.
    pub fn push(&mut self, moments: &[f32], label: Option<u32>, key: &str, caption: Option<&str>) -> Result<()> {
        if self.finished {
            return Err(Error::file(&self.dir, "the latents are finished; nothing can be added"));
        }
        if moments.len() != self.manifest.item_len() {
            return Err(Error::argument("latent", format!("{} numbers", self.manifest.item_len()), moments.len()));
        }
        if let Some(bad) = moments.iter().find(|v| !v.is_finite()) {
            return Err(Error::item(key, format!("its latent is not finite: {bad}")));
        }
        self.pending.push(LatentItem { moments, label, key, caption });
        self.sums.add(moments, &self.manifest);
        if self.pending.len() == self.shard_items {
            let bytes = self.write_pending()?;
            self.note_shard(&bytes, self.shard_items);
            self.pending = Items::default();
        }
        Ok(())
    }

    /// Puts what is pending on disk as a short shard, which a continued run fills up: nothing is lost by stopping now.
    pub fn checkpoint(&self) -> Result<()> {
        if self.pending.len() > 0 {
            self.write_pending()?;
        }
        Ok(())
    }

    fn write_pending(&self) -> Result<Vec<u8>> {
        let bytes = self.pending.to_bytes(&self.manifest)?;
        write_whole(&self.dir, &self.next_name(), &bytes)?;
        Ok(bytes)
    }

    /// Writes the last shard and the manifest. Errors if nothing was pushed or the disk is full.
    pub fn finish(mut self) -> Result<LatentManifest> {
        if self.finished {
            return Ok(self.manifest);
        }
        if self.written() == 0 {
            return Err(Error::argument("latents", "at least one", 0));
        }
        if self.pending.len() > 0 {
            let bytes = self.write_pending()?;
            self.note_shard(&bytes, self.pending.len());
        }
        if self.manifest.shift.is_empty() {
            self.manifest.shift = self.sums.mean();
        }
        if self.manifest.scale.is_empty() {
            self.manifest.scale = self.sums.inverse_deviation();
        }
        write_whole(&self.dir, MANIFEST, to_json(&self.manifest)?.as_bytes())?;
        let unfinished = self.dir.join(UNFINISHED);
        std::fs::remove_file(&unfinished).map_err(|e| Error::file(unfinished, e))?;
        Ok(self.manifest)
    }
}

fn to_json(manifest: &LatentManifest) -> Result<String> {
    serde_json::to_string_pretty(manifest).map_err(|e| Error::argument("manifest", "values that JSON can hold", e))
}

/// Sums of the latents by channel, in the order of the items, so that a continued run has the same ones.
struct Sums {
    n: f64,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Sums {
    fn new(channels: usize) -> Self {
        Self { n: 0.0, first: vec![0.0; channels], second: vec![0.0; channels] }
    }

    /// Adds whole items. E z^2 of a posterior is mean^2 + variance.
    fn add(&mut self, moments: &[f32], manifest: &LatentManifest) {
        let area = manifest.height * manifest.width;
        for item in moments.chunks_exact(manifest.item_len()) {
            let (means, log_variances) = item.split_at(manifest.channels * area);
            for (c, plane) in means.chunks_exact(area).enumerate() {
                for (k, &mean) in plane.iter().enumerate() {
                    let variance = match manifest.kind {
                        LatentKind::Moments => f64::from(log_variances[c * area + k].clamp(-30.0, 20.0)).exp(),
                        LatentKind::Continuous => 0.0,
                    };
                    self.first[c] += f64::from(mean);
                    self.second[c] += f64::from(mean) * f64::from(mean) + variance;
                }
            }
            self.n += area as f64;
        }
    }

    fn mean(&self) -> Vec<f32> {
        self.first.iter().map(|s| (s / self.n) as f32).collect()
    }

    /// 1 / standard deviation; 1 for a channel that is constant.
    fn inverse_deviation(&self) -> Vec<f32> {
        let variance = |(s, q): (&f64, &f64)| q / self.n - (s / self.n).powi(2);
        let inverse = |v: f64| if v > 1e-12 { v.sqrt().recip() as f32 } else { 1.0 };
        self.first.iter().zip(&self.second).map(|sq| inverse(variance(sq))).collect()
    }
}
