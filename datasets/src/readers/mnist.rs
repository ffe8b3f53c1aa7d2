//! MNIST and its kin: idx files, as they are or with gzip.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::dataset::{Content, Source, Summary};
use crate::picture::StoredImage;
use crate::{Error, Result};

const IMAGES: u32 = 2051;
const LABELS: u32 = 2049;
/// File name prefixes and the splits they are.
const PARTS: [(&str, &str); 2] = [("train", "train"), ("t10k", "test")];
/// The largest published set of this kind has 814,255 pictures of 28 x 28.
const MAX_BYTES: u64 = 4 << 30;

struct Part {
    prefix: &'static str,
    split: &'static str,
    rows: usize,
    columns: usize,
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

/// Grey pictures of one size; keys are `train/0`, ..., `t10k/0`, ...
pub(crate) struct Mnist {
    parts: Vec<Part>,
    classes: usize,
}

/// The file of pictures of one part, packed or not.
fn file_of(root: &Path, prefix: &str, kind: &str) -> Option<PathBuf> {
    let plain = root.join(format!("{prefix}-{kind}-ubyte"));
    let packed = root.join(format!("{prefix}-{kind}-ubyte.gz"));
    [plain, packed].into_iter().find(|p| p.exists())
}

impl Mnist {
    /// Whether the folder has such files.
    pub(crate) fn is_here(root: &Path) -> bool {
        PARTS.iter().any(|(prefix, _)| file_of(root, prefix, "images-idx3").is_some())
    }

    /// Errors if a file is of another kind, shorter or longer than its header says, or the counts differ.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut parts = Vec::new();
        for (prefix, split) in PARTS {
            let Some(images) = file_of(root, prefix, "images-idx3") else { continue };
            let expected = format!("{prefix}-labels-idx1-ubyte");
            let labels = file_of(root, prefix, "labels-idx1").ok_or_else(|| Error::file(root.join(expected), "missing"))?;
            let (dims, pixels) = read_idx::<3>(&images, IMAGES)?;
            let (counts, labels_read) = read_idx::<1>(&labels, LABELS)?;
            if dims[0] != counts[0] {
                return Err(Error::file(labels, format!("{} labels for {} pictures", counts[0], dims[0])));
            }
            if dims[1] == 0 || dims[2] == 0 {
                return Err(Error::file(images, format!("pictures of {}x{} pixels", dims[2], dims[1])));
            }
            parts.push(Part { prefix, split, rows: dims[1], columns: dims[2], pixels, labels: labels_read });
        }
        let classes = parts.iter().flat_map(|p| &p.labels).max().map_or(0, |&l| usize::from(l) + 1);
        if classes == 0 {
            return Err(Error::NoImages {
                path: root.to_path_buf(),
                looked_for: "train-images-idx3-ubyte[.gz], t10k-...".into(),
            });
        }
        Ok(Self { parts, classes })
    }

    fn part(&self, i: usize) -> (&Part, usize) {
        let first = self.parts[0].labels.len();
        if i < first { (&self.parts[0], i) } else { (&self.parts[1], i - first) }
    }
}

/// Sizes and content of an idx file of N dimensions. The content is read only as far as the header says, and one further.
fn read_idx<const N: usize>(path: &Path, magic: u32) -> Result<([usize; N], Vec<u8>)> {
    let bad = |why: String| Error::file(path, why);
    let file = File::open(path).map_err(|e| bad(e.to_string()))?;
    let packed = path.extension().is_some_and(|e| e == "gz");
    let mut reader: Box<dyn Read> = if packed { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    let mut word = || -> Result<u32> {
        let mut bytes = [0; 4];
        reader.read_exact(&mut bytes).map_err(|e| bad(format!("cut in its header: {e}")))?;
        Ok(u32::from_be_bytes(bytes))
    };
    let found = word()?;
    if found != magic {
        return Err(bad(format!("magic number: expected {magic}, got {found}")));
    }
    let mut dims = [0; N];
    for dim in &mut dims {
        *dim = word()? as usize;
    }
    let product = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= MAX_BYTES);
    let wanted = product.ok_or_else(|| bad(format!("the header says {dims:?}: refused")))?;
    let mut content = Vec::new();
    reader.take(wanted + 1).read_to_end(&mut content).map_err(|e| bad(e.to_string()))?;
    if content.len() as u64 != wanted {
        let more = if content.len() as u64 > wanted { "more" } else { "fewer" };
        return Err(bad(format!("{more} bytes than the {wanted} that its header says")));
    }
    Ok((dims, content))
}

impl Source for Mnist {
    fn len(&self) -> usize {
        self.parts.iter().map(|p| p.labels.len()).sum()
    }

    fn key(&self, i: usize) -> String {
        let (part, row) = self.part(i);
        format!("{}/{row}", part.prefix)
    }

    fn label(&self, i: usize) -> Option<u32> {
        let (part, row) = self.part(i);
        Some(u32::from(part.labels[row]))
    }

    fn split(&self, i: usize) -> Option<&str> {
        Some(self.part(i).0.split)
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        let (part, _) = self.part(i);
        Ok((part.rows * part.columns) as u64)
    }

    fn content(&self, i: usize) -> Result<Content> {
        let (part, row) = self.part(i);
        let bytes = part.rows * part.columns;
        let pixels = part.pixels[row * bytes..(row + 1) * bytes].to_vec();
        Ok(Content::Stored(StoredImage { width: part.columns, height: part.rows, channels: 1, pixels, orientation: 1 }))
    }

    fn summary(&self) -> Summary {
        let class_names = (0..self.classes).map(|c| c.to_string()).collect();
        Summary { class_names, label_kind: Some("index".into()), ..Summary::default() }
    }
}
