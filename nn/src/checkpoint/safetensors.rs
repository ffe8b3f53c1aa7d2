//! The safetensors format, strictly: what its description forbids is an error, because a file that breaks it is damaged or meant
//! to be read differently by different programs.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use safetensors::Dtype;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

/// The format's own limit on the header.
const MAX_HEADER: u64 = 100_000_000;
/// More dimensions than any tensor has.
const MAX_RANK: usize = 64;

/// A tensor of the file.
#[derive(Debug)]
pub(super) struct Stored {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub contents: Bytes,
}

/// A file's tensors, in the order of their names, and its `__metadata__`.
#[derive(Debug)]
pub(super) struct SafetensorsFile {
    pub tensors: Vec<Stored>,
    pub metadata: BTreeMap<String, String>,
}

/// Whether the file begins as the format does: a length, then a JSON object.
pub(super) fn is_one(file: &[u8]) -> bool {
    file.get(8) == Some(&b'{') && file.first_chunk().is_some_and(|b| u64::from_le_bytes(*b) <= MAX_HEADER)
}

impl SafetensorsFile {
    /// Reads the header; contents are slices of `file`.
    pub(super) fn read(file: &Bytes) -> Result<Self, String> {
        let length = file.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or("it is shorter than a header")?;
        if length > MAX_HEADER {
            return Err(format!("a header of {length} bytes, at most {MAX_HEADER} are allowed"));
        }
        let end = 8 + length as usize;
        let header = file.get(8..end).ok_or_else(|| format!("a header of {length} bytes in a file of {}", file.len()))?;
        let text = std::str::from_utf8(header).map_err(|_| "its header is not UTF-8")?;
        let Header { tensors, metadata } = serde_json::from_str(text).map_err(|e| format!("its header: {e}"))?;
        let mut tensors = place(tensors, &file.slice(end..))?;
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { tensors, metadata })
    }
}

/// Cuts the data into tensors: their ranges must tile it.
fn place(mut entries: Vec<(String, Entry)>, data: &Bytes) -> Result<Vec<Stored>, String> {
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut at = 0;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, Entry { dtype, shape: Shape(shape), data_offsets: (start, end) }) in entries {
        if start != at || end < start {
            return Err(format!("`{name}`: its bytes are {start} to {end}, expected them to begin at {at}"));
        }
        let bits = shape.iter().try_fold(dtype.bitsize(), |n, &size| n.checked_mul(size));
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != end - start) {
            return Err(format!("`{name}`: {} bytes do not hold {shape:?} of {dtype:?}", end - start));
        }
        if end > data.len() {
            return Err(format!("it is cut short: `{name}` ends at {end}, the data at {}", data.len()));
        }
        at = end;
        tensors.push(Stored { name, dtype, shape, contents: data.slice(start..end) });
    }
    match data.len() - at {
        0 => Ok(tensors),
        rest => Err(format!("{rest} bytes behind the last tensor belong to nothing")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// Sizes, not too many of them.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_RANK} sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut sizes = Vec::new();
                while let Some(size) = seq.next_element()? {
                    if sizes.len() == MAX_RANK {
                        return Err(A::Error::custom(format!("a shape of more than {MAX_RANK} sizes")));
                    }
                    sizes.push(size);
                }
                Ok(Shape(sizes))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

struct Header {
    tensors: Vec<(String, Entry)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut names = std::collections::HashSet::new();
                let mut header = Header { tensors: Vec::new(), metadata: BTreeMap::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value()?;
                    } else {
                        header.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
