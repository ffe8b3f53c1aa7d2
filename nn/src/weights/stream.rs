//! Safetensors files written one tensor at a time, so that a file need not fit into memory.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::Write,
    path::Path,
};

use bytes::Bytes;
use safetensors::Dtype;

use super::beside;
use crate::{Error, Result};

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Entry {
    fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes `entries` and `metadata` to `path`: beside it first, synced, then renamed, so that a reader never sees half a file.
/// `contents(i)` gives the elements of `entries[i]`, row-major and little-endian; it is called once for each, in the order of the
/// file, and the last answer is let go before the next call. The same content gives the same bytes.
///
/// # Errors
/// If two entries have one name, contents are of another size than announced, or the file cannot be written.
pub fn write_stream(
    path: &Path,
    entries: &[Entry],
    metadata: &BTreeMap<String, String>,
    mut contents: impl FnMut(usize) -> Result<Bytes>,
) -> Result<()> {
    // Wide numbers first, so that every tensor is aligned to its own.
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(entries[i].dtype.bitsize()));
    let header = header(path, entries, &order, metadata)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unwritable = |e| Error::file(path, e);
    let mut file = beside(folder).map_err(unwritable)?;
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).map_err(unwritable)?;
    for i in order {
        let (entry, bytes) = (&entries[i], contents(i)?);
        if bytes.len() != entry.size() {
            let message = format!("`{}`: {} bytes for {:?} of {:?}", entry.name, bytes.len(), entry.shape, entry.dtype);
            return Err(Error::file(path, message));
        }
        file.write_all(&bytes).map_err(unwritable)?;
    }
    file.as_file().sync_all().map_err(unwritable)?;
    file.persist(path).map_err(|e| Error::file(path, e.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable)
}

fn header(path: &Path, entries: &[Entry], order: &[usize], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let (mut header, mut start, mut names) = (serde_json::Map::new(), 0, HashSet::new());
    header.insert("__metadata__".to_string(), serde_json::json!(metadata));
    for &i in order {
        let Entry { name, dtype, shape } = &entries[i];
        if !names.insert(name) || name == "__metadata__" {
            return Err(Error::file(path, format!("`{name}` is there twice")));
        }
        let end = start + entries[i].size();
        header.insert(name.clone(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
        start = end;
    }
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::file(path, e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}
