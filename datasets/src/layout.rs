//! Which layout a path has.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::dataset::{DatasetOptions, Source};
use crate::readers::{celeba, cifar, edm, emoji, files, folder, lmdb, metadata, mnist, npz, parquet, webdataset};
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
    /// A folder with `metadata.jsonl`.
    HfMetadataJsonl,
    /// A folder with `metadata.csv`.
    HfMetadataCsv,
    /// Parquet files as Hugging Face publishes pictures.
    HfParquet,
    /// CelebA with its lists, pictures in a folder or zip.
    Celeba,
    /// CelebA-HQ as CelebAMask-HQ publishes it.
    CelebaHq,
    /// EDM's zip or folder, labels in `dataset.json`.
    Edm,
    /// CIFAR-10, Python or binary batches, or the published archive.
    Cifar10,
    /// MNIST's idx files.
    Mnist,
    /// NumPy's archive with pictures `arr_0`, as evaluations exchange samples.
    Npz,
    /// Tar shards.
    Webdataset,
    /// An LMDB environment of LSUN.
    LsunLmdb,
}

const NAMES: [(Layout, &str); 15] = [
    (Layout::Emoji, "emoji"),
    (Layout::ImageFolder, "image_folder"),
    (Layout::FlatFolder, "flat_folder"),
    (Layout::CaptionFolder, "caption_folder"),
    (Layout::HfMetadataJsonl, "hf_metadata_jsonl"),
    (Layout::HfMetadataCsv, "hf_metadata_csv"),
    (Layout::HfParquet, "hf_parquet"),
    (Layout::Celeba, "celeba"),
    (Layout::CelebaHq, "celeba_hq"),
    (Layout::Edm, "edm"),
    (Layout::Cifar10, "cifar10"),
    (Layout::Mnist, "mnist"),
    (Layout::Npz, "npz"),
    (Layout::Webdataset, "webdataset"),
    (Layout::LsunLmdb, "lsun_lmdb"),
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
    // A pattern of shards is no file itself.
    let pattern = spec.contains('{') && webdataset::is_archive(spec);
    if !pattern {
        std::fs::metadata(&path).map_err(|e| missing(&path, &e))?;
    }
    let layout = match options.layout {
        Some(layout) => layout,
        None => detect(&path)?,
    };
    Ok((layout, open_as(layout, &path, options)?))
}

fn open_as(layout: Layout, path: &Path, options: &DatasetOptions) -> Result<Box<dyn Source>> {
    Ok(match layout {
        Layout::Emoji => Box::new(emoji::Emoji::open(options.include_flags)?),
        Layout::ImageFolder | Layout::FlatFolder | Layout::CaptionFolder => Box::new(folder::Folder::list(path)?.open(layout)?),
        Layout::HfMetadataJsonl => Box::new(metadata::MetadataFolder::open(path, "metadata.jsonl", options)?),
        Layout::HfMetadataCsv => Box::new(metadata::MetadataFolder::open(path, "metadata.csv", options)?),
        Layout::HfParquet => Box::new(parquet::Parquet::open(path, options)?),
        Layout::Celeba => Box::new(celeba::Celeba::open(path)?),
        Layout::CelebaHq => Box::new(celeba::CelebaHq::open(path)?),
        Layout::Edm => Box::new(edm::Edm::open(path)?),
        Layout::Cifar10 => Box::new(cifar::Cifar10::open(path)?),
        Layout::Mnist => Box::new(mnist::Mnist::open(path)?),
        Layout::Npz => Box::new(npz::NpzPictures::open(path)?),
        Layout::Webdataset => Box::new(webdataset::WebDataset::open(path)?),
        Layout::LsunLmdb => Box::new(lmdb::Lmdb::open(path)?),
    })
}

/// The layout that the names in and of `path` tell. Errors if they tell none.
fn detect(path: &Path) -> Result<Layout> {
    if path.is_dir() {
        return detect_folder(path);
    }
    let name = path.to_string_lossy();
    Ok(match () {
        () if name.ends_with(".zip") => Layout::Edm,
        () if name.ends_with(".npz") => Layout::Npz,
        () if parquet::is_parquet(&name) => Layout::HfParquet,
        () if name.ends_with(".mdb") => Layout::LsunLmdb,
        () if webdataset::is_archive(&name) && cifar::Cifar10::is_archive(path) => Layout::Cifar10,
        () if webdataset::is_archive(&name) => Layout::Webdataset,
        () => return Err(Error::file(path, "expected a folder of pictures, or a .zip, .npz, .tar, .tar.gz or .parquet file")),
    })
}

fn detect_folder(path: &Path) -> Result<Layout> {
    let has = |name: &str| path.join(name).exists();
    let any = |folder: &Path, test: fn(&str) -> bool| -> Result<bool> {
        Ok(files::entries(folder)?.iter().any(|(name, is_folder)| !is_folder && test(name)))
    };
    Ok(match () {
        () if has(celeba::ATTRIBUTES) => Layout::Celeba,
        () if has(celeba::HQ_PICTURES) => Layout::CelebaHq,
        () if has("data.mdb") => Layout::LsunLmdb,
        () if cifar::Cifar10::is_here(path) => Layout::Cifar10,
        () if mnist::Mnist::is_here(path) => Layout::Mnist,
        () if has("dataset.json") => Layout::Edm,
        () if has("metadata.jsonl") => Layout::HfMetadataJsonl,
        () if has("metadata.csv") => Layout::HfMetadataCsv,
        () if any(path, parquet::is_parquet)? => Layout::HfParquet,
        () if has("data") && any(&path.join("data"), parquet::is_parquet)? => Layout::HfParquet,
        () if any(path, webdataset::is_archive)? => Layout::Webdataset,
        () => folder::Folder::list(path)?.layout(),
    })
}

fn missing(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::file(path, "no such file or folder (give a folder of pictures, an archive, or the word `emoji`)")
        }
        _ => Error::file(path, error),
    }
}
