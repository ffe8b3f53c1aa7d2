//! The set that comes with the program: Noto emoji, 64 x 64 on white, with names and ten categories.

use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::dataset::{Content, Metadata, Source, Summary};
use crate::decode::Decode;
use crate::picture::StoredImage;
use crate::{Error, Result};

const SHEET: &[u8] = include_bytes!("../../assets/emoji-64.png");
const LIST: &[u8] = include_bytes!("../../assets/emoji.json");
const SIDE: usize = 64;
/// Left out by default: flags teach letters and stripes, components are hair.
const LEFT_OUT: [&str; 2] = ["Flags", "Component"];

#[derive(Deserialize)]
struct Entry {
    name: String,
    category: String,
    subcategory: String,
    unicode: String,
}

/// The emoji, in order of the sheet.
pub(crate) struct Emoji {
    entries: Vec<(usize, Entry)>,
    classes: Vec<String>,
    sheet: OnceLock<std::result::Result<StoredImage, String>>,
}

impl Emoji {
    /// Reads the list; the sheet is decoded when the first picture is asked for.
    pub(crate) fn open(include_flags: bool) -> Result<Self> {
        let all: Vec<Entry> = serde_json::from_slice(LIST).map_err(|e| Error::file(Path::new("emoji"), e))?;
        let wanted = |e: &Entry| include_flags || !LEFT_OUT.contains(&e.category.as_str());
        let entries: Vec<(usize, Entry)> = all.into_iter().enumerate().filter(|(_, e)| wanted(e)).collect();
        let mut classes: Vec<String> = entries.iter().map(|(_, e)| e.category.clone()).collect();
        classes.sort_unstable();
        classes.dedup();
        Ok(Self { entries, classes, sheet: OnceLock::new() })
    }

    fn sheet(&self) -> Result<&StoredImage> {
        let decoded = self.sheet.get_or_init(|| Decode::default().stored(SHEET));
        decoded.as_ref().map_err(|why| Error::file(Path::new("emoji"), why))
    }
}

impl Source for Emoji {
    fn len(&self) -> usize {
        self.entries.len()
    }

    /// The code points: names are not unique.
    fn key(&self, i: usize) -> String {
        self.entries[i].1.unicode.clone()
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.classes.binary_search(&self.entries[i].1.category).ok().map(|c| c as u32)
    }

    fn caption(&self, i: usize) -> Result<Option<String>> {
        Ok(Some(self.entries[i].1.name.clone()))
    }

    fn metadata(&self, i: usize) -> Result<Metadata> {
        Ok(Metadata::from_iter([("subcategory".into(), self.entries[i].1.subcategory.clone().into())]))
    }

    fn stored_bytes(&self, _i: usize) -> Result<u64> {
        Ok((SIDE * SIDE * 3) as u64)
    }

    fn content(&self, i: usize) -> Result<Content> {
        let sheet = self.sheet()?;
        let columns = sheet.width / SIDE;
        let (place, c) = (self.entries[i].0, sheet.channels);
        let (left, top) = (place % columns * SIDE, place / columns * SIDE);
        let mut pixels = Vec::with_capacity(SIDE * SIDE * c);
        for row in top..top + SIDE {
            let start = (row * sheet.width + left) * c;
            pixels.extend_from_slice(&sheet.pixels[start..start + SIDE * c]);
        }
        Ok(Content::Stored(StoredImage { width: SIDE, height: SIDE, channels: c, pixels, orientation: 1 }))
    }

    fn summary(&self) -> Summary {
        Summary {
            class_names: self.classes.clone(),
            label_kind: Some("index".into()),
            resolution: Some(SIDE),
            ..Summary::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_classes_and_pictures() -> Result<()> {
        let emoji = Emoji::open(false)?;
        assert_eq!((emoji.len(), emoji.classes.len()), (1636, 8));
        let all = Emoji::open(true)?;
        assert_eq!((all.len(), all.classes.len()), (1911, 10));
        for i in [0, 1000, 1910] {
            let Content::Stored(image) = all.content(i)? else { continue };
            let mean = image.pixels.iter().map(|&v| f64::from(v)).sum::<f64>() / image.pixels.len() as f64;
            assert!((50.0..254.0).contains(&mean), "{i}: {mean}");
            assert_eq!(image.pixels[..3], [255, 255, 255], "a corner of {i} is white");
        }
        Ok(())
    }
}
