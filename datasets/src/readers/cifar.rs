//! CIFAR-10: binary batches, Python batches, or the published archive of these.

use std::path::Path;

use crate::dataset::{Content, Metadata, Source, Summary};
use crate::picture::StoredImage;
use crate::readers::files;
use crate::readers::pickle::Pickle;
use crate::readers::regions::RangeFile;
use crate::readers::tar;
use crate::{Error, Result};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;
const ROW: usize = 3 * PLANE;
const BATCHES: [&str; 6] = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
const PYTHON_FOLDER: &str = "cifar-10-batches-py";
const BINARY_FOLDER: &str = "cifar-10-batches-bin";

struct Batch {
    name: &'static str,
    labels: Vec<u8>,
    filenames: Vec<String>,
    /// Rows of red, green and blue planes.
    pixels: Vec<u8>,
}

/// Pictures of 32 x 32; keys are `data_batch_1/0`, ...
pub(crate) struct Cifar10 {
    batches: Vec<Batch>,
    /// Index of the first picture of each batch.
    starts: Vec<usize>,
    classes: Vec<String>,
}

impl Cifar10 {
    /// Whether the folder, or one below it, holds batches.
    pub(crate) fn is_here(root: &Path) -> bool {
        [".", PYTHON_FOLDER, BINARY_FOLDER].iter().any(|f| Self::batches_in(&root.join(f)))
    }

    fn batches_in(folder: &Path) -> bool {
        BATCHES.iter().any(|b| folder.join(b).is_file() || folder.join(format!("{b}.bin")).is_file())
    }

    /// Whether the archive is that of the Python batches.
    pub(crate) fn is_archive(path: &Path) -> bool {
        path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("cifar-10-"))
    }

    /// Errors if there is no batch, or one has a length, label or content that the layout does not allow.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::open_archive(path);
        }
        let inner = [".", PYTHON_FOLDER, BINARY_FOLDER].iter().map(|f| path.join(f)).find(|f| Self::batches_in(f));
        let folder = inner.ok_or_else(|| no_batches(path))?;
        Self::collect(path, |name| {
            let file = folder.join(name);
            if file.is_file() { files::read(&file).map(Some) } else { Ok(None) }
        })
    }

    fn open_archive(path: &Path) -> Result<Self> {
        let file = if tar::is_packed(path) { RangeFile::open_gzip(path)? } else { RangeFile::open(path)? };
        let members = tar::members(&file)?;
        Self::collect(path, |name| {
            let member = members.iter().find(|m| m.name.rsplit('/').next() == Some(name));
            member.map(|m| file.read(m.offset, m.size)).transpose()
        })
    }

    /// From files by name.
    fn collect(path: &Path, read: impl Fn(&str) -> Result<Option<Vec<u8>>>) -> Result<Self> {
        let mut classes = Vec::new();
        if let Some(text) = read("batches.meta.txt")? {
            classes =
                String::from_utf8_lossy(&text).lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_string).collect();
        } else if let Some(bytes) = read("batches.meta")? {
            let meta = Pickle::read(&bytes).map_err(|why| Error::file(path, format!("batches.meta: {why}")))?;
            let names = meta.get("label_names").and_then(|v| meta.texts(v));
            classes = names.ok_or_else(|| Error::file(path, "batches.meta: no label_names"))?;
        }
        let (mut batches, mut starts, mut total) = (Vec::new(), Vec::new(), 0);
        for name in BATCHES {
            let bad = |why: String| Error::file(path, format!("{name}: {why}"));
            let batch = match (read(&format!("{name}.bin"))?, read(name)?) {
                (Some(bytes), _) => Batch::binary(name, &bytes).map_err(bad)?,
                (None, Some(bytes)) => Batch::python(name, &bytes).map_err(bad)?,
                (None, None) => continue,
            };
            if let Some(label) = batch.labels.iter().find(|&&l| usize::from(l) >= classes.len().max(10)) {
                return Err(bad(format!("label {label} of {} classes", classes.len())));
            }
            starts.push(total);
            total += batch.labels.len();
            batches.push(batch);
        }
        if total == 0 {
            return Err(no_batches(path));
        }
        Ok(Self { batches, starts, classes })
    }

    fn place(&self, i: usize) -> (&Batch, usize) {
        let at = self.starts.partition_point(|&s| s <= i) - 1;
        (&self.batches[at], i - self.starts[at])
    }
}

fn no_batches(path: &Path) -> Error {
    Error::NoImages { path: path.to_path_buf(), looked_for: "data_batch_1 to 5 and test_batch, Python or .bin".into() }
}

impl Batch {
    fn binary(name: &'static str, bytes: &[u8]) -> std::result::Result<Self, String> {
        if !bytes.len().is_multiple_of(ROW + 1) {
            return Err(format!("{} bytes: expected a multiple of {}", bytes.len(), ROW + 1));
        }
        let rows = bytes.chunks_exact(ROW + 1);
        let labels = rows.clone().map(|row| row[0]).collect();
        let pixels = rows.flat_map(|row| &row[1..]).copied().collect();
        Ok(Self { name, labels, filenames: Vec::new(), pixels })
    }

    fn python(name: &'static str, bytes: &[u8]) -> std::result::Result<Self, String> {
        let pickle = Pickle::read(bytes)?;
        let labels = pickle.get("labels").and_then(|v| pickle.numbers(v)).ok_or("no list of labels")?;
        let labels = labels
            .iter()
            .map(|&l| u8::try_from(l).map_err(|_| format!("label {l}")))
            .collect::<std::result::Result<Vec<u8>, _>>()?;
        let (shape, pixels) = pickle.get("data").and_then(|v| pickle.array(v)).ok_or("no array of data")?;
        if shape != [labels.len(), ROW] || pixels.len() != labels.len() * ROW {
            return Err(format!("data: expected {} x {ROW}, got {shape:?} in {} bytes", labels.len(), pixels.len()));
        }
        let filenames = pickle.get("filenames").and_then(|v| pickle.texts(v)).unwrap_or_default();
        if !filenames.is_empty() && filenames.len() != labels.len() {
            return Err(format!("{} filenames for {} pictures", filenames.len(), labels.len()));
        }
        Ok(Self { name, labels, filenames, pixels: pixels.to_vec() })
    }
}

impl Source for Cifar10 {
    fn len(&self) -> usize {
        self.batches.iter().map(|b| b.labels.len()).sum()
    }

    fn key(&self, i: usize) -> String {
        let (batch, row) = self.place(i);
        format!("{}/{row}", batch.name)
    }

    fn label(&self, i: usize) -> Option<u32> {
        let (batch, row) = self.place(i);
        Some(u32::from(batch.labels[row]))
    }

    fn split(&self, i: usize) -> Option<&str> {
        Some(if self.place(i).0.name == "test_batch" { "test" } else { "train" })
    }

    fn metadata(&self, i: usize) -> Result<Metadata> {
        let (batch, row) = self.place(i);
        let name = batch.filenames.get(row);
        Ok(name.map(|n| Metadata::from_iter([("filename".into(), n.as_str().into())])).unwrap_or_default())
    }

    fn stored_bytes(&self, _i: usize) -> Result<u64> {
        Ok(ROW as u64)
    }

    fn content(&self, i: usize) -> Result<Content> {
        let (batch, row) = self.place(i);
        let planes = &batch.pixels[row * ROW..(row + 1) * ROW];
        let pixels = (0..PLANE).flat_map(|p| [planes[p], planes[PLANE + p], planes[2 * PLANE + p]]).collect();
        Ok(Content::Stored(StoredImage { width: SIDE, height: SIDE, channels: 3, pixels, orientation: 1 }))
    }

    fn summary(&self) -> Summary {
        Summary {
            class_names: self.classes.clone(),
            label_kind: Some("index".into()),
            resolution: Some(SIDE),
            ..Summary::default()
        }
    }
}
