//! Where the members of a tar archive lie.

use std::path::Path;

use crate::Result;
use crate::readers::files::stays_inside;
use crate::readers::regions::RangeFile;

/// A file in an archive.
pub(crate) struct Member {
    /// Path, without a leading "./".
    pub(crate) name: String,
    /// Offset of its content.
    pub(crate) offset: u64,
    /// Size of its content.
    pub(crate) size: u64,
}

/// Whether the name is that of an archive packed with gzip.
pub(crate) fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "gz" || e == "tgz")
}

/// The files of an archive (ustar, GNU long names, PAX), in their order.
pub(crate) fn members(file: &RangeFile) -> Result<Vec<Member>> {
    let mut found = Vec::new();
    each_member(file, |member| {
        found.push(member);
        Ok(())
    })?;
    Ok(found)
}

/// Hands over one after the other. Errors if a header is damaged, a member is cut short, or a name leaves the archive.
pub(crate) fn each_member(file: &RangeFile, mut each: impl FnMut(Member) -> Result<()>) -> Result<()> {
    let mut archive = ::tar::Archive::new(file.reader_at(0));
    for entry in archive.entries().map_err(|e| file.error(e))? {
        let entry = entry.map_err(|e| file.error(e))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !stays_inside(&name) {
            return Err(file.error(format!("the name `{name}` leaves the archive")));
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let (offset, size) = (entry.raw_file_position(), entry.size());
        if offset.checked_add(size).is_none_or(|end| end > file.len()) {
            return Err(file.error(format!("cut inside `{name}`")));
        }
        let name = name.strip_prefix("./").map_or_else(|| name.clone(), str::to_string);
        each(Member { name, offset, size })?;
    }
    Ok(())
}
