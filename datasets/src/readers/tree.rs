//! Files by relative path, in a folder or in a zip archive.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::listing::{Index, Texts};
use crate::readers::files;
use crate::readers::zip::Zip;

/// A folder or an archive, seen as files by relative path.
pub(crate) enum Tree {
    /// A folder and the paths below it.
    Folder(PathBuf, Texts),
    /// An archive.
    Zip(Zip),
}

impl Tree {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_path_buf(), files::walk(path)?));
        }
        Ok(Self::Zip(Zip::open(path)?))
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Folder(_, names) => names.len(),
            Self::Zip(zip) => zip.len(),
        }
    }

    pub(crate) fn name(&self, i: usize) -> &str {
        match self {
            Self::Folder(_, names) => names.get(i),
            Self::Zip(zip) => zip.name(i),
        }
    }

    pub(crate) fn size(&self, i: usize) -> Result<u64> {
        match self {
            Self::Folder(root, names) => files::size(&root.join(names.get(i))),
            Self::Zip(zip) => Ok(zip.size(i)),
        }
    }

    pub(crate) fn read(&self, i: usize) -> Result<Vec<u8>> {
        match self {
            Self::Folder(root, names) => files::read(&root.join(names.get(i))),
            Self::Zip(zip) => zip.read(i),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Folder(root, _) => root,
            Self::Zip(zip) => zip.path(),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        (0..self.len()).find(|&i| self.name(i) == name)
    }

    /// The paths.
    pub(crate) fn names(&self) -> &Texts {
        match self {
            Self::Folder(_, names) => names,
            Self::Zip(zip) => zip.names(),
        }
    }

    /// Positions by name.
    pub(crate) fn index(&self) -> Index {
        Index::of(self.names())
    }

    /// The picture files, in code-point order of their paths.
    pub(crate) fn pictures(&self) -> Vec<u32> {
        let mut found: Vec<u32> = (0..self.len() as u32).filter(|&i| files::is_picture(self.name(i as usize))).collect();
        found.sort_by(|&a, &b| self.name(a as usize).cmp(self.name(b as usize)));
        found
    }
}
