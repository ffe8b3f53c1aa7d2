//! The format of torch before 1.6: five pickles in a row (magic number, version, the machine, the object, the keys of the
//! storages), then for each key the number of elements and the elements.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    super::{
        budget::Budget,
        pickle::{Id, Pickle, Value},
    },
    storage::{Declared, Storages, size_of_dtype},
};

/// 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// The object, and its storages.
pub(super) struct Stream {
    pub pickle: Pickle,
    pub storages: Storages,
}

/// Whether the first pickle is the magic number.
pub(super) fn is_one(file: &Bytes) -> bool {
    // The number alone takes a few bytes; a longer beginning is something else, and not worth reading.
    let beginning = file.slice(..file.len().min(64));
    Pickle::read(&beginning, &mut Budget::of(64)).is_ok_and(|(pickle, _)| is_magic(&pickle))
}

fn is_magic(pickle: &Pickle) -> bool {
    matches!(pickle.get(pickle.root()), Value::Long(bytes) if bytes.as_ref() == MAGIC)
}

impl Stream {
    /// Reads a stream that fills `file`.
    pub(super) fn read(file: &Bytes, budget: &mut Budget) -> Result<Self, String> {
        let mut rest = file.clone();
        let mut next = |budget: &mut Budget| {
            let (pickle, used) = Pickle::read(&rest, budget)?;
            rest = rest.slice(used..);
            Ok::<Pickle, String>(pickle)
        };
        if !is_magic(&next(budget)?) {
            return Err("not a file of torch.save: another magic number".to_string());
        }
        let version = next(budget)?;
        if version.int(version.root()) != Some(VERSION) {
            return Err(format!("a version of the format other than {VERSION}"));
        }
        let machine = next(budget)?;
        if machine.entry(machine.root(), "little_endian").is_some_and(|id| matches!(machine.get(id), Value::Bool(false))) {
            return Err("written on a big-endian machine; save it again with a current torch".to_string());
        }
        let (pickle, keys) = (next(budget)?, next(budget)?);
        let storages = storages(rest, &pickle, &keys, budget)?;
        Ok(Self { pickle, storages: Storages::Legacy(storages) })
    }
}

fn storages(rest: Bytes, pickle: &Pickle, keys: &Pickle, budget: &mut Budget) -> Result<HashMap<String, Bytes>, String> {
    let mut widths = HashMap::new();
    for id in (0..pickle.len() as Id).filter(|&id| matches!(pickle.get(id), Value::Persistent(_))) {
        let Declared { key, dtype, .. } = Declared::read(pickle, id)?;
        budget.claim(2 * (key.len() + 40))?;
        widths.insert(key, size_of_dtype(dtype));
    }
    let (mut found, mut rest) = (HashMap::new(), rest);
    for &key in keys.items(keys.root()).ok_or("no list of storages")? {
        let key = match keys.get(key) {
            Value::Int(n) => n.to_string(),
            _ => keys.text(key).ok_or("a storage without a key")?.to_string(),
        };
        let cut = || format!("storage `{key}` is cut short");
        let width = *widths.get(&key).ok_or_else(|| format!("storage `{key}` belongs to nothing"))?;
        let count = rest.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or_else(cut)?;
        let size = count.checked_mul(width).and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= rest.len() - 8);
        let end = 8 + size.ok_or_else(cut)?;
        budget.claim(2 * (key.len() + 80))?;
        found.insert(key, rest.slice(8..end));
        rest = rest.slice(end..);
    }
    Ok(found)
}
