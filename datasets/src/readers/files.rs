//! Reading files with bounds, and walking folders.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::dataset::Content;
use crate::listing::Texts;
use crate::{Error, Result};

/// Picture files by extension, compared without case.
pub(crate) const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "pgm", "bmp", "tif", "tiff", "webp"];
/// No single picture file is larger than this.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 30;
/// Folders deeper than this are a loop of links.
const MAX_DEPTH: usize = 64;

/// Whether the name is that of a picture file.
pub(crate) fn is_picture(name: &str) -> bool {
    extension(name).is_some_and(|e| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(e)))
}

fn extension(name: &str) -> Option<&str> {
    name.rsplit('/').next()?.rsplit_once('.').map(|(_, e)| e)
}

/// What lies before the last dot of the file name.
pub(crate) fn stem(path: &str) -> &str {
    let start = path.rfind('/').map_or(0, |i| i + 1);
    path[start..].rfind('.').map_or(path, |dot| &path[..start + dot])
}

/// The whole of a picture or text file. Errors if it is larger than any is.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|e| Error::file(path, e))?;
    let meta = file.metadata().map_err(|e| Error::file(path, e))?;
    if !meta.is_file() {
        return Err(Error::file(path, "not a file"));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(Error::file(path, format!("{} bytes, more than {MAX_FILE_BYTES} are refused", meta.len())));
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|e| Error::file(path, e))?;
    Ok(bytes)
}

/// The whole of a text file, UTF-8 (a byte order mark is dropped).
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let text = String::from_utf8(read(path)?).map_err(|e| Error::file(path, format!("not UTF-8 text: {e}")))?;
    Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_string))
}

/// Size of a file in bytes.
pub(crate) fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).map_err(|e| Error::file(path, e))?.len())
}

/// All files below `root` by their relative paths ('/' between), in code-point order; links are followed.
pub(crate) fn walk(root: &Path) -> Result<Texts> {
    let mut found = Texts::default();
    walk_into(root, "", 0, &mut found)?;
    Ok(found.sorted())
}

fn walk_into(folder: &Path, prefix: &str, depth: usize, found: &mut Texts) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::file(folder, format!("more than {MAX_DEPTH} folders deep: a loop of links?")));
    }
    let mut folders = Vec::new();
    each_entry(folder, |name, is_folder| {
        if is_folder {
            folders.push(name.to_string());
        } else {
            found.push(&format!("{prefix}{name}"));
        }
    })?;
    folders.iter().try_for_each(|name| walk_into(&folder.join(name), &format!("{prefix}{name}/"), depth + 1, found))
}

/// Names in a folder, and whether each is a folder, in code-point order. Names that are not UTF-8 are passed with a warning.
pub(crate) fn entries(folder: &Path) -> Result<Vec<(String, bool)>> {
    let mut found = Vec::new();
    each_entry(folder, |name, is_folder| found.push((name.to_string(), is_folder)))?;
    found.sort_unstable();
    Ok(found)
}

fn each_entry(folder: &Path, mut each: impl FnMut(&str, bool)) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|e| Error::file(folder, e))? {
        let entry = entry.map_err(|e| Error::file(folder, e))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            tracing::warn!(path = %entry.path().display(), "passed over: the name is not UTF-8");
            continue;
        };
        let kind = entry.file_type().map_err(|e| Error::file(entry.path(), e))?;
        each(name, kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()));
    }
    Ok(())
}

/// Picture files of a folder by their relative paths, which are their keys.
pub(crate) struct Files {
    pub(crate) root: PathBuf,
    pub(crate) keys: Texts,
}

impl Files {
    pub(crate) fn size(&self, i: usize) -> Result<u64> {
        size(&self.root.join(self.keys.get(i)))
    }

    pub(crate) fn content(&self, i: usize) -> Result<Content> {
        read(&self.root.join(self.keys.get(i))).map(Content::Encoded)
    }
}

/// Whether a path of an archive or a metadata file stays below its root.
pub(crate) fn stays_inside(path: &str) -> bool {
    let absolute = path.starts_with('/') || path.starts_with('\\') || path.get(1..2) == Some(":");
    !absolute && !path.contains('\0') && path.split(['/', '\\']).all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_picture("a/b.JPeG") && is_picture("x.tif") && !is_picture("a.png/readme") && !is_picture("png"));
        assert_eq!((stem("a.b/c.d.png"), stem("a.b/c"), stem("x.png")), ("a.b/c.d", "a.b/c", "x"));
        assert!(stays_inside("a/..b/c.png") && !stays_inside("a/../b") && !stays_inside("/etc/x") && !stays_inside("C:\\x"));
    }
}
