//! Writing a folder of latents, by one process or many, so that a kill at any moment loses nothing that is on disk.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{TEMPORARY, names, read_if_there, remove, write_new, write_whole};
use super::manifest::{LatentManifest, MANIFEST, Shard, UNFINISHED, sha256};
use super::shard::Items;
use super::shard_writer::ShardWriter;
use super::sums::Sums;
use crate::{Error, Result};

/// A folder of latents that is being written.
///
/// Shard k holds the latents of the pictures k n up to (k + 1) n of the data set, but for those that cannot be used; so
/// its bytes depend on k alone, and any process may write it. The manifest is written once all shards are there.
pub struct LatentWriter {
    dir: PathBuf,
    manifest: LatentManifest,
    finished: bool,
}

/// What is known of a shard that is on disk; stands beside it until the manifest is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) sha256: String,
    pub(super) count: usize,
    pub(super) sums: Sums,
    /// Key and reason of the pictures without a latent.
    pub(super) bad: Vec<(String, String)>,
}

/// How [`LatentWriter::finish`] left the folder.
#[derive(Clone, Debug, PartialEq)]
pub enum Finished {
    /// All latents are there.
    Complete(Box<LatentManifest>),
    /// So many shards are still to be written, by other processes or a later run.
    Missing(usize),
}

impl LatentWriter {
    /// Opens `dir` for the latents that `manifest` describes, of `manifest.pictures` pictures,
    /// `manifest.pictures_per_shard` to a file (its `shards`, `count` and `left_out` are ignored). A folder of the same
    /// origin is continued, or found finished. Errors if the folder holds latents of another origin (naming what differs) or
    /// anything else, or cannot be written.
    pub fn create(dir: &Path, manifest: LatentManifest) -> Result<Self> {
        let LatentManifest { pictures, pictures_per_shard, .. } = manifest;
        if manifest.item_len() == 0 || pictures == 0 || pictures_per_shard == 0 {
            let got = format!("{} numbers, {pictures} pictures, {pictures_per_shard} to a shard", manifest.item_len());
            return Err(Error::argument("latents", "a size above 0, a picture and at least one to a shard", got));
        }
        std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
        let manifest = LatentManifest { shards: Vec::new(), count: 0, left_out: 0, ..manifest };
        let mut writer = Self { dir: dir.to_path_buf(), manifest, finished: false };
        writer.take_up()?;
        Ok(writer)
    }

    fn take_up(&mut self) -> Result<()> {
        let there = names(&self.dir)?;
        let has = |name: &str| there.iter().any(|n| n == name);
        let foreign = there.iter().find(|n| !n.starts_with(TEMPORARY));
        if let (false, false, Some(name)) = (has(MANIFEST), has(UNFINISHED), foreign) {
            let why = format!("is not empty and holds no latents (`{name}`); choose another folder");
            return Err(Error::file(&self.dir, why));
        }
        if !has(MANIFEST) && !has(UNFINISHED) && write_new(&self.dir, UNFINISHED, to_json(&self.manifest)?.as_bytes())? {
            return Ok(());
        }
        // The manifest comes before the other goes, so one of them is there.
        if self.dir.join(MANIFEST).exists() {
            let found = LatentManifest::read(&self.dir)?;
            self.manifest.same_origin(&found, &self.dir)?;
            (self.manifest, self.finished) = (found, true);
            return Ok(());
        }
        self.manifest.same_origin(&LatentManifest::read_file(&self.dir.join(UNFINISHED))?, &self.dir)
    }

    /// Whether the folder was finished before: there is nothing to write.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Number of shards in all.
    pub fn shards(&self) -> usize {
        self.manifest.pictures.div_ceil(self.manifest.pictures_per_shard)
    }

    /// The pictures of a shard, as positions in the data set.
    pub fn pictures_of(&self, shard: usize) -> Range<usize> {
        let LatentManifest { pictures, pictures_per_shard: each, .. } = self.manifest;
        (shard * each).min(pictures)..((shard + 1) * each).min(pictures)
    }

    /// The shards of process `rank` of `ranks` that are not on disk yet, each where [`ShardWriter::checkpoint`] left it. No
    /// other process may write them at the same time. Errors if a file of theirs is damaged.
    pub fn missing(&self, rank: usize, ranks: usize) -> Result<Vec<ShardWriter<'_>>> {
        let there: HashSet<String> = names(&self.dir)?.into_iter().collect();
        let mut missing = Vec::new();
        for shard in (rank..self.shards()).step_by(ranks.max(1)).filter(|_| !self.finished) {
            if !there.contains(&record_name(shard)) {
                missing.push(ShardWriter::open(self, shard, there.contains(&part_name(shard)))?);
            }
        }
        let own: HashSet<String> = missing.iter().flat_map(ShardWriter::names).collect();
        let written = |name: &str| name.strip_prefix(TEMPORARY).and_then(|n| n.rsplit_once('-')).map(|(n, _)| n.to_string());
        for left_over in there.iter().filter(|name| written(name).is_some_and(|n| own.contains(&n))) {
            remove(&self.dir, left_over)?;
        }
        Ok(missing)
    }

    /// The pictures of all shards on disk that have no latent: key and reason. Errors if a record is damaged.
    pub fn bad(&self) -> Result<Vec<(String, String)>> {
        let mut bad = Vec::new();
        for shard in 0..self.shards() {
            bad.extend(self.record(shard)?.unwrap_or_default().bad);
        }
        Ok(bad)
    }

    /// Writes the manifest if all shards are there, whoever wrote them; may be called by several processes at once.
    /// Errors if more than `allowed` pictures have no latent (naming them), or none has one.
    pub fn finish(self, allowed: usize) -> Result<Finished> {
        if self.finished {
            return Ok(Finished::Complete(Box::new(self.manifest)));
        }
        let mut records = Vec::new();
        for shard in 0..self.shards() {
            records.extend(self.record(shard)?.map(|record| (shard, record)));
        }
        if records.len() < self.shards() {
            // Another process that finished meanwhile has removed the records.
            return match LatentManifest::read(&self.dir) {
                Ok(manifest) => Ok(Finished::Complete(Box::new(manifest))),
                Err(_) => Ok(Finished::Missing(self.shards() - records.len())),
            };
        }
        let bad: Vec<_> = records.iter().flat_map(|(_, record)| record.bad.clone()).collect();
        if bad.len() > allowed {
            return Err(Error::TooManyBad { bad, total: self.manifest.pictures, allowed });
        }
        let manifest = complete(&self.manifest, &records);
        if manifest.count == 0 {
            return Err(Error::argument("latents", "at least one", 0));
        }
        if let Err(error) = write_whole(&self.dir, MANIFEST, to_json(&manifest)?.as_bytes()) {
            // Another process that finished meanwhile has removed the unfinished file of ours.
            let theirs = LatentManifest::read(&self.dir).map_err(|_| error)?;
            return Ok(Finished::Complete(Box::new(theirs)));
        }
        let done = |name: &String| [RECORD, PART, TEMPORARY, UNFINISHED].iter().any(|prefix| name.starts_with(prefix));
        names(&self.dir)?.iter().filter(|name| done(name)).try_for_each(|name| remove(&self.dir, name))?;
        Ok(Finished::Complete(Box::new(manifest)))
    }

    /// What is known of a shard; none if it is not there.
    fn record(&self, shard: usize) -> Result<Option<Record>> {
        let path = self.dir.join(record_name(shard));
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::file(path, format!("damaged: {e}")))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn manifest(&self) -> &LatentManifest {
        &self.manifest
    }

    /// Puts a whole shard on disk, then its record: without the record the shard does not count.
    pub(super) fn write_shard(&self, shard: usize, items: &Items, bad: Vec<(String, String)>) -> Result<()> {
        let mut record = Record { bad, count: items.len(), ..Record::default() };
        if items.len() > 0 {
            let bytes = items.to_bytes(&self.manifest)?;
            let stored = Items::from_bytes(&bytes, &self.manifest, &self.dir.join(shard_name(shard)))?;
            record.sums = Sums::of(&stored.moments, &self.manifest);
            record.sha256 = sha256(&bytes);
            write_whole(&self.dir, &shard_name(shard), &bytes)?;
        }
        let text = serde_json::to_string(&record).map_err(|e| Error::argument("record", "values that JSON can hold", e))?;
        write_whole(&self.dir, &record_name(shard), text.as_bytes())
    }
}

const RECORD: &str = "shard-";
const PART: &str = "part-";

pub(super) fn record_name(shard: usize) -> String {
    format!("{RECORD}{shard:05}.json")
}

pub(super) fn shard_name(shard: usize) -> String {
    format!("latents-{shard:05}.safetensors")
}

pub(super) fn part_name(shard: usize) -> String {
    format!("{PART}{shard:05}.safetensors")
}

fn complete(manifest: &LatentManifest, records: &[(usize, Record)]) -> LatentManifest {
    let mut manifest = manifest.clone();
    let mut sums = Sums::default();
    for (shard, record) in records {
        manifest.left_out += record.bad.len();
        if record.count > 0 {
            sums.add(&record.sums);
            manifest.count += record.count;
            let (sha256, count) = (record.sha256.clone(), record.count);
            manifest.shards.push(Shard { file: shard_name(*shard), sha256, count });
        }
    }
    if manifest.shift.is_empty() {
        manifest.shift = sums.mean();
    }
    if manifest.scale.is_empty() {
        manifest.scale = sums.inverse_deviation();
    }
    manifest
}

fn to_json(manifest: &LatentManifest) -> Result<String> {
    serde_json::to_string_pretty(manifest).map_err(|e| Error::argument("manifest", "values that JSON can hold", e))
}
