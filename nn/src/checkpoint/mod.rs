//! Weight files of any origin, read without executing anything: safetensors, single and sharded, and what torch and pickle write.
//!
//! [`Checkpoint::open`] reads names, shapes and plain values; the contents of a tensor are read when they are asked for, from the
//! mapped file. Every length is checked before it is used, and a file cannot claim more memory than four times its size (and two
//! mebibytes). Names that can only serve an attack refuse the whole file.
//!
//! ```no_run
//! use candle_core::Device;
//! use strata_nn::checkpoint::Checkpoint;
//!
//! let file = Checkpoint::open("model.ckpt".as_ref())?;
//! for tensor in file.tensors() {
//!     println!("{} {:?} {:?}", tensor.name(), tensor.dtype(), tensor.shape());
//! }
//! let weights = file.load(&Device::Cpu)?;
//! # Ok::<(), strata_nn::Error>(())
//! ```

mod budget;
mod file;
mod layout;
mod meta;
mod pickle;
mod safetensors;
mod sharded;
mod tensor;
#[cfg(test)]
mod tests;
mod torch;
mod tree;
mod zip;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use candle_core::Device;
use serde_json::Value as Json;

pub use ::safetensors::Dtype;
pub use tensor::Tensor;

use crate::{
    Error, Result,
    weights::{self, Entry, Weights},
};
use budget::Budget;
use torch::{Container, TorchFile};

/// What diffusers calls the weights of a model, as [`diffusers_weights`] finds them and an export is called.
pub const DIFFUSERS_WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// The weight file of the model of diffusers in a folder; safetensors before pickles, a whole file before the list of its parts.
pub fn diffusers_weights(folder: &Path) -> Option<PathBuf> {
    let others = ["safetensors.index.json", "bin", "bin.index.json"].map(|end| format!("diffusion_pytorch_model.{end}"));
    let names = std::iter::once(DIFFUSERS_WEIGHTS).chain(others.iter().map(String::as_str));
    names.map(|name| folder.join(name)).find(|file| file.is_file())
}

/// How a file's bytes are organised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One safetensors file.
    Safetensors,
    /// An index and the files it names.
    Sharded,
    /// A zip archive of `torch.save`.
    TorchZip,
    /// `torch.save` before torch 1.6.
    TorchLegacy,
    /// `pickle.dump`.
    Pickle,
}

impl Format {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Sharded => "sharded weights",
            Self::TorchZip => "torch zip archive",
            Self::TorchLegacy => "torch legacy stream",
            Self::Pickle => "pickle",
        }
    }
}

/// What a program keeps where in its files; decides the names of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Whichever of the following the file looks like.
    Auto,
    /// Any nesting of dictionaries, lists and tuples; names are keys and positions joined with dots.
    TorchSave,
    /// PyTorch Lightning, as latent-diffusion uses it: the keys of `state_dict`.
    Lightning,
    /// EDM's network snapshots: the module under `ema`.
    EdmPkl,
    /// score-SDE: `model.<name>`, and the bare list of averages as `ema.<name>`.
    ScoreSde,
    /// safetensors.
    Safetensors,
    /// Sharded weights.
    Sharded,
}

/// An open weight file.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    layout: Layout,
    file_bytes: u64,
    /// Sorted by name.
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, Json>,
    ema: Vec<(String, String)>,
    optimizer: Option<Optimizer>,
}

/// The state of a Lightning checkpoint's optimizers.
#[derive(Debug)]
pub struct Optimizer {
    /// `<optimizer>.state.<parameter>.<field>`, in the order of the file.
    pub tensors: Vec<Tensor>,
    /// The settings of each group of parameters.
    pub param_groups: Vec<Json>,
    /// Steps taken, where they are plain numbers.
    pub steps: Option<i64>,
}

impl Checkpoint {
    /// Opens a weight file of any kind.
    ///
    /// # Errors
    /// If it is damaged, refused, holds no tensor, or is none; nothing of it is returned then.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, Layout::Auto)
    }

    /// Opens a weight file of which the layout is known.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], or if the file has another layout.
    pub fn open_as(path: &Path, layout: Layout) -> Result<Self> {
        Self::open_with(path, layout, None)
    }

    /// Opens a score-SDE checkpoint whose averages leave out the parameters `non_trainable` (and no others).
    ///
    /// # Errors
    /// As [`Checkpoint::open_as`]; also if the averages and the other parameters are not equally many.
    pub fn open_score_sde(path: &Path, non_trainable: &[String]) -> Result<Self> {
        Self::open_with(path, Layout::ScoreSde, Some(non_trainable))
    }

    fn open_with(path: &Path, layout: Layout, non_trainable: Option<&[String]>) -> Result<Self> {
        if layout == Layout::Sharded || (layout == Layout::Auto && sharded::is_one(path)) {
            return sharded::open(path);
        }
        Self::open_file(path, layout, non_trainable)
    }

    /// Opens one file, which is no index of others.
    fn open_file(path: &Path, layout: Layout, non_trainable: Option<&[String]>) -> Result<Self> {
        let file = file::map(path)?;
        let named = path.extension().is_some_and(|e| e == "safetensors");
        let layout = if layout == Layout::Auto && named { Layout::Safetensors } else { layout };
        Self::parse(path, &file, layout, non_trainable).map_err(|why| match not_weights(&file) {
            Some(what) => Error::file(path, what),
            None => Error::file(path, why),
        })
    }

    /// Reads a file that lies in memory; `path` names it in messages.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]. An index of shards is not read from memory.
    pub fn from_bytes(path: &Path, file: impl Into<Bytes>) -> Result<Self> {
        let file = file.into();
        Self::parse(path, &file, Layout::Auto, None).map_err(|why| Error::file(path, why))
    }

    fn parse(path: &Path, file: &Bytes, layout: Layout, non_trainable: Option<&[String]>) -> std::result::Result<Self, String> {
        if layout == Layout::Safetensors || (layout == Layout::Auto && safetensors::is_one(file)) {
            return Self::parse_safetensors(path, file);
        }
        let mut budget = Budget::of(file.len());
        // A pickle of protocol 0 or 1 begins with anything: what is none fails there too.
        let known = file.starts_with(b"PK") || file.starts_with(b"\x80");
        let torch = TorchFile::read(file, &mut budget)
            .map_err(|why| if known { why } else { format!("damaged, or not a weight file ({why})") })?;
        let layout = if layout == Layout::Auto { layout::detect(&torch.pickle) } else { layout };
        let read = layout::read(&torch, layout, non_trainable, &mut budget)?;
        if read.tensors.is_empty() {
            return Err("holds no tensor".to_string());
        }
        let format = match torch.container {
            Container::Zip => Format::TorchZip,
            Container::Legacy => Format::TorchLegacy,
            Container::Pickle => Format::Pickle,
        };
        let tensors = read.tensors.into_iter().map(Into::into).collect();
        let (metadata, ema, optimizer) = (read.meta, read.ema, read.optimizer);
        Ok(Self { layout, metadata, ema, optimizer, file_bytes: file.len() as u64, ..Self::of(path, format, tensors) })
    }

    fn parse_safetensors(path: &Path, file: &Bytes) -> std::result::Result<Self, String> {
        let read =
            safetensors::SafetensorsFile::read(file).map_err(|why| format!("damaged, or not a safetensors file ({why})"))?;
        let tensors = read.tensors.into_iter().map(Into::into).collect();
        let metadata = read.metadata.into_iter().map(|(key, text)| (format!("__metadata__.{key}"), text.into())).collect();
        Ok(Self { metadata, file_bytes: file.len() as u64, ..Self::of(path, Format::Safetensors, tensors) })
    }

    fn of(path: &Path, format: Format, mut tensors: Vec<Tensor>) -> Self {
        tensors.sort_by(|a, b| a.name().cmp(b.name()));
        let layout = if format == Format::Sharded { Layout::Sharded } else { Layout::Safetensors };
        let (metadata, path) = (BTreeMap::new(), path.to_path_buf());
        Self { path, format, layout, file_bytes: 0, tensors, metadata, ema: Vec::new(), optimizer: None }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How its bytes are organised.
    pub fn format(&self) -> Format {
        self.format
    }

    /// What it was read as; never [`Layout::Auto`].
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Size on disk, of all shards together.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Its tensors, sorted by name.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.binary_search_by(|t| t.name().cmp(name)).ok().map(|i| &self.tensors[i])
    }

    /// Plain values beside the tensors, under dotted names. Infinite numbers are texts ("inf"); the header of a safetensors file
    /// is `__metadata__.<key>`.
    pub fn metadata(&self) -> &BTreeMap<String, Json> {
        &self.metadata
    }

    /// Of a Lightning file: each averaged parameter's own name, and the name that its average is stored as.
    pub fn ema(&self) -> &[(String, String)] {
        &self.ema
    }

    /// Of a Lightning file: the state of its optimizers.
    pub fn optimizer(&self) -> Option<&Optimizer> {
        self.optimizer.as_ref()
    }

    /// Loads the tensors that `select` gives a name to, under that name.
    ///
    /// # Errors
    /// If contents are damaged, or of a kind that no tensor of candle can hold.
    pub fn load_where(
        &self,
        device: &Device,
        select: impl Fn(&str) -> Option<String>,
    ) -> Result<HashMap<String, candle_core::Tensor>> {
        let chosen = self.tensors.iter().filter_map(|t| Some((select(t.name())?, t)));
        chosen.map(|(name, t)| Ok((name, t.load(&self.path, device)?))).collect()
    }

    /// Loads everything; of the metadata, the texts of a safetensors header.
    ///
    /// # Errors
    /// As [`Checkpoint::load_where`].
    pub fn load(&self, device: &Device) -> Result<Weights> {
        let text =
            |(key, value): (&String, &Json)| Some((key.strip_prefix("__metadata__.")?.to_string(), value.as_str()?.to_string()));
        let metadata = self.metadata.iter().filter_map(text).collect();
        Ok(Weights { tensors: self.load_where(device, |name| Some(name.to_string()))?, metadata })
    }
}

impl Checkpoint {
    /// Writes every tensor under its name, and `metadata`, into one safetensors file at `out`, one tensor at a time.
    ///
    /// # Errors
    /// If contents are damaged, or the file cannot be written; nothing is at `out` then.
    pub fn write_safetensors(&self, out: &Path, metadata: &BTreeMap<String, String>) -> Result<()> {
        let entry = |t: &Tensor| Entry { name: t.name().to_string(), dtype: t.dtype(), shape: t.shape().to_vec() };
        let entries: Vec<Entry> = self.tensors.iter().map(entry).collect();
        let contents = |i: usize| {
            let t = &self.tensors[i];
            t.read().map_err(|why| Error::file(&self.path, format!("`{}`: {why}", t.name())))
        };
        weights::write_stream(out, &entries, metadata, contents)
    }
}

/// What a file is that is often found in place of weights.
fn not_weights(file: &[u8]) -> Option<&'static str> {
    let beginning = file[..file.len().min(512)].trim_ascii_start();
    if beginning.starts_with(b"version https://git-lfs") {
        return Some("is a pointer of git-lfs, not the file itself; fetch the file (`git lfs pull`)");
    }
    if matches!(beginning, [b'<', b'!' | b'?' | b'h' | b'H', ..]) {
        return Some("is a web page, not weights: the download was answered by an error or a login page");
    }
    if file.get(257..262) == Some(b"ustar") {
        return Some("is a tar archive; unpack it first");
    }
    None
}
