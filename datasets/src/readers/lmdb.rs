//! LSUN's layout: an LMDB environment whose values are picture files. Read in place, without locks or a writer.

use std::path::Path;

use crate::dataset::{Content, Source};
use crate::listing::Texts;
use crate::readers::regions::{Numbers, RangeFile};
use crate::{Error, Result};

const MAGIC: u32 = 0xBEEF_C0DE;
const HEADER: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const OVERFLOW: u16 = 4;
const BIG: u16 = 1;
const NO_PAGE: u64 = u64::MAX;
/// A tree of this depth would hold more than any disk.
const MAX_DEPTH: usize = 32;

/// The pictures of an environment, in key order.
pub(crate) struct Lmdb {
    file: RangeFile,
    page_size: u64,
    keys: Texts,
    /// Offset and length of each value.
    values: Vec<(u64, u32)>,
    pages_read: u64,
}

impl Lmdb {
    /// Opens the folder with `data.mdb`, or that file. Errors if it is no environment, or a page is not where it should be.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let data = if path.is_dir() { path.join("data.mdb") } else { path.to_path_buf() };
        let mut set =
            Self { file: RangeFile::open(&data)?, page_size: 0, keys: Texts::default(), values: Vec::new(), pages_read: 0 };
        let root = set.root()?;
        if root != NO_PAGE {
            set.walk(root, 0)?;
        }
        if set.values.is_empty() {
            return Err(Error::NoImages { path: data, looked_for: "values of an LMDB environment".into() });
        }
        Ok(set)
    }

    /// The main tree's root, from the newer of the two meta pages.
    fn root(&mut self) -> Result<u64> {
        let first = self.file.read(0, 152)?;
        // The page size stands where the free list's padding would.
        let size = first.u32_at(HEADER + 24).unwrap_or(0);
        if first.u32_at(HEADER) != Some(MAGIC) || !(512..=65_536).contains(&size) || !size.is_power_of_two() {
            return Err(self.file.error("not an LMDB environment"));
        }
        self.page_size = u64::from(size);
        let metas = [first, self.file.read(self.page_size, 152)?];
        let mut newest = None;
        for meta in &metas {
            let version = meta.u32_at(HEADER + 4).map(|v| v & 0xFFFF);
            if meta.u32_at(HEADER) != Some(MAGIC) || version != Some(1) {
                return Err(self.file.error(format!("not an LMDB environment of version 1 (version {version:?})")));
            }
            let found = meta.u64_at(HEADER + 128).zip(meta.u64_at(HEADER + 112));
            newest = newest.max(found);
        }
        newest.map(|(_, root)| root).ok_or_else(|| self.file.error("its meta pages are damaged"))
    }

    fn page(&mut self, number: u64) -> Result<Vec<u8>> {
        self.pages_read += 1;
        if self.pages_read > self.file.len() / self.page_size {
            return Err(self.file.error("its pages form a loop"));
        }
        let offset = number.checked_mul(self.page_size).ok_or_else(|| self.file.error(format!("page {number}")))?;
        let page = self.file.read(offset, self.page_size)?;
        if page.u64_at(0) != Some(number) {
            return Err(self.file.error(format!("page {number} is damaged")));
        }
        Ok(page)
    }

    fn walk(&mut self, number: u64, depth: usize) -> Result<()> {
        let page = self.page(number)?;
        let path = self.file.path().to_path_buf();
        let bad = |why: &str| Error::file(&path, format!("page {number}: {why}"));
        let flags = page.u16_at(10).unwrap_or(0);
        if depth > MAX_DEPTH || flags & (BRANCH | LEAF) == 0 {
            return Err(bad("neither branch nor leaf"));
        }
        let nodes = usize::from(page.u16_at(12).unwrap_or(0)).checked_sub(HEADER).ok_or_else(|| bad("damaged"))? / 2;
        for n in 0..nodes {
            let at = usize::from(page.u16_at(HEADER + 2 * n).ok_or_else(|| bad("damaged"))?);
            let head = page.u32_at(at).zip(page.u16_at(at + 4)).zip(page.u16_at(at + 6));
            let ((low, node_flags), key_len) = head.ok_or_else(|| bad("a node outside of it"))?;
            if flags & BRANCH != 0 {
                self.walk(u64::from(low) | u64::from(node_flags) << 32, depth + 1)?;
                continue;
            }
            let start = at + 8 + usize::from(key_len);
            let key = page.get(at + 8..start).ok_or_else(|| bad("a key outside of it"))?;
            let value = self.value(number, &page, node_flags, start, low)?;
            self.keys.push(&String::from_utf8_lossy(key));
            self.values.push((value, low));
        }
        Ok(())
    }

    /// Offset of a leaf node's value of `len` bytes: in the page, or in overflow pages of its own.
    fn value(&self, number: u64, page: &[u8], flags: u16, start: usize, len: u32) -> Result<u64> {
        let bad = |why: &str| self.file.error(format!("page {number}: {why}"));
        match flags {
            0 if start + len as usize <= page.len() => Ok(number * self.page_size + start as u64),
            BIG => {
                let first =
                    page.u64_at(start).and_then(|p| p.checked_mul(self.page_size)).ok_or_else(|| bad("a damaged value"))?;
                let head = self.file.read(first, HEADER as u64)?;
                let room = u64::from(head.u32_at(12).unwrap_or(0)) * self.page_size;
                let inside = first.checked_add(room).is_some_and(|end| end <= self.file.len());
                if head.u16_at(10) != Some(OVERFLOW) || !inside || HEADER as u64 + u64::from(len) > room {
                    return Err(bad("a value whose pages are damaged"));
                }
                Ok(first + HEADER as u64)
            }
            _ => Err(bad("a value that is no picture: several to a key, a named tree, or outside of the page")),
        }
    }
}

impl Source for Lmdb {
    fn len(&self) -> usize {
        self.values.len()
    }

    fn key(&self, i: usize) -> String {
        self.keys.get(i).to_string()
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        Ok(u64::from(self.values[i].1))
    }

    fn content(&self, i: usize) -> Result<Content> {
        let (offset, len) = self.values[i];
        self.file.read(offset, u64::from(len)).map(Content::Encoded)
    }
}
