//! Hugging Face's parquet files: pictures as a struct of bytes and path, labels, captions.

use std::borrow::Cow;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::basic::Type as Physical;
use ::parquet::column::reader::ColumnReader;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use bytes::Bytes;

use crate::dataset::{Content, DatasetOptions, Metadata, Source, Summary};
use crate::listing::{Labels, Texts};
use crate::readers::metadata::{CAPTION_COLUMNS, LABEL_COLUMNS};
use crate::readers::regions::RangeFile;
use crate::readers::{files, folder};
use crate::{Error, Result};

const IMAGE_COLUMNS: [&str; 2] = ["image", "img"];

/// A file that many threads read at their own positions.
#[derive(Clone)]
struct Shared(Arc<RangeFile>);

impl Length for Shared {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Shared {
    type T = io::BufReader<SharedReader>;

    /// Page headers are read from it byte by byte.
    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(io::BufReader::with_capacity(512, SharedReader { file: self.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let bytes = self.0.read(start, length as u64);
        bytes.map(Bytes::from).map_err(|e| ParquetError::General(e.to_string()))
    }
}

/// A position in such a file.
struct SharedReader {
    file: Shared,
    at: u64,
}

impl Read for SharedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.0.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// One file: its reader, and the leaf column of the pictures' bytes.
struct Part {
    file: Shared,
    reader: SerializedFileReader<Shared>,
    bytes_column: usize,
}

/// Rows of all files, in order of their names.
pub(crate) struct Parquet {
    parts: Vec<Part>,
    /// For each row group: its first row, file and number within it.
    groups: Vec<(usize, u32, u32)>,
    rows: usize,
    labels: Labels,
    captions: Texts,
    paths: Texts,
    classes: Vec<String>,
    attribute_names: Vec<String>,
    /// Row after row: 1, -1, or 0 for null.
    attributes: Vec<i8>,
}

impl Parquet {
    /// Opens a file, or the parquet files of a folder or its `data`. Errors if one is damaged, a column that was named or
    /// the one of pictures is missing, or there is no row.
    pub(crate) fn open(path: &Path, options: &DatasetOptions) -> Result<Self> {
        let mut set = Self {
            parts: Vec::new(),
            groups: Vec::new(),
            rows: 0,
            labels: Labels::default(),
            captions: Texts::default(),
            paths: Texts::default(),
            classes: Vec::new(),
            attribute_names: Vec::new(),
            attributes: Vec::new(),
        };
        for file in parquet_files(path)? {
            // The library trusts lengths in places; a damaged file must not end the program.
            let add = std::panic::AssertUnwindSafe(|| set.add(&file, options));
            std::panic::catch_unwind(add).unwrap_or_else(|_| Err(Error::file(&file, "damaged parquet file")))?;
        }
        if set.rows == 0 {
            return Err(folder::no_images(path));
        }
        Ok(set)
    }

    fn add(&mut self, path: &Path, options: &DatasetOptions) -> Result<()> {
        let file = Shared(Arc::new(RangeFile::open(path)?));
        let reader = SerializedFileReader::new(file.clone()).map_err(|e| file.0.error(e))?;
        let find = |asked: Option<&str>, known: &[&str], field: &str| find_column(&reader, asked, known, field);
        let image = options.image_column.as_deref();
        let (_, bytes_column) = find(image, &IMAGE_COLUMNS, "bytes")
            .ok_or_else(|| file.0.error(format!("no column `{}` of pictures", image.unwrap_or("image"))))?;
        let label = find(options.label_column.as_deref(), &LABEL_COLUMNS, "");
        let caption = find(options.caption_column.as_deref(), &CAPTION_COLUMNS, "");
        for (asked, found) in [(&options.label_column, &label), (&options.caption_column, &caption)] {
            if let (Some(name), None) = (asked, found) {
                return Err(file.0.error(format!("no column `{name}`")));
            }
        }
        if let Some((name, _)) = &label {
            self.classes = class_names(&reader, name);
        }
        let path_column = find(image, &IMAGE_COLUMNS, "path").filter(|(_, c)| *c != bytes_column);
        let attributes = attribute_columns(&reader);
        let names: Vec<String> = attributes.iter().map(|a| a.0.clone()).collect();
        if self.rows > 0 && names != self.attribute_names {
            return Err(file.0.error("its columns of attributes differ from those of the file before"));
        }
        self.attribute_names = names;
        for group in 0..reader.num_row_groups() {
            let rows = usize::try_from(reader.metadata().row_group(group).num_rows()).map_err(|e| file.0.error(e))?;
            self.groups.push((self.rows, self.parts.len() as u32, group as u32));
            self.rows += rows;
            let column = |c: Option<usize>| -> Result<Vec<Option<Cell>>> {
                let Some(c) = c else { return Ok(vec![None; rows]) };
                let cells = cells(&reader, group, c, 0, rows).map_err(|e| file.0.error(e))?;
                if cells.len() == rows {
                    Ok(cells)
                } else {
                    Err(file.0.error(format!("{} of {rows} rows in a column", cells.len())))
                }
            };
            for cell in column(label.as_ref().map(|l| l.1))? {
                let label = self.label_of(cell.as_ref()).map_err(|why| file.0.error(why))?;
                self.labels.push(label);
            }
            let texts = column(caption.as_ref().map(|c| c.1))?;
            texts.iter().for_each(|cell| self.captions.push_optional(cell.as_ref().map(Cell::text).as_deref()));
            let texts = column(path_column.as_ref().map(|c| c.1))?;
            texts.iter().for_each(|cell| self.paths.push_optional(cell.as_ref().map(Cell::text).as_deref()));
            let flags = attributes.iter().map(|a| column(Some(a.1))).collect::<Result<Vec<_>>>()?;
            let sign = |cell: &Option<Cell>| match cell {
                Some(Cell::Number(n)) => {
                    if *n == 1 {
                        1
                    } else {
                        -1
                    }
                }
                _ => 0,
            };
            self.attributes.extend((0..rows).flat_map(|row| flags.iter().map(move |column| sign(&column[row]))));
        }
        self.parts.push(Part { file, reader, bytes_column });
        Ok(())
    }

    /// -1 is how unlabelled test sets are published.
    fn label_of(&self, cell: Option<&Cell>) -> std::result::Result<Option<u32>, String> {
        match cell {
            None | Some(Cell::Number(-1)) => Ok(None),
            Some(&Cell::Number(n)) if self.classes.is_empty() || (n as usize) < self.classes.len() => {
                u32::try_from(n).map(Some).map_err(|_| format!("label {n}"))
            }
            Some(&Cell::Number(n)) => Err(format!("label {n} of {} classes", self.classes.len())),
            Some(Cell::Bytes(_)) => Err("a label column of texts: expected whole numbers".into()),
        }
    }
}

/// A value of a column.
#[derive(Clone)]
enum Cell {
    Number(i64),
    Bytes(ByteArray),
}

impl Cell {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Number(n) => n.to_string().into(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes.data()),
        }
    }
}

/// `count` cells of column `column` in a row group, from its row `first`; none for null.
fn cells(
    reader: &SerializedFileReader<Shared>,
    group: usize,
    column: usize,
    first: usize,
    count: usize,
) -> ParquetResult<Vec<Option<Cell>>> {
    let full = reader.metadata().file_metadata().schema_descr().column(column).max_def_level();
    let reader = reader.get_row_group(group)?.get_column_reader(column)?;
    macro_rules! read {
        ($reader:expr, $to_cell:expr) => {{
            let mut reader = $reader;
            let skipped = reader.skip_records(first)?;
            let (mut values, mut levels) = (Vec::new(), Vec::new());
            let mut records = 0;
            while skipped == first && records < count {
                let (read, _, _) = reader.read_records(count - records, Some(&mut levels), None, &mut values)?;
                if read == 0 {
                    break;
                }
                records += read;
            }
            spread(values.into_iter().map($to_cell).collect(), &levels, full)
        }};
    }
    Ok(match reader {
        ColumnReader::ByteArrayColumnReader(r) => read!(r, Cell::Bytes),
        ColumnReader::Int64ColumnReader(r) => read!(r, Cell::Number),
        ColumnReader::BoolColumnReader(r) => read!(r, |v| Cell::Number(i64::from(v))),
        ColumnReader::Int32ColumnReader(r) => read!(r, |v| Cell::Number(i64::from(v))),
        _ => return Err(ParquetError::General("a column of another type than bytes, whole numbers and flags".into())),
    })
}

/// Puts values at the rows whose definition level is `full`; a column without levels has no nulls.
fn spread(values: Vec<Cell>, levels: &[i16], full: i16) -> Vec<Option<Cell>> {
    if full == 0 {
        return values.into_iter().map(Some).collect();
    }
    let mut values = values.into_iter();
    levels.iter().map(|&level| if level == full { values.next() } else { None }).collect()
}

/// Name and number of the leaf column: `name.field`, or `name` itself.
fn find_column(
    reader: &SerializedFileReader<Shared>,
    asked: Option<&str>,
    known: &[&str],
    field: &str,
) -> Option<(String, usize)> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let candidates = asked.map_or_else(|| known.to_vec(), |name| vec![name]);
    let matches = |c: usize, name: &str| {
        let parts = columns[c].path().parts();
        let plain = matches!(columns[c].physical_type(), Physical::BYTE_ARRAY | Physical::INT64 | Physical::INT32);
        let named = parts.first().is_some_and(|p| p == name) && (parts.len() == 1 || parts.get(1).is_some_and(|p| p == field));
        plain && named && parts.len() <= 2 && columns[c].max_rep_level() == 0
    };
    let find = |name: &&str| (0..columns.len()).find(|&c| matches(c, name)).map(|c| (name.to_string(), c));
    candidates.iter().find_map(find)
}

/// Name and number of the columns of flags: binary attributes.
fn attribute_columns(reader: &SerializedFileReader<Shared>) -> Vec<(String, usize)> {
    let columns = reader.metadata().file_metadata().schema_descr().columns();
    let flags = columns
        .iter()
        .enumerate()
        .filter(|(_, c)| c.physical_type() == Physical::BOOLEAN && c.max_rep_level() == 0 && c.path().parts().len() == 1);
    flags.map(|(i, c)| (c.name().to_string(), i)).collect()
}

/// Names of a `ClassLabel` column, from the schema that Hugging Face's library leaves in the file.
fn class_names(reader: &SerializedFileReader<Shared>, column: &str) -> Vec<String> {
    let pairs = reader.metadata().file_metadata().key_value_metadata();
    let text = pairs.and_then(|p| p.iter().find(|kv| kv.key == "huggingface")).and_then(|kv| kv.value.as_deref());
    let info: serde_json::Value = text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
    let feature = &info["info"]["features"][column];
    if feature["_type"] != "ClassLabel" {
        return Vec::new();
    }
    let names = feature["names"].as_array().into_iter().flatten();
    names.filter_map(|n| n.as_str().map(str::to_string)).collect()
}

/// Whether the name is that of a parquet file.
pub(crate) fn is_parquet(name: &str) -> bool {
    name.ends_with(".parquet")
}

fn parquet_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    for folder in [path.to_path_buf(), path.join("data")] {
        if folder.is_dir() {
            let names = files::entries(&folder)?.into_iter().filter(|(name, is_folder)| !is_folder && is_parquet(name));
            let found: Vec<PathBuf> = names.map(|(name, _)| folder.join(name)).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
    Err(Error::NoImages { path: path.to_path_buf(), looked_for: "*.parquet".into() })
}

impl Source for Parquet {
    fn len(&self) -> usize {
        self.rows
    }

    fn key(&self, i: usize) -> String {
        i.to_string()
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.labels.get(i)
    }

    fn caption(&self, i: usize) -> Result<Option<String>> {
        Ok(self.captions.optional(i).map(str::to_string))
    }

    fn metadata(&self, i: usize) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        if let Some(path) = self.paths.optional(i) {
            metadata.insert("path".into(), path.into());
        }
        let n = self.attribute_names.len();
        if n > 0 {
            metadata.insert("attributes".into(), self.attributes[i * n..(i + 1) * n].to_vec().into());
        }
        Ok(metadata)
    }

    /// The size of the file: that of a picture is not known before it is read.
    fn stored_bytes(&self, i: usize) -> Result<u64> {
        let (_, part, _) = self.groups[self.groups.partition_point(|g| g.0 <= i) - 1];
        Ok(self.parts[part as usize].file.len())
    }

    fn content(&self, i: usize) -> Result<Content> {
        let (start, part, group) = self.groups[self.groups.partition_point(|g| g.0 <= i) - 1];
        let part = &self.parts[part as usize];
        let read = std::panic::AssertUnwindSafe(|| cells(&part.reader, group as usize, part.bytes_column, i - start, 1));
        let read = std::panic::catch_unwind(read).unwrap_or_else(|_| Err(ParquetError::General("damaged page".into())));
        match read.map_err(|e| part.file.0.error(e))?.into_iter().next() {
            Some(Some(Cell::Bytes(bytes))) => Ok(Content::Encoded(bytes.data().to_vec())),
            Some(None) => Err(Error::item(i.to_string(), "the picture is null")),
            _ => Err(part.file.0.error(format!("row {i} is missing"))),
        }
    }

    fn summary(&self) -> Summary {
        let label_kind = (!self.classes.is_empty()).then(|| "ClassLabel".into());
        let attribute_names = self.attribute_names.clone();
        Summary { class_names: self.classes.clone(), attribute_names, label_kind, ..Summary::default() }
    }
}
