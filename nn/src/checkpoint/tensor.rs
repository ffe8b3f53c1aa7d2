//! One tensor of a weight file: what it is, and its contents when they are asked for.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use candle_core::{DType, Device};
use safetensors::Dtype;

use super::{safetensors::Stored, torch::View, tree::Named};
use crate::{Error, Result};

/// A tensor whose contents have not been read yet.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(super) name: String,
    contents: Contents,
}

#[derive(Clone, Debug)]
enum Contents {
    Plain { dtype: Dtype, shape: Vec<usize>, bytes: Bytes },
    View(Arc<View>),
}

impl From<Named> for Tensor {
    fn from((name, view): Named) -> Self {
        Self { name, contents: Contents::View(view) }
    }
}

impl From<Stored> for Tensor {
    fn from(Stored { name, dtype, shape, contents }: Stored) -> Self {
        Self { name, contents: Contents::Plain { dtype, shape, bytes: contents } }
    }
}

impl Tensor {
    /// Its name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        match &self.contents {
            Contents::Plain { dtype, .. } => *dtype,
            Contents::View(view) => view.dtype(),
        }
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        match &self.contents {
            Contents::Plain { shape, .. } => shape,
            Contents::View(view) => view.shape(),
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Its elements, row-major and little-endian. A slice of the mapped file where they lie there as they are.
    ///
    /// # Errors
    /// If the contents are damaged.
    pub fn read(&self) -> std::result::Result<Bytes, String> {
        match &self.contents {
            Contents::Plain { bytes, .. } => Ok(bytes.clone()),
            Contents::View(view) => view.read(),
        }
    }

    /// As a tensor of candle; `path` names the file in messages. Integers that candle has no type for become 64-bit ones,
    /// booleans bytes.
    ///
    /// # Errors
    /// If the contents are damaged, or the type has no counterpart.
    pub fn load(&self, path: &Path, device: &Device) -> Result<candle_core::Tensor> {
        let wrong = |why: String| Error::file(path, format!("`{}`: {why}", self.name));
        let bytes = self.read().map_err(wrong)?;
        let dtype = match self.dtype() {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::U8 | Dtype::BOOL => DType::U8,
            Dtype::U32 => DType::U32,
            Dtype::I64 => DType::I64,
            Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::U16 | Dtype::U64 => {
                let values = widen(&bytes, self.dtype()).ok_or_else(|| wrong("a number beyond 64 bits with a sign".into()))?;
                return Ok(candle_core::Tensor::from_vec(values, self.shape(), device)?);
            }
            other => return Err(wrong(format!("elements of type {other:?} cannot be computed with"))),
        };
        Ok(candle_core::Tensor::from_raw_buffer(&bytes, dtype, self.shape(), device)?)
    }
}

fn widen(bytes: &[u8], dtype: Dtype) -> Option<Vec<i64>> {
    fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> Option<i64>) -> Option<Vec<i64>> {
        bytes.as_chunks::<N>().0.iter().map(|chunk| f(*chunk)).collect()
    }
    match dtype {
        Dtype::I8 => each(bytes, |b| Some(i64::from(i8::from_le_bytes(b)))),
        Dtype::I16 => each(bytes, |b| Some(i64::from(i16::from_le_bytes(b)))),
        Dtype::I32 => each(bytes, |b| Some(i64::from(i32::from_le_bytes(b)))),
        Dtype::U16 => each(bytes, |b| Some(i64::from(u16::from_le_bytes(b)))),
        _ => each(bytes, |b| i64::try_from(u64::from_le_bytes(b)).ok()),
    }
}
