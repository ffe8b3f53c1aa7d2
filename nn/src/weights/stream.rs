//! Safetensors files written one tensor at a time, so that a file need not fit into memory. The next tensor is read while one is
//! written, and what is written goes to the disk meanwhile.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::Write,
    path::Path,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
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
/// file; when it is called, only its last answer is still held. The same content gives the same bytes.
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
    let mut next = |i: usize| {
        let (entry, bytes) = (&entries[i], contents(i)?);
        if bytes.len() == entry.size() {
            return Ok(bytes);
        }
        let message = format!("`{}`: {} bytes for {:?} of {:?}", entry.name, bytes.len(), entry.shape, entry.dtype);
        Err(Error::file(path, message))
    };
    let out = file.as_file();
    std::thread::scope(|scope| -> Result<()> {
        // Without a buffer: what is handed over is being written, and only the next one is read meanwhile.
        let (sender, receiver) = sync_channel::<Bytes>(0);
        let (settle, settled) = sync_channel(1);
        let flusher = scope.spawn(|| flush(out, settled));
        let writer = scope.spawn(|| write_all(out, receiver, settle));
        for i in order {
            if sender.send(next(i)?).is_err() {
                break;
            }
        }
        drop(sender);
        let ended = |_| Err(std::io::Error::other("a thread that writes ended early"));
        let written = writer.join().unwrap_or_else(ended);
        written.and(flusher.join().unwrap_or_else(ended)).map_err(unwritable)
    })?;
    file.as_file().sync_all().map_err(unwritable)?;
    file.persist(path).map_err(|e| Error::file(path, e.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(unwritable)
}

/// Bytes after which what is written is sent to the disk.
const SETTLE: usize = 64 << 20;

/// Writes what comes, and tells now and then that there is something to settle.
#[allow(clippy::needless_pass_by_value, reason = "both end with the function, which the other ends notice")]
fn write_all(mut out: &File, chunks: Receiver<Bytes>, settle: SyncSender<()>) -> std::io::Result<()> {
    let mut since = 0;
    for bytes in chunks {
        for part in bytes.chunks(SETTLE) {
            out.write_all(part)?;
            since += part.len();
            if since >= SETTLE {
                since = 0;
                // If the disk is still busy with the last part, the next will do.
                let _ = settle.try_send(());
            }
        }
    }
    Ok(())
}

/// Brings what is written to the disk whenever asked to. A failure is told here or never: the disk's system tells it once.
fn flush(out: &File, asked: Receiver<()>) -> std::io::Result<()> {
    for () in asked {
        out.sync_data()?;
    }
    Ok(())
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
