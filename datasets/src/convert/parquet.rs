//! Hugging Face's layout: a parquet file with pictures as a struct of bytes and path, and the types of the columns in its
//! metadata.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::Result as ParquetResult;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value, json};

use super::{Columns, Origin, Sink};
use crate::dataset::ItemInfo;
use crate::{Error, Result};

/// A row group is written once it holds so many bytes of pictures, or rows.
const GROUP_BYTES: usize = 32 << 20;
const GROUP_ROWS: usize = 4096;
/// Small pages: one picture is read without many others.
const PAGE_ROWS: usize = 4;
/// The key under which an archive of ours says what it was made from.
const ORIGIN: &str = "strata";

/// The file, and the rows of the row group that is being gathered.
pub(super) struct ParquetSink {
    out: PathBuf,
    writer: SerializedFileWriter<File>,
    columns: Columns,
    rows: Vec<(ItemInfo, ByteArray)>,
    bytes: usize,
}

impl ParquetSink {
    pub(super) fn new(out: &Path, file: File, columns: Columns) -> Result<Self> {
        let failed = |e: ::parquet::errors::ParquetError| Error::file(out, e);
        let features = json!({ "info": { "features": features(&columns) } }).to_string();
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_write_batch_size(PAGE_ROWS)
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_string(), features)]))
            .set_created_by("strata".to_string());
        let schema = schema(&columns).map_err(failed)?;
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties.build())).map_err(failed)?;
        Ok(Self { out: out.to_path_buf(), writer, columns, rows: Vec::new(), bytes: 0 })
    }

    /// Writes the gathered rows, column by column in the order of the schema.
    fn write_group(&mut self) -> ParquetResult<()> {
        let mut group = self.writer.next_row_group()?;
        let mut column = |cells: Vec<Option<Cell>>, full: i16| -> ParquetResult<()> {
            let Some(mut writer) = group.next_column()? else { return Ok(()) };
            write_cells(writer.untyped(), cells, full)?;
            writer.close()
        };
        let rows = &self.rows;
        column(rows.iter().map(|(_, bytes)| Some(Cell::Bytes(bytes.clone()))).collect(), 2)?;
        column(rows.iter().map(|(info, _)| Some(Cell::text(&info.key))).collect(), 2)?;
        if self.columns.labels {
            column(rows.iter().map(|(info, _)| info.label.map(|label| Cell::Number(label.into()))).collect(), 1)?;
        }
        if self.columns.captions {
            column(rows.iter().map(|(info, _)| info.caption.as_deref().map(Cell::text)).collect(), 1)?;
        }
        for a in 0..self.columns.attribute_names.len() {
            let attribute = |info: &ItemInfo| info.attributes.get(a).filter(|v| **v != 0).map(|v| Cell::Flag(*v > 0));
            column(rows.iter().map(|(info, _)| attribute(info)).collect(), 1)?;
        }
        group.close()?;
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }
}

enum Cell {
    Bytes(ByteArray),
    Number(i64),
    Flag(bool),
}

impl Cell {
    fn text(text: &str) -> Self {
        Self::Bytes(ByteArray::from(text))
    }
}

/// Writes a column of values at definition level `full`, and nulls.
fn write_cells(writer: &mut ColumnWriter<'_>, cells: Vec<Option<Cell>>, full: i16) -> ParquetResult<()> {
    let levels: Vec<i16> = cells.iter().map(|cell| if cell.is_some() { full } else { 0 }).collect();
    let (mut bytes, mut numbers, mut flags) = (Vec::new(), Vec::new(), Vec::new());
    for cell in cells.into_iter().flatten() {
        match cell {
            Cell::Bytes(b) => bytes.push(b),
            Cell::Number(n) => numbers.push(n),
            Cell::Flag(f) => flags.push(f),
        }
    }
    match writer {
        ColumnWriter::ByteArrayColumnWriter(w) => w.write_batch(&bytes, Some(&levels), None),
        ColumnWriter::Int64ColumnWriter(w) => w.write_batch(&numbers, Some(&levels), None),
        ColumnWriter::BoolColumnWriter(w) => w.write_batch(&flags, Some(&levels), None),
        _ => Err(::parquet::errors::ParquetError::General("a column of another type".into())),
    }?;
    Ok(())
}

fn schema(columns: &Columns) -> ParquetResult<TypePtr> {
    let leaf = |name: &str, physical: Physical, logical: Option<LogicalType>| -> ParquetResult<TypePtr> {
        let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
        builder.with_logical_type(logical).build().map(Arc::new)
    };
    let fields = vec![leaf("bytes", Physical::BYTE_ARRAY, None)?, leaf("path", Physical::BYTE_ARRAY, Some(LogicalType::String))?];
    let image = Type::group_type_builder("image").with_repetition(Repetition::OPTIONAL).with_fields(fields).build()?;
    let mut all = vec![Arc::new(image)];
    if columns.labels {
        all.push(leaf("label", Physical::INT64, None)?);
    }
    if columns.captions {
        all.push(leaf("text", Physical::BYTE_ARRAY, Some(LogicalType::String))?);
    }
    for name in &columns.attribute_names {
        all.push(leaf(name, Physical::BOOLEAN, None)?);
    }
    Type::group_type_builder("schema").with_fields(all).build().map(Arc::new)
}

/// The columns in the words of Hugging Face's library.
fn features(columns: &Columns) -> Map<String, Value> {
    let value = |dtype: &str| json!({ "dtype": dtype, "_type": "Value" });
    let mut features = Map::from_iter([("image".to_string(), json!({ "_type": "Image" }))]);
    if columns.labels && columns.class_names.is_empty() {
        features.insert("label".into(), value("int64"));
    } else if columns.labels {
        features.insert("label".into(), json!({ "names": columns.class_names, "_type": "ClassLabel" }));
    }
    if columns.captions {
        features.insert("text".into(), value("string"));
    }
    features.extend(columns.attribute_names.iter().map(|name| (name.clone(), value("bool"))));
    features
}

impl Sink for ParquetSink {
    fn push(&mut self, info: &ItemInfo, picture: &[u8]) -> Result<()> {
        self.bytes += picture.len();
        self.rows.push((info.clone(), ByteArray::from(picture.to_vec())));
        if self.bytes < GROUP_BYTES && self.rows.len() < GROUP_ROWS {
            return Ok(());
        }
        let out = self.out.clone();
        self.write_group().map_err(|e| Error::file(out, e))
    }

    fn finish(mut self: Box<Self>, origin: &Origin) -> Result<()> {
        let out = self.out.clone();
        let failed = |e: ::parquet::errors::ParquetError| Error::file(&out, e);
        if !self.rows.is_empty() {
            self.write_group().map_err(failed)?;
        }
        let origin = serde_json::to_string(origin).map_err(|e| Error::file(&out, e))?;
        self.writer.append_key_value_metadata(KeyValue::new(ORIGIN.to_string(), origin));
        self.writer.close().map_err(failed)?;
        Ok(())
    }
}

/// What an archive of ours says that it was made from.
pub(super) fn origin(out: &Path) -> Result<Option<Origin>> {
    let failed = |e: &dyn std::fmt::Display| Error::file(out, e);
    let file = File::open(out).map_err(|e| failed(&e))?;
    let reader = SerializedFileReader::new(file).map_err(|e| failed(&e))?;
    let pairs = reader.metadata().file_metadata().key_value_metadata();
    let text = pairs.and_then(|p| p.iter().find(|kv| kv.key == ORIGIN)).and_then(|kv| kv.value.as_deref());
    text.map(|text| serde_json::from_str(text).map_err(|e| failed(&e))).transpose()
}
