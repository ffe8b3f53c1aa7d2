//! Weights as tensors in memory: read from files of any kind, written as safetensors beside their place, synced and renamed.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Write,
    path::Path,
};

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result, checkpoint::Checkpoint};

mod stream;

pub use stream::{Entry, write_stream};

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
///
/// # Errors
/// If two tensors have one name, a dtype cannot be stored, or the file cannot be written.
pub fn save(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
    let entry =
        |(name, t): &(String, Tensor)| Ok(Entry { name: name.clone(), dtype: dtype(t.dtype())?, shape: t.dims().to_vec() });
    let entries: Vec<Entry> = tensors.iter().map(entry).collect::<Result<_>>()?;
    write_stream(path, &entries, metadata, |i| contents(&tensors[i].1))
}

/// Loads a weight file of any kind onto `device`; see [`Checkpoint`] for what can be read and which names tensors get.
///
/// # Errors
/// If it is none, is damaged or refused, or holds what no tensor can.
pub fn load(path: &Path, device: &Device) -> Result<Weights> {
    Checkpoint::open(path)?.load(device)
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

/// The elements of a tensor as a file keeps them: row-major and little-endian.
///
/// # Errors
/// If the type of its elements cannot be stored.
pub fn contents(t: &Tensor) -> Result<bytes::Bytes> {
    Ok(bytes(t)?.into())
}

fn bytes(t: &Tensor) -> Result<Vec<u8>> {
    fn collect<T: candle_core::WithDType, const N: usize>(t: &Tensor, f: impl Fn(T) -> [u8; N]) -> Result<Vec<u8>> {
        let values = t.to_vec1::<T>()?;
        let mut out = Vec::with_capacity(values.len() * N);
        values.into_iter().for_each(|v| out.extend_from_slice(&f(v)));
        Ok(out)
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
