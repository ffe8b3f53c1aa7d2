//! Writing one shard: picture after picture, with what is done so far put on disk now and then.

use std::ops::Range;

use super::files::{remove, write_whole};
use super::shard::{Items, LatentItem, Progress};
use super::writer::{LatentWriter, part_name, record_name, shard_name};
use crate::{Error, Result};

/// A shard that is being written.
pub struct ShardWriter<'a> {
    folder: &'a LatentWriter,
    shard: usize,
    items: Items,
    progress: Progress,
}

impl<'a> ShardWriter<'a> {
    /// `begun`: whether a part of it is on disk.
    pub(super) fn open(folder: &'a LatentWriter, shard: usize, begun: bool) -> Result<Self> {
        let mut writer = Self { folder, shard, items: Items::default(), progress: Progress::default() };
        if begun {
            let part = folder.dir().join(part_name(shard));
            let bytes = std::fs::read(&part).map_err(|e| Error::file(&part, e))?;
            writer.items = Items::from_bytes(&bytes, folder.manifest(), &part)?;
            let progress = writer.items.texts.progress.take();
            writer.progress = progress.ok_or_else(|| Error::file(&part, "damaged shard: it does not say how far it is"))?;
        }
        Ok(writer)
    }

    /// The files that it may be in the middle of writing.
    pub(super) fn names(&self) -> [String; 3] {
        [shard_name(self.shard), record_name(self.shard), part_name(self.shard)]
    }

    /// The pictures that are still to come, as positions in the data set.
    pub fn remaining(&self) -> Range<usize> {
        let all = self.folder.pictures_of(self.shard);
        (all.start + self.progress.done).min(all.end)..all.end
    }

    /// Adds a latent of the next picture. Errors if its length does not fit or a number is not finite.
    pub fn push(&mut self, item: LatentItem<'_>) -> Result<()> {
        let manifest = self.folder.manifest();
        if item.moments.len() != manifest.item_len() {
            return Err(Error::argument("latent", format!("{} numbers", manifest.item_len()), item.moments.len()));
        }
        if item.attributes.len() != manifest.attribute_names.len() {
            let expected = format!("{} attributes", manifest.attribute_names.len());
            return Err(Error::argument("latent", expected, item.attributes.len()));
        }
        if let Some(bad) = item.moments.iter().find(|v| !v.is_finite()) {
            return Err(Error::item(item.key, format!("its latent is not finite: {bad}")));
        }
        self.items.push(item);
        Ok(())
    }

    /// Notes, with a warning, that the next picture has no latent, and why.
    pub fn leave_out(&mut self, key: &str, why: &str) {
        tracing::warn!(%key, %why, "picture left out");
        self.progress.bad.push((key.to_string(), why.to_string()));
    }

    /// The pictures of this shard that were left out so far: key and reason.
    pub fn left_out(&self) -> &[(String, String)] {
        &self.progress.bad
    }

    /// Says that the next `pictures` have been pushed or left out.
    pub fn advance(&mut self, pictures: usize) {
        self.progress.done += pictures;
    }

    /// Puts what is done on disk, so that a kill costs no more than what comes after.
    pub fn checkpoint(&self) -> Result<()> {
        if self.items.len() == 0 {
            return Ok(());
        }
        let mut items = self.items.clone();
        items.texts.progress = Some(self.progress.clone());
        write_whole(self.folder.dir(), &part_name(self.shard), &items.to_bytes(self.folder.manifest())?)
    }

    /// Puts the shard on disk. Errors if pictures are still to come, or the disk is full.
    pub fn finish(self) -> Result<()> {
        let left = self.remaining().len();
        if left > 0 {
            return Err(Error::argument("shard", "all of its pictures", format!("{left} still to come")));
        }
        self.folder.write_shard(self.shard, &self.items, self.progress.bad)?;
        remove(self.folder.dir(), &part_name(self.shard))
    }
}
