//! Safetensors files: written beside their place, synced and renamed; read with every length checked.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Write,
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use safetensors::{SafeTensors, tensor::TensorView};

use crate::{Error, Result};

/// A weight file in memory: tensors and the text metadata of its header.
#[derive(Debug, Default)]
pub struct Weights {
    /// Name to tensor.
    pub tensors: HashMap<String, Tensor>,
    /// The header's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// Writes `tensors` and `metadata` to `path`: beside it first, synced, then renamed, so that a reader never sees half a file.
/// The same content gives the same bytes.
pub fn save(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
    // Wide numbers first, so that every tensor is aligned to its own.
    let mut tensors: Vec<&(String, Tensor)> = tensors.iter().collect();
    tensors.sort_by_key(|(_, t)| std::cmp::Reverse(t.dtype().size_in_bytes()));
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    header.insert("__metadata__".to_string(), serde_json::json!(metadata));
    for (name, t) in tensors {
        let start = data.len();
        data.extend(bytes(t)?);
        let entry = serde_json::json!({ "dtype": dtype(t.dtype())?, "shape": t.dims(), "data_offsets": [start, data.len()] });
        if header.insert(name.clone(), entry).is_some() {
            return Err(Error::file(path, format!("`{name}` is there twice")));
        }
    }
    let mut header = serde_json::to_vec(&header).map_err(|e| Error::file(path, e))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.append(&mut header);
    file.append(&mut data);
    write_atomic(path, &file)
}

/// Reads a safetensors file onto `device`.
pub fn load(path: &Path, device: &Device) -> Result<Weights> {
    let data = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let (_, header) = SafeTensors::read_metadata(&data).map_err(|e| Error::file(path, damaged(&e)))?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = SafeTensors::deserialize(&data).map_err(|e| Error::file(path, damaged(&e)))?;
    let tensors =
        file.iter().map(|(name, view)| Ok((name.to_string(), tensor(path, name, &view, device)?))).collect::<Result<_>>()?;
    Ok(Weights { tensors, metadata })
}

/// Writes a file beside its place, syncs it and renames it.
pub fn write_atomic(path: &Path, data: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = beside(folder)?;
        file.write_all(data)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|e| Error::file(path, e))
}

/// A nameless neighbour with the permissions that a new file has, not those of a secret.
fn beside(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

fn damaged(e: &safetensors::SafeTensorError) -> String {
    format!("damaged or not a safetensors file ({e})")
}

fn dtype(dtype: DType) -> Result<safetensors::Dtype> {
    Ok(match dtype {
        DType::U8 => safetensors::Dtype::U8,
        DType::U32 => safetensors::Dtype::U32,
        DType::I64 => safetensors::Dtype::I64,
        DType::BF16 => safetensors::Dtype::BF16,
        DType::F16 => safetensors::Dtype::F16,
        DType::F32 => safetensors::Dtype::F32,
        DType::F64 => safetensors::Dtype::F64,
        other => return Err(Error::Config(format!("cannot store {other:?} tensors"))),
    })
}

fn bytes(t: &Tensor) -> Result<Vec<u8>> {
    fn collect<T: candle_core::WithDType, const N: usize>(t: &Tensor, f: impl Fn(T) -> [u8; N]) -> Result<Vec<u8>> {
        Ok(t.to_vec1::<T>()?.into_iter().flat_map(f).collect())
    }
    let t = t.flatten_all()?;
    match t.dtype() {
        DType::U8 => Ok(t.to_vec1::<u8>()?),
        DType::U32 => collect(&t, u32::to_le_bytes),
        DType::I64 => collect(&t, i64::to_le_bytes),
        DType::BF16 => collect(&t, half::bf16::to_le_bytes),
        DType::F16 => collect(&t, half::f16::to_le_bytes),
        DType::F32 => collect(&t, f32::to_le_bytes),
        DType::F64 => collect(&t, f64::to_le_bytes),
        other => Err(Error::Config(format!("cannot store {other:?} tensors"))),
    }
}

fn tensor(path: &Path, name: &str, view: &TensorView<'_>, device: &Device) -> Result<Tensor> {
    let dtype = match view.dtype() {
        safetensors::Dtype::U8 | safetensors::Dtype::BOOL => DType::U8,
        safetensors::Dtype::U32 => DType::U32,
        safetensors::Dtype::I64 => DType::I64,
        safetensors::Dtype::BF16 => DType::BF16,
        safetensors::Dtype::F16 => DType::F16,
        safetensors::Dtype::F32 => DType::F32,
        safetensors::Dtype::F64 => DType::F64,
        other => return Err(Error::file(path, format!("`{name}`: dtype {other:?} is not supported"))),
    };
    Ok(Tensor::from_raw_buffer(view.data(), dtype, view.shape(), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn files_can_be_read_by_whom_others_can() -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().map_err(|e| Error::file(".", e))?;
        let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
        write_atomic(&ours, b"x")?;
        std::fs::write(&plain, b"x").map_err(|e| Error::file(&plain, e))?;
        let mode = |path: &Path| std::fs::metadata(path).map(|m| m.permissions().mode()).ok();
        assert_eq!(mode(&ours), mode(&plain));
        Ok(())
    }

    #[test]
    fn round_trip_and_truncation() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|e| Error::file(".", e))?;
        let path = dir.path().join("w.safetensors");
        let t = Tensor::arange(0f32, 6f32, &Device::Cpu)?.reshape((2, 3))?;
        let metadata = BTreeMap::from(["config", "kind", "size", "format"].map(|key| (key.to_string(), "{}".to_string())));
        let tensors = [("a.b".to_string(), t.clone()), ("n".to_string(), Tensor::new(&[7i64], &Device::Cpu)?)];
        save(&path, &tensors, &metadata)?;
        let read = load(&path, &Device::Cpu)?;
        assert_eq!(read.tensors["a.b"].to_vec2::<f32>()?, t.to_vec2::<f32>()?);
        assert_eq!(read.metadata, metadata);
        assert_eq!(read.tensors["n"].to_vec1::<i64>()?, [7]);
        let data = std::fs::read(&path).map_err(|e| Error::file(&path, e))?;
        save(&path, &tensors, &metadata)?;
        assert!(data == std::fs::read(&path).map_err(|e| Error::file(&path, e))?, "the bytes depend on something else");
        std::fs::write(&path, &data[..data.len() - 5]).map_err(|e| Error::file(&path, e))?;
        let message = load(&path, &Device::Cpu).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("w.safetensors") && message.contains("damaged"), "{message}");
        Ok(())
    }
}
