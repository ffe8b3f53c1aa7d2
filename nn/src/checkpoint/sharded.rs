//! Weights in several files: an index (`*.index.json`) that names the file of each tensor.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

use serde::Deserialize;
use serde_json::Value as Json;

use super::{Checkpoint, Format, Layout, Tensor};
use crate::{Error, Result};

/// Larger than any index.
const MAX_INDEX: u64 = 100_000_000;

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    metadata: BTreeMap<String, Json>,
    weight_map: BTreeMap<String, String>,
}

/// Whether `path` is named as an index is.
pub(super) fn is_one(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".index.json"))
}

/// Reads the index at `path` and the headers of all files it names, which lie beside it.
pub(super) fn open(path: &Path) -> Result<Checkpoint> {
    let wrong = |message: String| Error::file(path, message);
    let size = std::fs::metadata(path).map_err(|e| Error::file(path, e))?.len();
    if size > MAX_INDEX {
        return Err(wrong(format!("an index of {size} bytes: refused")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    let index: Index = serde_json::from_str(&text).map_err(|e| wrong(format!("not an index of weight files ({e})")))?;
    let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let mut problems: Vec<String> = names.iter().filter_map(|name| check_name(name)).collect();
    if !problems.is_empty() {
        return Err(wrong(problems.join("; ")));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let (mut shards, mut file_bytes) = (BTreeMap::new(), 0);
    for name in names {
        let shard = Checkpoint::open_file(&folder.join(name), Layout::Auto, None)?;
        file_bytes += shard.file_bytes;
        let tensors: BTreeMap<String, Tensor> = shard.tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        shards.insert(name, tensors);
    }
    let mut tensors = Vec::with_capacity(index.weight_map.len());
    for (name, shard) in &index.weight_map {
        match shards.get_mut(shard.as_str()).and_then(|tensors| tensors.remove(name)) {
            Some(tensor) => tensors.push(tensor),
            None => problems.push(format!("`{name}` is not in {shard}")),
        }
    }
    if !problems.is_empty() {
        return Err(wrong(problems.join("; ")));
    }
    let metadata = index.metadata.into_iter().map(|(key, value)| (format!("__metadata__.{key}"), value)).collect();
    Ok(Checkpoint { metadata, file_bytes, ..Checkpoint::of(path, Format::Sharded, tensors) })
}

/// A file's name, and nothing that leads elsewhere.
fn check_name(name: &str) -> Option<String> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    (!plain || name.contains(['/', '\\'])).then(|| format!("`{name}` is no name of a file beside the index: refused"))
}
