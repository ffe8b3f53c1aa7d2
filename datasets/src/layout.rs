//! Which layout a path has.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::dataset::{DatasetOptions, Source};
use crate::readers::{emoji, folder};
use crate::{Error, Result};

/// The layouts that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// The set that comes with the program.
    Emoji,
    /// A folder whose sub-folders are classes.
    ImageFolder,
    /// A folder of pictures, at any depth, without labels.
    FlatFolder,
    /// The same with a `.txt` beside each picture.
    CaptionFolder,
}

const NAMES: [(Layout, &str); 4] = [
    (Layout::Emoji, "emoji"),
    (Layout::ImageFolder, "image_folder"),
    (Layout::FlatFolder, "flat_folder"),
    (Layout::CaptionFolder, "caption_folder"),
];

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(layout, _)| layout == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(_, name)| *name == text);
        found
            .map(|&(layout, _)| layout)
            .ok_or_else(|| Error::argument("layout", format!("one of {}", NAMES.map(|(_, name)| name).join(", ")), text))
    }
}

/// Opens `spec` with the layout asked for, or the one it has.
pub(crate) fn open(spec: &str, options: &DatasetOptions) -> Result<(Layout, Box<dyn Source>)> {
    if spec == "emoji" && options.layout.is_none_or(|l| l == Layout::Emoji) {
        return Ok((Layout::Emoji, Box::new(emoji::Emoji::open(options.include_flags)?)));
    }
    let path = PathBuf::from(spec);
    let kind = std::fs::metadata(&path).map_err(|e| missing(&path, &e))?;
    if !kind.is_dir() {
        return Err(Error::file(path, "expected a folder of pictures or a known archive"));
    }
    let listed = folder::Folder::list(&path)?;
    let layout = options.layout.unwrap_or_else(|| listed.layout());
    Ok((layout, Box::new(listed.open(layout)?)))
}

fn missing(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::file(path, "no such file or folder (give a folder of pictures, an archive, or the word `emoji`)")
        }
        _ => Error::file(path, error),
    }
}
