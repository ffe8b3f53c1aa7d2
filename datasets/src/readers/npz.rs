//! Pictures as the published evaluations exchange them: an npz with `arr_0`, uint8 `[N, H, W, 3]`, and perhaps labels `arr_1`.

use std::path::Path;

use crate::dataset::{Content, Source, Summary};
use crate::npz::{Header, Npz};
use crate::picture::StoredImage;
use crate::{Error, Result};

const PICTURES: &str = "arr_0";
const LABELS: &str = "arr_1";
/// More than a header of four dimensions has.
const HEADER: u64 = 1024;

/// The pictures of an archive; a stored array is read in place, a deflated one is kept unpacked.
pub(crate) struct NpzPictures {
    npz: Npz,
    /// Count, height, width and channels.
    shape: [usize; 4],
    place: Place,
    labels: Option<Vec<u32>>,
}

enum Place {
    File(u64),
    Memory(Vec<u8>),
}

impl NpzPictures {
    /// Errors if there is no array of pictures, or it is of another type or shape, or cut.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let npz = Npz::open(path)?;
        let bad = |why: String| Error::file(path, why);
        let member = npz.find(PICTURES).ok_or_else(|| Error::NoImages {
            path: path.to_path_buf(),
            looked_for: format!("an array `{PICTURES}` of pictures among {}", npz.names().join(", ")),
        })?;
        let archive = npz.archive();
        let stored = archive.stored_at(member)?;
        let (head, at) = match stored {
            Some(at) => (archive.range(at, archive.size(member).min(HEADER))?, Some(at)),
            None => (archive.read(member)?, None),
        };
        let header = Header::parse(&head).map_err(|why| bad(format!("array `{PICTURES}`: {why}")))?;
        let shape = match header.shape[..] {
            [n, h, w, c @ (1 | 3)] if n > 0 && h > 0 && w > 0 && header.dtype == "|u1" && !header.fortran_order => [n, h, w, c],
            _ => {
                let got = format!("{} {:?}", header.dtype, header.shape);
                return Err(bad(format!("array `{PICTURES}`: expected uint8 [N, H, W, 3], got {got}")));
            }
        };
        let bytes = (header.elements().map_err(bad)? + header.bytes) as u64;
        if bytes != archive.size(member) {
            return Err(bad(format!("array `{PICTURES}`: expected {bytes} bytes, got {}", archive.size(member))));
        }
        let place = match at {
            Some(at) => Place::File(at + header.bytes as u64),
            None => Place::Memory(head[header.bytes..].to_vec()),
        };
        let labels = npz.numbers(LABELS)?.filter(|l| l.shape == shape[..1]);
        let labels = labels.map(|l| l.values.iter().map(|v| *v as u32).collect());
        Ok(Self { npz, shape, place, labels })
    }
}

impl Source for NpzPictures {
    fn len(&self) -> usize {
        self.shape[0]
    }

    fn key(&self, i: usize) -> String {
        format!("{i:06}")
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.labels.as_ref().map(|labels| labels[i])
    }

    fn stored_bytes(&self, _i: usize) -> Result<u64> {
        Ok(self.shape[1..].iter().product::<usize>() as u64)
    }

    fn content(&self, i: usize) -> Result<Content> {
        let [_, height, width, channels] = self.shape;
        let bytes = height * width * channels;
        let pixels = match &self.place {
            Place::File(at) => self.npz.archive().range(at + (i * bytes) as u64, bytes as u64)?,
            Place::Memory(all) => all[i * bytes..(i + 1) * bytes].to_vec(),
        };
        Ok(Content::Stored(StoredImage { width, height, channels, pixels, orientation: 1 }))
    }

    fn summary(&self) -> Summary {
        let classes = self.labels.as_ref().and_then(|l| l.iter().max()).map_or(0, |l| l + 1);
        let label_kind = (classes > 0).then(|| "index".to_string());
        Summary { class_names: (0..classes).map(|c| c.to_string()).collect(), label_kind, ..Summary::default() }
    }
}
