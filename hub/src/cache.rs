//! The cache's layout: blobs by name, snapshots of links to them by commit, revisions that name a commit.

use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo};

use crate::{Error, Repository, Result, spec::is_commit};

/// The part of the cache that is one repository's.
pub(crate) struct Store {
    cache: PathBuf,
    folder: String,
    inner: CacheRepo,
    repo: Repository,
}

impl Store {
    pub(crate) fn new(cache: &Path, repo: &Repository) -> Self {
        let folder = repo.repo().folder_name();
        let inner = Cache::new(cache.to_path_buf()).repo(repo.repo());
        Self { cache: cache.to_path_buf(), folder, inner, repo: repo.clone() }
    }

    /// Where a whole file is.
    pub(crate) fn blob(&self, id: &str) -> PathBuf {
        self.inner.blob_path(id)
    }

    /// Where it grows.
    pub(crate) fn incomplete(&self, id: &str) -> PathBuf {
        self.inner.blob_path(&format!("{id}.incomplete"))
    }

    /// The lock of its download.
    pub(crate) fn lock(&self, id: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.folder).join(format!("{id}.lock"))
    }

    /// The folder of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.inner.pointer_path(commit)
    }

    /// The commit that the revision was when it was last asked for.
    pub(crate) fn commit(&self) -> Option<String> {
        if self.repo.is_pinned() {
            return Some(self.repo.revision.clone());
        }
        let commit = std::fs::read_to_string(self.reference()).ok()?;
        Some(commit.trim().to_string()).filter(|commit| is_commit(commit))
    }

    /// Notes which commit the revision is.
    pub(crate) fn set_commit(&self, commit: &str) -> Result<()> {
        if self.repo.is_pinned() || self.commit().as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference();
        let write = || {
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            let beside = path.with_file_name(format!(".{}.{commit}", std::process::id()));
            std::fs::write(&beside, commit)?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|e: std::io::Error| Error::file(&path, e))
    }

    fn reference(&self) -> PathBuf {
        self.cache.join(&self.folder).join("refs").join(&self.repo.revision)
    }

    /// Makes the file `path` of a commit a link to the blob `id`.
    pub(crate) fn link(&self, commit: &str, path: &str, id: &str) -> Result<PathBuf> {
        let (link, blob) = (self.snapshot(commit).join(path), self.blob(id));
        let failed = |e: std::io::Error| Error::file(&link, e);
        let folder = link.parent().unwrap_or(&link);
        std::fs::create_dir_all(folder).map_err(failed)?;
        // From the file's folder up to the repository's, and down to the blobs.
        let up: PathBuf = std::iter::repeat_n("..", path.split('/').count() + 1).collect();
        let target = up.join("blobs").join(id);
        if std::fs::read_link(&link).is_ok_and(|there| there == target) {
            return Ok(link);
        }
        // Beside its place and renamed: whoever looks finds the old link or the new one.
        let name = link.file_name().unwrap_or_default().to_string_lossy();
        let beside = folder.join(format!(".{name}.{}", std::process::id()));
        match symlink(&target, &beside) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            // Where there are no links, as on some disks, the file itself.
            Err(_) => drop(std::fs::copy(&blob, &beside).map_err(failed)?),
        }
        std::fs::rename(&beside, &link).map_err(failed)?;
        Ok(link)
    }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}
