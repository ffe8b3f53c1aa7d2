//! One shard: its items in memory, and its bytes.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::serialize;
use safetensors::tensor::{Dtype, Metadata, TensorView};
use serde::{Deserialize, Serialize};

use super::manifest::{LatentManifest, LatentType};
use crate::{Error, Result};

/// One latent, to be written.
#[derive(Clone, Copy, Debug)]
pub struct LatentItem<'a> {
    /// C x h x w numbers: the means, then the log-variances; or the latent itself.
    pub moments: &'a [f32],
    /// Class index.
    pub label: Option<u32>,
    /// Key of the picture.
    pub key: &'a str,
    /// Text that describes the picture.
    pub caption: Option<&'a str>,
    /// Binary attributes, 1 or -1, one for each name of the manifest.
    pub attributes: &'a [i8],
}

/// What a shard's metadata hold, under one name: several names would be written in random order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ShardTexts {
    pub(super) keys: Vec<String>,
    pub(super) captions: Vec<Option<String>>,
    /// Of a shard that is not whole yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<Progress>,
}

/// How far a shard is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Pictures that have a latent, or never will.
    pub(super) done: usize,
    /// Those that never will: key and reason.
    pub(super) bad: Vec<(String, String)>,
}

const TEXTS: &str = "items";
const ATTRIBUTES: &str = "attributes";

/// The items of a shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Items {
    pub(super) moments: Vec<f32>,
    pub(super) labels: Vec<i64>,
    pub(super) attributes: Vec<i8>,
    pub(super) texts: ShardTexts,
}

impl Items {
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    pub(super) fn push(&mut self, item: LatentItem<'_>) {
        self.moments.extend_from_slice(item.moments);
        self.labels.push(item.label.map_or(-1, i64::from));
        self.attributes.extend_from_slice(item.attributes);
        self.texts.keys.push(item.key.to_string());
        self.texts.captions.push(item.caption.map(str::to_string));
    }

    /// The bytes of the file; the same items give the same bytes.
    pub(super) fn to_bytes(&self, manifest: &LatentManifest) -> Result<Vec<u8>> {
        let failed = |e: &dyn std::fmt::Display| Error::argument("shard", "items that safetensors can hold", e);
        let moments = encode(&self.moments, manifest.dtype);
        let labels: Vec<u8> = self.labels.iter().flat_map(|l| l.to_le_bytes()).collect();
        let shape = vec![self.len(), manifest.stored_channels(), manifest.height, manifest.width];
        let moments = TensorView::new(dtype(manifest.dtype), shape, &moments).map_err(|e| failed(&e))?;
        let labels = TensorView::new(Dtype::I64, vec![self.len()], &labels).map_err(|e| failed(&e))?;
        let mut tensors = vec![("moments", moments), ("labels", labels)];
        let attributes: Vec<u8> = self.attributes.iter().map(|a| a.to_le_bytes()[0]).collect();
        if !attributes.is_empty() {
            let shape = vec![self.len(), manifest.attribute_names.len()];
            tensors.push((ATTRIBUTES, TensorView::new(Dtype::I8, shape, &attributes).map_err(|e| failed(&e))?));
        }
        let texts = serde_json::to_string(&self.texts).map_err(|e| failed(&e))?;
        let metadata = HashMap::from([(TEXTS.to_string(), texts)]);
        serialize(tensors, Some(metadata)).map_err(|e| failed(&e))
    }

    /// Reads a whole file back.
    pub(super) fn from_bytes(bytes: &[u8], manifest: &LatentManifest, path: &Path) -> Result<Self> {
        let layout = ShardLayout::read(bytes, bytes.len(), manifest, path)?;
        let moments = decode(&bytes[layout.moments..], layout.count * manifest.item_len(), manifest.dtype);
        let labels = layout.labels(bytes);
        let (start, size) = layout.attributes_range(manifest);
        let attributes = to_attributes(&bytes[start..start + size]);
        Ok(Self { moments, labels, attributes, texts: layout.texts })
    }
}

/// Where things lie in a shard's file.
pub(super) struct ShardLayout {
    pub(super) count: usize,
    /// Offset of the first moment.
    pub(super) moments: usize,
    /// Offset of the first label.
    labels: usize,
    /// Offset of the first attribute.
    attributes: usize,
    pub(super) texts: ShardTexts,
}

impl ShardLayout {
    /// From the head of a file of `file_len` bytes: `bytes` holds at least its header. Errors unless every size fits.
    pub(super) fn read(bytes: &[u8], file_len: usize, manifest: &LatentManifest, path: &Path) -> Result<Self> {
        let damaged = |why: &dyn std::fmt::Display| Error::file(path, format!("damaged shard: {why}"));
        let (start, info) = header(bytes).map_err(|e| damaged(&e))?;
        let moments = info.info("moments").ok_or_else(|| damaged(&"no tensor `moments`"))?;
        let labels = info.info("labels").ok_or_else(|| damaged(&"no tensor `labels`"))?;
        let count = labels.shape.first().copied().unwrap_or(0);
        let shape = [count, manifest.stored_channels(), manifest.height, manifest.width];
        if moments.shape != shape || moments.dtype != dtype(manifest.dtype) || labels.dtype != Dtype::I64 {
            let got = format!("{:?} {:?}", moments.dtype, moments.shape);
            return Err(damaged(&format!("`moments`: expected {:?} {shape:?}, got {got}", dtype(manifest.dtype))));
        }
        let attributes = info.info(ATTRIBUTES);
        let attribute_shape = [count, manifest.attribute_names.len()];
        if attributes.map_or(attribute_shape[1] > 0, |a| a.shape != attribute_shape || a.dtype != Dtype::I8) {
            return Err(damaged(&format!("`{ATTRIBUTES}`: expected I8 {attribute_shape:?}")));
        }
        let attributes = attributes.map_or((0, 0), |a| a.data_offsets);
        let wanted = start + moments.data_offsets.1.max(labels.data_offsets.1).max(attributes.1);
        if file_len != wanted {
            return Err(damaged(&format!("expected {wanted} bytes, got {file_len}")));
        }
        let text = info.metadata().as_ref().and_then(|m| m.get(TEXTS)).ok_or_else(|| damaged(&"no keys"))?;
        let texts: ShardTexts = serde_json::from_str(text).map_err(|e| damaged(&e))?;
        if texts.keys.len() != count || texts.captions.len() != count {
            return Err(damaged(&format!("{count} latents, {} keys", texts.keys.len())));
        }
        let [moments, labels, attributes] = [moments.data_offsets.0, labels.data_offsets.0, attributes.0].map(|at| start + at);
        Ok(Self { count, moments, labels, attributes, texts })
    }

    /// The bytes of the labels: offset and length.
    pub(super) fn labels_range(&self) -> (usize, usize) {
        (self.labels, self.count * 8)
    }

    /// The bytes of the attributes: offset and length.
    pub(super) fn attributes_range(&self, manifest: &LatentManifest) -> (usize, usize) {
        (self.attributes, self.count * manifest.attribute_names.len())
    }

    fn labels(&self, bytes: &[u8]) -> Vec<i64> {
        let (start, len) = self.labels_range();
        to_labels(&bytes[start..start + len])
    }
}

/// Where the tensors begin, and the checked header of a file of safetensors.
fn header(bytes: &[u8]) -> std::result::Result<(usize, Metadata), String> {
    let cut = || "cut short in its header".to_string();
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|e| e.to_string())?;
    let info = serde_json::from_slice(rest.get(..length).ok_or_else(cut)?).map_err(|e| e.to_string())?;
    Ok((length + 8, info))
}

pub(super) fn to_labels(bytes: &[u8]) -> Vec<i64> {
    let words = bytes.chunks_exact(8);
    words.map(|w| w.iter().rev().fold(0i64, |n, &b| n << 8 | i64::from(b))).collect()
}

pub(super) fn to_attributes(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().map(|&b| i8::from_le_bytes([b])).collect()
}

pub(super) fn bytes_per_number(dtype: LatentType) -> usize {
    match dtype {
        LatentType::F32 => 4,
        LatentType::F16 | LatentType::Bf16 => 2,
    }
}

fn dtype(dtype: LatentType) -> Dtype {
    match dtype {
        LatentType::F32 => Dtype::F32,
        LatentType::F16 => Dtype::F16,
        LatentType::Bf16 => Dtype::BF16,
    }
}

fn encode(values: &[f32], dtype: LatentType) -> Vec<u8> {
    match dtype {
        LatentType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        LatentType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        LatentType::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
    }
}

/// The first `n` numbers of `bytes`, as float32.
pub(super) fn decode(bytes: &[u8], n: usize, dtype: LatentType) -> Vec<f32> {
    match dtype {
        LatentType::F32 => bytes.chunks_exact(4).take(n).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        LatentType::F16 => bytes.chunks_exact(2).take(n).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        LatentType::Bf16 => bytes.chunks_exact(2).take(n).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
    }
}
