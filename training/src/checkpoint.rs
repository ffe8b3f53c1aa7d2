//! Checkpoints: a folder that appears complete or not at all, and says by itself whether it is damaged.
//!
//! `<images seen>/{model,ema,optimizer}.safetensors` and `state.json`, which holds the length and the SHA-256 of each
//! file beside the caller's own state. A checkpoint is written into a hidden folder beside its place, synced and renamed.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::weights;

use crate::{Error, Result, files::sha256_file};

/// Hidden folders and files that a killed process may leave behind; they are removed when the run is opened again.
pub(crate) const TEMPORARY: &str = ".tmp";

const FORMAT_VERSION: u32 = 1;

/// Everything that a training needs to go on.
#[derive(Clone, Debug, Default)]
pub struct CheckpointParts {
    /// The parameters.
    pub model: Vec<(String, Tensor)>,
    /// Their average; empty: no `ema.safetensors`.
    pub ema: Vec<(String, Tensor)>,
    /// The optimizer's state; empty: no `optimizer.safetensors`.
    pub optimizer: Vec<(String, Tensor)>,
    /// The caller's own counters and settings.
    pub state: serde_json::Value,
    /// How good it is, the lower the better, where that is known.
    pub metric: Option<f64>,
    /// Text for the header of `model.safetensors` and `ema.safetensors`, for example the network's configuration.
    pub metadata: BTreeMap<String, String>,
}

impl CheckpointParts {
    /// The parameters by name.
    pub fn model_map(&self) -> HashMap<String, Tensor> {
        self.model.iter().cloned().collect()
    }

    /// The average by name.
    pub fn ema_map(&self) -> HashMap<String, Tensor> {
        self.ema.iter().cloned().collect()
    }

    /// The optimizer's state by name.
    pub fn optimizer_map(&self) -> HashMap<String, Tensor> {
        self.optimizer.iter().cloned().collect()
    }
}

/// One of the weight files of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `model.safetensors`
    Model,
    /// `ema.safetensors`
    Ema,
    /// `optimizer.safetensors`
    Optimizer,
}

impl Part {
    /// The name of its file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Model => "model.safetensors",
            Self::Ema => "ema.safetensors",
            Self::Optimizer => "optimizer.safetensors",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format_version: u32,
    seen_images: u64,
    files: BTreeMap<String, FileRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metric: Option<f64>,
    state: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileRecord {
    bytes: u64,
    sha256: String,
}

/// The name of the checkpoint at `seen_images`; names sort as the numbers do.
pub fn folder_name(seen_images: u64) -> String {
    format!("{seen_images:012}")
}

/// The complete checkpoints in `folder`, oldest first; none if it does not exist.
pub fn list(folder: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path)| path.join("state.json").is_file())
        .collect();
    found.sort();
    found
}

/// Writes the checkpoint at `seen_images` into `folder`, in place of one of the same number.
///
/// # Errors
/// Those of the file system; what was in `folder` before is still there then.
pub fn write(folder: &Path, seen_images: u64, parts: &CheckpointParts) -> Result<PathBuf> {
    let name = folder_name(seen_images);
    let hidden = folder.join(format!("{TEMPORARY}-{name}"));
    let result = write_parts(&hidden, seen_images, parts).and_then(|()| publish(folder, &hidden, &name));
    if result.is_err() {
        let _ = fs::remove_dir_all(&hidden);
    }
    result
}

fn write_parts(hidden: &Path, seen_images: u64, parts: &CheckpointParts) -> Result<()> {
    if hidden.exists() {
        fs::remove_dir_all(hidden).map_err(|e| Error::file(hidden, e))?;
    }
    fs::create_dir(hidden).map_err(|e| Error::file(hidden, e))?;
    let none = BTreeMap::new();
    let all = [
        (Part::Model, &parts.model, &parts.metadata),
        (Part::Ema, &parts.ema, &parts.metadata),
        (Part::Optimizer, &parts.optimizer, &none),
    ];
    let mut files = BTreeMap::new();
    for (part, tensors, metadata) in all {
        if tensors.is_empty() && part != Part::Model {
            continue;
        }
        let path = hidden.join(part.file_name());
        weights::save(&path, tensors, metadata)?;
        let bytes = fs::metadata(&path).map_err(|e| Error::file(&path, e))?.len();
        files.insert(part.file_name().to_string(), FileRecord { bytes, sha256: sha256_file(&path)? });
    }
    let manifest =
        Manifest { format_version: FORMAT_VERSION, seen_images, files, metric: parts.metric, state: parts.state.clone() };
    let path = hidden.join("state.json");
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::file(&path, e))?;
    Ok(weights::write_atomic(&path, text.as_bytes())?)
}

/// Renames the finished hidden folder to its place.
fn publish(folder: &Path, hidden: &Path, name: &str) -> Result<PathBuf> {
    let target = folder.join(name);
    let old = folder.join(format!("{TEMPORARY}-old-{name}"));
    let replace = || -> std::io::Result<()> {
        if target.exists() {
            fs::rename(&target, &old)?;
        }
        fs::rename(hidden, &target)?;
        File::open(folder)?.sync_all()
    };
    replace().map_err(|e| Error::file(&target, e))?;
    let _ = fs::remove_dir_all(&old);
    Ok(target)
}

/// Removes a checkpoint so that it is never seen half removed.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!("{TEMPORARY}-old-{name}"));
    fs::rename(path, &hidden)?;
    fs::remove_dir_all(&hidden)
}

/// Reads a whole checkpoint onto `device`, after checking the length and SHA-256 of every file. Tensors are sorted by name.
///
/// # Errors
/// [`Error::Checkpoint`] with the damaged file and the newest complete checkpoint before this one.
pub fn read(path: &Path, device: &Device) -> Result<CheckpointParts> {
    let manifest = manifest(path)?;
    let part = |part: Part| -> Result<weights::Weights> {
        if manifest.files.contains_key(part.file_name()) {
            load_file(path, &manifest, part, device)
        } else {
            Ok(weights::Weights::default())
        }
    };
    let model = part(Part::Model)?;
    let sorted = |weights: weights::Weights| weights.tensors.into_iter().collect::<BTreeMap<_, _>>().into_iter().collect();
    Ok(CheckpointParts {
        metadata: model.metadata.clone(),
        model: sorted(model),
        ema: sorted(part(Part::Ema)?),
        optimizer: sorted(part(Part::Optimizer)?),
        state: manifest.state,
        metric: manifest.metric,
    })
}

/// Reads one weight file of a checkpoint onto `device`, after checking its length and SHA-256.
///
/// # Errors
/// As [`read`]; a part that the checkpoint does not have.
pub fn read_part(path: &Path, part: Part, device: &Device) -> Result<weights::Weights> {
    load_file(path, &manifest(path)?, part, device)
}

/// The SHA-256 of one weight file as the checkpoint recorded it; none if it does not have the part.
///
/// # Errors
/// A damaged `state.json`.
pub fn recorded_sha256(path: &Path, part: Part) -> Result<Option<String>> {
    Ok(manifest(path)?.files.remove(part.file_name()).map(|record| record.sha256))
}

/// The caller's own state of a checkpoint.
///
/// # Errors
/// A damaged `state.json`.
pub fn read_state(path: &Path) -> Result<serde_json::Value> {
    Ok(manifest(path)?.state)
}

/// How good a checkpoint is, where that was known.
///
/// # Errors
/// A damaged `state.json`.
pub fn read_metric(path: &Path) -> Result<Option<f64>> {
    Ok(manifest(path)?.metric)
}

fn manifest(path: &Path) -> Result<Manifest> {
    let file = path.join("state.json");
    let data = fs::read(&file).map_err(|e| damaged(path, &file, e))?;
    let manifest: Manifest = serde_json::from_slice(&data).map_err(|e| damaged(path, &file, e))?;
    if manifest.format_version != FORMAT_VERSION {
        let message = format!("expected format version {FORMAT_VERSION}, got {}", manifest.format_version);
        return Err(Error::file(file, message));
    }
    Ok(manifest)
}

fn load_file(path: &Path, manifest: &Manifest, part: Part, device: &Device) -> Result<weights::Weights> {
    let file = path.join(part.file_name());
    let Some(record) = manifest.files.get(part.file_name()) else {
        return Err(Error::file(file, "the checkpoint was saved without it"));
    };
    let length = fs::metadata(&file).map_err(|e| damaged(path, &file, e))?.len();
    if length != record.bytes {
        return Err(damaged(path, &file, format!("expected {} bytes, got {length}", record.bytes)));
    }
    let sha256 = sha256_file(&file)?;
    if sha256 != record.sha256 {
        return Err(damaged(path, &file, format!("expected sha-256 {}, got {sha256}", record.sha256)));
    }
    weights::load(&file, device).map_err(|e| damaged(path, &file, e))
}

fn damaged(checkpoint: &Path, file: &Path, message: impl std::fmt::Display) -> Error {
    let folder = checkpoint.parent().unwrap_or(Path::new("."));
    let before = list(folder).into_iter().map(|(_, path)| path).rfind(|path| path.file_name() < checkpoint.file_name());
    Error::Checkpoint { path: file.to_path_buf(), message: message.to_string(), previous: before }
}

/// Errors with every missing, unexpected and mis-shaped tensor of `given`.
pub(crate) fn check_names(wanted: &HashMap<String, Tensor>, given: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
    let mut problems: Vec<String> = wanted
        .iter()
        .filter_map(|(name, want)| match given.get(name) {
            None => Some(format!("missing `{name}` {:?}", want.dims())),
            Some(got) if got.dims() != want.dims() => Some(format!("`{name}`: expected {:?}, got {:?}", want.dims(), got.dims())),
            Some(_) => None,
        })
        .chain(given.keys().filter(|name| !wanted.contains_key(*name)).map(|name| format!("unexpected `{name}`")))
        .collect();
    problems.sort();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(strata_nn::Error::Weights { origin: origin.to_string(), problems }.into()),
    }
}
