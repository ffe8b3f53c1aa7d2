//! What `torch.save` and `pickle.dump` write: an object graph whose tensors are views of storages.
//!
//! - zip archives (torch 1.6 and later): `data.pkl` and a record per storage, mapped;
//! - legacy streams (before 1.6): five pickles, then the storages;
//! - plain pickles, whose storages are complete legacy streams inside of them.

mod legacy;
mod rebuild;
mod storage;
mod view;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::{
    budget::Budget,
    pickle::{Id, Pickle},
    zip::Zip,
};
pub(crate) use view::View;

/// How the parts lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Zip,
    Legacy,
    Pickle,
}

/// A file that torch or pickle wrote, with every tensor in it checked; their contents are read when asked for.
#[derive(Debug)]
pub(crate) struct TorchFile {
    pub container: Container,
    pub pickle: Pickle,
    tensors: HashMap<Id, Arc<View>>,
}

impl TorchFile {
    /// Reads everything but the contents of tensors.
    ///
    /// # Errors
    /// If a part is damaged or refused; nothing is returned then.
    pub(crate) fn read(file: &Bytes, budget: &mut Budget) -> Result<Self, String> {
        if Zip::is_one(file) {
            return Self::read_zip(file, budget);
        }
        if legacy::is_one(file) {
            let mut stream = legacy::Stream::read(file, budget)?;
            let tensors = rebuild::tensors(&stream.pickle, &mut stream.storages, budget)?;
            return Ok(Self { container: Container::Legacy, pickle: stream.pickle, tensors });
        }
        let (pickle, _) = Pickle::read(file, budget)?;
        let tensors = rebuild::tensors(&pickle, &mut storage::Storages::nowhere(), budget)?;
        Ok(Self { container: Container::Pickle, pickle, tensors })
    }

    fn read_zip(file: &Bytes, budget: &mut Budget) -> Result<Self, String> {
        let zip = Zip::open(file, budget)?;
        let folders: Vec<&str> = zip.names().filter_map(|name| name.strip_suffix("/data.pkl")).collect();
        let folder = match folders.as_slice() {
            [folder] => folder.to_string(),
            [] => return Err("a zip archive without data.pkl: not a file of torch.save".to_string()),
            _ => return Err("a zip archive with more than one data.pkl".to_string()),
        };
        let (pickle, _) = Pickle::read(&zip.read(&format!("{folder}/data.pkl"), budget)?, budget)?;
        let mut storages = storage::Storages::in_zip(zip, folder, Budget::of(file.len()))?;
        let tensors = rebuild::tensors(&pickle, &mut storages, budget)?;
        Ok(Self { container: Container::Zip, pickle, tensors })
    }

    /// The tensor that a value is.
    pub(crate) fn tensor(&self, id: Id) -> Option<&Arc<View>> {
        self.tensors.get(&id)
    }
}
