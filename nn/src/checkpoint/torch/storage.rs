//! Storages: the runs of numbers that tensors are views of.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use safetensors::Dtype;

use super::super::{
    budget::Budget,
    pickle::{Id, Pickle, Value},
    zip::Zip,
};

/// Where the storages of a file are.
#[derive(Debug)]
pub(super) enum Storages {
    /// In records `<folder>/data/<key>`.
    Zip(Archive),
    /// Behind the pickles of a legacy stream, by key.
    Legacy(HashMap<String, Bytes>),
}

#[derive(Debug)]
pub(super) struct Archive {
    zip: Arc<Zip>,
    folder: String,
    /// Written by a big-endian machine.
    swapped: bool,
    budget: Arc<Budget>,
    /// What was read of each record, so that shared storages are checked once.
    read: HashMap<String, Read>,
    /// Bytes that may still be unpacked: what is packed is unpacked again for every tensor in it.
    work: u64,
}

/// A record's contents or what is wrong with it, once it was read.
type Read = Arc<OnceLock<Result<Bytes, String>>>;

/// A storage, or the part of one that a tensor may look at.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub dtype: Dtype,
    /// Elements.
    pub len: u64,
    /// The first of them, within the contents.
    pub first: u64,
    contents: Contents,
}

#[derive(Clone, Debug)]
enum Contents {
    Ready(Bytes),
    Record { zip: Arc<Zip>, name: String, swapped: bool, budget: Arc<Budget>, read: Read },
}

impl Storages {
    /// A plain pickle has none outside of it.
    pub(super) fn nowhere() -> Self {
        Self::Legacy(HashMap::new())
    }

    pub(super) fn in_zip(zip: Zip, folder: String, budget: Budget) -> Result<Self, String> {
        let name = format!("{folder}/byteorder");
        let swapped = match zip.size(&name) {
            None => false,
            Some(_) => match zip.read(&name, &budget)?.trim_ascii() {
                b"little" => false,
                b"big" => true,
                other => return Err(format!("byte order `{}`: expected little or big", String::from_utf8_lossy(other))),
            },
        };
        Ok(Self::Zip(Archive {
            zip: Arc::new(zip),
            folder,
            swapped,
            work: 16 * budget.limit() as u64,
            budget: Arc::new(budget),
            read: HashMap::new(),
        }))
    }

    /// The storage that a persistent id names: ("storage", class, key, location, elements, view).
    pub(super) fn find(&mut self, pickle: &Pickle, persistent: Id) -> Result<Storage, String> {
        let declared = Declared::read(pickle, persistent)?;
        let contents = self.contents(&declared)?;
        let whole = Storage { dtype: declared.dtype, len: declared.len, first: 0, contents };
        match declared.part {
            None => Ok(whole),
            Some((first, len)) if first.checked_add(len).is_some_and(|end| end <= whole.len) => {
                Ok(Storage { first, len, ..whole })
            }
            Some((first, len)) => Err(format!("a view of {len} elements from {first} in a storage of {}", whole.len)),
        }
    }

    fn contents(&mut self, declared: &Declared) -> Result<Contents, String> {
        let Declared { key, dtype, len, .. } = declared;
        let bytes = len.checked_mul(size_of_dtype(*dtype)).ok_or_else(|| format!("storage `{key}`: {len} elements"))?;
        let (contents, size) = match self {
            Self::Zip(archive) => {
                let name = format!("{}/data/{key}", archive.folder);
                let size = archive.zip.size(&name).ok_or_else(|| format!("storage `{key}` has no record in the archive"))?;
                if !archive.zip.is_stored(&name) {
                    archive.work = archive.work.checked_sub(size).ok_or("too many tensors share compressed records")?;
                }
                let read = archive.read.entry(name.clone()).or_default().clone();
                let (zip, budget, swapped) = (archive.zip.clone(), archive.budget.clone(), archive.swapped);
                (Contents::Record { zip, name, swapped, budget, read }, size)
            }
            Self::Legacy(found) => {
                let data = found.get(key).ok_or_else(|| format!("storage `{key}` is not in the file"))?;
                (Contents::Ready(data.clone()), data.len() as u64)
            }
        };
        if size != bytes {
            return Err(format!("storage `{key}`: {len} elements of {dtype:?} are {bytes} bytes, but {size} are there"));
        }
        Ok(contents)
    }
}

impl Storage {
    /// The contents from the first to the last element of the whole storage, little-endian; checked when first read.
    pub(super) fn read(&self) -> Result<Bytes, String> {
        match &self.contents {
            Contents::Ready(bytes) => Ok(bytes.clone()),
            Contents::Record { zip, name, swapped, budget, read } => {
                if let Some(contents) = read.get() {
                    return contents.clone();
                }
                let contents = zip.read(name, budget);
                if *swapped {
                    return contents.map(|contents| swap(&contents, self.dtype));
                }
                // A slice of the file costs nothing to keep; what was unpacked is given back.
                if zip.is_stored(name) {
                    return read.get_or_init(|| contents).clone();
                }
                contents
            }
        }
    }

    /// The same elements under another dtype of the same size, as `_rebuild_tensor_v3` gives it beside an untyped storage.
    pub(super) fn retyped(mut self, dtype: Dtype) -> Result<Self, String> {
        let (old, new) = (size_of_dtype(self.dtype), size_of_dtype(dtype));
        if !(self.len * old).is_multiple_of(new) || !(self.first * old).is_multiple_of(new) {
            return Err(format!("a storage of {} bytes holds no whole number of {dtype:?}", self.len * old));
        }
        (self.len, self.first, self.dtype) = (self.len * old / new, self.first * old / new, dtype);
        Ok(self)
    }
}

/// Longer than any key.
const MAX_KEY: usize = 255;

/// What a persistent id says of a storage.
pub(super) struct Declared {
    pub dtype: Dtype,
    pub key: String,
    pub len: u64,
    /// First element and number of elements, where it is a view of the storage `key`.
    part: Option<(u64, u64)>,
}

impl Declared {
    pub(super) fn read(pickle: &Pickle, id: Id) -> Result<Self, String> {
        let Value::Persistent(id) = pickle.get(id) else { return Err("a tensor without a storage".to_string()) };
        let fields = pickle.items(*id).unwrap_or_default();
        let (Some("storage"), [_, class, key, _location, len, view @ ..]) =
            (fields.first().and_then(|&f| pickle.text(f)), fields)
        else {
            return Err("a reference to something else than a storage".to_string());
        };
        let class = pickle.class(*class).ok_or("a storage of no class")?;
        let dtype = dtype_of_class(class).ok_or_else(|| format!("storage class `{class}` is not known"))?;
        let key = match pickle.get(*key) {
            Value::Int(n) => n.to_string(),
            _ => pickle.text(*key).ok_or("a storage without a key")?.to_string(),
        };
        if key.len() > MAX_KEY {
            return Err(format!("a storage whose key has {} characters", key.len()));
        }
        let number = |id: Id| pickle.int(id).and_then(|n| u64::try_from(n).ok());
        let len = number(*len).ok_or_else(|| format!("storage `{key}`: its size is no number of elements"))?;
        let part = match view.first().map(|&view| pickle.items(view)) {
            None | Some(None) => None,
            Some(Some([_key, first, len])) => {
                Some(number(*first).zip(number(*len)).ok_or_else(|| format!("storage `{key}`: a damaged view"))?)
            }
            Some(Some(_)) => return Err(format!("storage `{key}`: a damaged view")),
        };
        Ok(Self { dtype, key, len, part })
    }
}

/// The dtype of the elements of a class of storages.
fn dtype_of_class(class: &str) -> Option<Dtype> {
    let name = class.strip_prefix("torch.cuda.").or_else(|| class.strip_prefix("torch.storage."));
    Some(match name.or_else(|| class.strip_prefix("torch."))? {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" | "UntypedStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        "ComplexFloatStorage" => Dtype::C64,
        _ => return None,
    })
}

/// A dtype of torch by its global name, of those that have no class of storages too.
pub(super) fn dtype_of_name(name: &str) -> Option<Dtype> {
    Some(match name.strip_prefix("torch.")? {
        "float32" | "float" => Dtype::F32,
        "float64" | "double" => Dtype::F64,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::BOOL,
        "complex64" => Dtype::C64,
        _ => return None,
    })
}

/// Bytes of an element.
pub(super) fn size_of_dtype(dtype: Dtype) -> u64 {
    dtype.bitsize() as u64 / 8
}

/// Big-endian elements become little-endian.
fn swap(contents: &Bytes, dtype: Dtype) -> Bytes {
    // A complex number is two numbers.
    let width = if dtype == Dtype::C64 { 4 } else { size_of_dtype(dtype) as usize };
    let mut swapped = contents.to_vec();
    swapped.chunks_exact_mut(width.max(1)).for_each(<[u8]>::reverse);
    swapped.into()
}
