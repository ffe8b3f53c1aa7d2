//! Any data set as one archive: prepared once, read many times, also by EDM's and Hugging Face's readers.

mod archive;
mod parquet;
mod zip;

use std::fs::{File, Permissions};
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use serde::{Deserialize, Serialize};
use tempfile::{Builder, NamedTempFile};

use crate::ahead::Ahead;
use crate::dataset::{Content, Dataset, ItemInfo};
use crate::picture::RgbImage;
use crate::prepare::{PreparedItem, tolerated};
use crate::transform::Transform;
use crate::{Error, Result};

/// How a data set is converted.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertOptions {
    /// To squares of one size; none keeps the pictures as they are.
    pub transform: Option<Transform>,
    /// Share of unusable pictures above which nothing is written.
    pub max_bad: f64,
    /// Threads that decode, resize and encode.
    pub workers: usize,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { transform: None, max_bad: 0.01, workers }
    }
}

/// What an archive was made from; it says so itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    fingerprint: String,
    transform: Option<Transform>,
    count: usize,
    left_out: usize,
}

/// What [`convert`] wrote, or found written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Pictures in the archive.
    pub count: usize,
    /// Pictures that could not be used.
    pub left_out: usize,
    /// Whether it was there before.
    pub was_there: bool,
}

/// Which columns an archive has.
#[derive(Clone, Debug, Default)]
struct Columns {
    labels: bool,
    captions: bool,
    class_names: Vec<String>,
    attribute_names: Vec<String>,
}

/// An archive that is being written.
trait Sink {
    /// Adds a picture file.
    fn push(&mut self, info: &ItemInfo, picture: &[u8]) -> Result<()>;
    /// Completes the archive.
    fn finish(self: Box<Self>, origin: &Origin) -> Result<()>;
}

/// Writes `data` to the file `out`: a `.zip` in EDM's layout or a `.parquet` in Hugging Face's, with labels, class names,
/// captions and attributes. Nothing is there under that name before all of it is; an archive of the same origin is left as
/// it is. `on_progress` is told how many pictures are done, and may stop it: then the answer is none.
///
/// # Errors
/// More unusable pictures than tolerated (all are named), a file of another origin, pictures that the layout cannot hold.
pub fn convert(
    data: &Dataset,
    out: &Path,
    options: &ConvertOptions,
    on_progress: &dyn Fn(u64) -> ControlFlow<()>,
) -> Result<Option<Converted>> {
    let format = Format::of(out)?;
    let mut origin = Origin { fingerprint: data.fingerprint()?, transform: options.transform, ..Origin::default() };
    if out.exists() {
        return format.origin(out).and_then(|found| same_origin(&origin, &found, out)).map(Some);
    }
    let columns = Columns::of(data)?;
    format.check(data, options, &columns)?;
    let file = temporary(out)?;
    let mut sink = format.create(out, file.reopen().map_err(|e| Error::file(out, e))?, columns)?;
    let allowed = tolerated(data.len(), options.max_bad);
    let mut bad = Vec::new();
    let mut chunks = encode_ahead(data, format, options);
    while let Some(chunk) = chunks.next() {
        for item in chunk? {
            match item.picture {
                Ok(picture) => sink.push(&item.info, &picture)?,
                Err(why) => bad.push((item.info.key, why)),
            }
            origin.count += 1;
        }
        report_new(&bad, &mut origin.left_out);
        if bad.len() > allowed {
            return Err(Error::TooManyBad { bad, total: data.len(), allowed });
        }
        if on_progress(origin.count as u64).is_break() {
            return Ok(None);
        }
    }
    origin.count -= origin.left_out;
    if origin.count == 0 {
        return Err(Error::argument("pictures", "at least one that can be used", 0));
    }
    sink.finish(&origin)?;
    file.as_file().sync_all().map_err(|e| Error::file(out, e))?;
    file.persist_noclobber(out).map_err(|e| Error::file(out, e.error))?;
    drop(File::open(folder_of(out)).and_then(|folder| folder.sync_all()));
    Ok(Some(Converted { count: origin.count, left_out: origin.left_out, was_there: false }))
}

/// Warns of the bad pictures that were not known before.
fn report_new(bad: &[(String, String)], known: &mut usize) {
    for (key, why) in &bad[*known..] {
        tracing::warn!(%key, %why, "picture left out");
    }
    *known = bad.len();
}

fn same_origin(wanted: &Origin, found: &Origin, out: &Path) -> Result<Converted> {
    let words = |o: &Origin| {
        let transform = o.transform.map_or("none".to_string(), |t| t.to_string());
        [("fingerprint of the data", o.fingerprint.clone()), ("transform", transform)]
    };
    for ((what, wanted), (_, found)) in words(wanted).into_iter().zip(words(found)) {
        if wanted != found {
            return Err(Error::Origin { path: out.to_path_buf(), what: what.into(), found, wanted });
        }
    }
    Ok(Converted { count: found.count, left_out: found.left_out, was_there: true })
}

fn folder_of(out: &Path) -> PathBuf {
    out.parent().filter(|p| !p.as_os_str().is_empty()).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// A file beside `out`; what a killed run has left there goes.
fn temporary(out: &Path) -> Result<NamedTempFile> {
    let folder = folder_of(out);
    std::fs::create_dir_all(&folder).map_err(|e| Error::file(&folder, e))?;
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!(".strata-tmp-{name}-");
    for entry in std::fs::read_dir(&folder).map_err(|e| Error::file(&folder, e))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            std::fs::remove_file(entry.path()).map_err(|e| Error::file(entry.path(), e))?;
        }
    }
    // As any new file: what the process's mask leaves.
    let permissions = Permissions::from_mode(0o666);
    Builder::new().prefix(&prefix).permissions(permissions).tempfile_in(&folder).map_err(|e| Error::file(out, e))
}

/// The archives that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Zip,
    Parquet,
}

impl Format {
    fn of(out: &Path) -> Result<Self> {
        match out.extension().and_then(|e| e.to_str()) {
            Some("zip") => Ok(Self::Zip),
            Some("parquet") => Ok(Self::Parquet),
            _ => Err(Error::argument("output", "a name that ends in .zip or .parquet", out.display())),
        }
    }

    fn create(self, out: &Path, file: File, columns: Columns) -> Result<Box<dyn Sink>> {
        Ok(match self {
            Self::Zip => Box::new(zip::ZipSink::new(out, file, columns)),
            Self::Parquet => Box::new(parquet::ParquetSink::new(out, file, columns)?),
        })
    }

    /// What the archive `out` says that it was made from.
    fn origin(self, out: &Path) -> Result<Origin> {
        let found = match self {
            Self::Zip => zip::origin(out)?,
            Self::Parquet => parquet::origin(out)?,
        };
        found.ok_or_else(|| Error::file(out, "is there already and does not say what it was made from; choose another name"))
    }

    fn check(self, data: &Dataset, options: &ConvertOptions, columns: &Columns) -> Result<()> {
        if self == Self::Parquet {
            return Ok(());
        }
        if options.transform.is_none() && data.summary().resolution.is_none() {
            return Err(Error::argument("size", "one for all pictures: this layout holds squares of one size", "none"));
        }
        let unlabelled = || (0..data.len()).find(|&i| data.label(i).is_ok_and(|label| label.is_none()));
        match unlabelled().filter(|_| columns.labels) {
            Some(i) => {
                Err(Error::item(data.key(i)?, "has no label, though others do: this layout needs all or none; parquet does not"))
            }
            None => Ok(()),
        }
    }
}

impl Columns {
    fn of(data: &Dataset) -> Result<Self> {
        let mut columns = Self {
            class_names: data.class_names().to_vec(),
            attribute_names: data.summary().attribute_names.clone(),
            ..Self::default()
        };
        for i in 0..data.len() {
            columns.labels |= data.label(i)?.is_some();
            // A text that cannot be read is that item's error, later.
            columns.captions |= columns.captions || data.caption(i).is_ok_and(|caption| caption.is_some());
        }
        Ok(columns)
    }
}

/// An item as it goes into the archive.
struct EncodedItem {
    info: ItemInfo,
    picture: std::result::Result<Vec<u8>, String>,
}

const CHUNK: usize = 16;

fn encode_ahead(data: &Dataset, format: Format, options: &ConvertOptions) -> Ahead<Result<Vec<EncodedItem>>> {
    let (data, transform, len) = (data.clone(), options.transform, data.len());
    let keep = format == Format::Parquet;
    let chunks = len.div_ceil(CHUNK) as u64;
    Ahead::new(options.workers, 4 * options.workers, chunks, move |number| {
        let first = number as usize * CHUNK;
        let range: Range<usize> = first..(first + CHUNK).min(len);
        range.map(|i| encode(&data, i, transform.as_ref(), keep)).collect()
    })
}

/// `keep`: a picture file that is not transformed stays as it is, once it could be decoded.
fn encode(data: &Dataset, i: usize, transform: Option<&Transform>, keep: bool) -> Result<EncodedItem> {
    if let Some(transform) = transform {
        let item = PreparedItem::read(data, i, transform)?;
        return Ok(EncodedItem { info: item.info, picture: item.picture.and_then(|picture| png(&picture)) });
    }
    let key = data.key(i)?;
    let read = || -> Result<(ItemInfo, Vec<u8>)> {
        let (picture, content) = (data.load(i)?, data.content(i)?);
        let bytes = match content {
            Content::Encoded(bytes) if keep => bytes,
            _ => png(&picture).map_err(|why| Error::item(&key, why))?,
        };
        Ok((data.info(i)?, bytes))
    };
    Ok(match read() {
        Ok((info, bytes)) => EncodedItem { info, picture: Ok(bytes) },
        Err(error) => EncodedItem { info: ItemInfo { key, ..ItemInfo::default() }, picture: Err(error.reason()) },
    })
}

fn png(picture: &RgbImage) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Sub);
    let (width, height) = (picture.width as u32, picture.height as u32);
    encoder.write_image(&picture.pixels, width, height, ExtendedColorType::Rgb8).map_err(|e| e.to_string())?;
    Ok(bytes)
}
