//! Folders of picture files: by class, flat, or with captions beside the pictures.

use std::path::{Path, PathBuf};

use crate::dataset::{Content, Source, Summary};
use crate::layout::Layout;
use crate::listing::{Labels, Texts};
use crate::readers::files::{self, Files};
use crate::{Error, Result};

/// All files below a folder, before it is known how they are meant.
pub(crate) struct Folder {
    root: PathBuf,
    files: Texts,
}

impl Folder {
    /// Walks the folder. Errors if it cannot be read.
    pub(crate) fn list(root: &Path) -> Result<Self> {
        Ok(Self { root: root.to_path_buf(), files: files::walk(root)? })
    }

    fn pictures(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter(|f| files::is_picture(f) && !hidden(f))
    }

    /// Sub-folders are classes if no picture lies outside of them; else captions decide.
    pub(crate) fn layout(&self) -> Layout {
        let by_class = self.pictures().all(|f| f.contains('/'));
        match (by_class, self.pictures().any(|f| self.is_captioned(f))) {
            (true, _) => Layout::ImageFolder,
            (false, true) => Layout::CaptionFolder,
            (false, false) => Layout::FlatFolder,
        }
    }

    /// Whether a text of the same stem lies beside the picture.
    fn is_captioned(&self, picture: &str) -> bool {
        self.files.find_sorted(&format!("{}.txt", files::stem(picture))).is_some()
    }

    /// The folder, read as `layout`. Errors if no picture is there.
    pub(crate) fn open(self, layout: Layout) -> Result<FolderSource> {
        let name = |row: &u32| self.files.get(*row as usize);
        let is_picture = |row: &u32| files::is_picture(name(row)) && !hidden(name(row));
        let mut rows: Vec<u32> = (0..self.files.len() as u32).filter(is_picture).collect();
        if rows.is_empty() {
            return Err(no_images(&self.root));
        }
        let (mut labels, mut classes) = (Labels::default(), Vec::new());
        if layout == Layout::ImageFolder {
            classes = classes_of(&self.root)?;
            rows.retain(|row| name(row).contains('/'));
            if rows.is_empty() {
                return Err(Error::file(&self.root, "has pictures but no folder of a class; read it as flat_folder"));
            }
            rows.sort_by(|a, b| by_folder_then_name(name(a), name(b)));
            labels = rows.iter().map(|row| class_of(name(row), &classes)).collect();
        }
        let captioned = rows.iter().map(|row| self.is_captioned(name(row))).collect();
        let keys = rows.iter().map(name).collect();
        Ok(FolderSource { files: Files { root: self.root, keys }, labels, captioned, classes })
    }
}

/// The error of a folder without pictures.
pub(crate) fn no_images(root: &Path) -> Error {
    Error::NoImages { path: root.to_path_buf(), looked_for: files::EXTENSIONS.join(", ") }
}

/// Files that systems leave beside pictures ("._x.jpg", ".cache/x.png") are no pictures.
fn hidden(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with('.') || part == "__MACOSX")
}

fn classes_of(root: &Path) -> Result<Vec<String>> {
    let entries = files::entries(root)?.into_iter();
    Ok(entries.filter(|(name, is_folder)| *is_folder && !hidden(name)).map(|(name, _)| name).collect())
}

fn class_of(path: &str, classes: &[String]) -> Option<u32> {
    let (top, _) = path.split_once('/')?;
    classes.binary_search_by(|c| c.as_str().cmp(top)).ok().map(|i| i as u32)
}

/// Order of a class folder: class, folder path, then name.
fn by_folder_then_name(a: &str, b: &str) -> std::cmp::Ordering {
    let folder = |p: &str| p.rfind('/').unwrap_or(0);
    let class = |p: &str| p.find('/').unwrap_or(0);
    let classes = a[..class(a)].cmp(&b[..class(b)]);
    classes.then_with(|| a[..folder(a)].cmp(&b[..folder(b)])).then_with(|| a.cmp(b))
}

/// A folder of pictures.
pub(crate) struct FolderSource {
    files: Files,
    labels: Labels,
    captioned: Vec<bool>,
    classes: Vec<String>,
}

impl Source for FolderSource {
    fn len(&self) -> usize {
        self.files.keys.len()
    }

    fn key(&self, i: usize) -> String {
        self.files.keys.get(i).to_string()
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.labels.get(i)
    }

    fn caption(&self, i: usize) -> Result<Option<String>> {
        if !self.captioned[i] {
            return Ok(None);
        }
        let path = self.files.root.join(format!("{}.txt", files::stem(self.files.keys.get(i))));
        Ok(Some(files::read_text(&path)?.trim().to_string()))
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        self.files.size(i)
    }

    fn content(&self, i: usize) -> Result<Content> {
        self.files.content(i)
    }

    fn summary(&self) -> Summary {
        Summary {
            label_kind: (!self.classes.is_empty()).then(|| "index".into()),
            class_names: self.classes.clone(),
            ..Summary::default()
        }
    }
}
