//! Hugging Face's picture folders with a metadata file: `metadata.jsonl` or `metadata.csv`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::dataset::{Content, DatasetOptions, Metadata, Source, Summary};
use crate::listing::{Labels, Texts};
use crate::readers::{files, table};
use crate::{Error, Result};

/// Columns looked for where none is named.
pub(crate) const CAPTION_COLUMNS: [&str; 3] = ["text", "caption", "prompt"];
pub(crate) const LABEL_COLUMNS: [&str; 2] = ["label", "labels"];

/// Pictures in the order of their metadata file.
pub(crate) struct MetadataFolder {
    root: PathBuf,
    keys: Texts,
    captions: Vec<Option<Box<str>>>,
    labels: Labels,
    classes: Vec<String>,
}

impl MetadataFolder {
    /// Opens the folder `root` by its file `name`. Errors if a row has no `file_name`, one that leaves the folder, or a
    /// column that was named is in no row.
    pub(crate) fn open(root: &Path, name: &str, options: &DatasetOptions) -> Result<Self> {
        let path = root.join(name);
        let rows = if name.ends_with(".csv") { table::read_csv(&path)? } else { table::read_json_lines(&path)? };
        let keys = rows
            .iter()
            .enumerate()
            .map(|(n, row)| file_name(row).map_err(|why| Error::file(&path, format!("row {}: {why}", n + 1))));
        let keys: Texts = keys.collect::<Result<Vec<_>>>()?.into_iter().collect();
        if keys.len() == 0 {
            return Err(Error::NoImages { path, looked_for: "rows with a file_name".into() });
        }
        let caption = column(&rows, options.caption_column.as_deref(), &CAPTION_COLUMNS, &path)?;
        let label = column(&rows, options.label_column.as_deref(), &LABEL_COLUMNS, &path)?;
        let text = |row: &Metadata| match row.get(caption.as_deref()?)? {
            Value::String(text) => Some(text.as_str().into()),
            Value::Null => None,
            other => Some(other.to_string().into()),
        };
        let captions = rows.iter().map(text).collect();
        let values: Vec<Option<&Value>> = rows.iter().map(|row| label.as_deref().and_then(|l| row.get(l))).collect();
        let (labels, classes) = to_labels(&values).map_err(|why| Error::file(&path, why))?;
        Ok(Self { root: root.to_path_buf(), keys, captions, labels, classes })
    }
}

fn file_name(row: &Metadata) -> std::result::Result<String, String> {
    let name = row.get("file_name").and_then(Value::as_str).ok_or("no `file_name`")?;
    if files::stays_inside(name) { Ok(name.to_string()) } else { Err(format!("`{name}` leaves the folder")) }
}

/// The column asked for, or the first known one that a row has.
fn column(rows: &[Metadata], asked: Option<&str>, known: &[&str], path: &Path) -> Result<Option<String>> {
    let there = |name: &str| rows.iter().any(|row| row.contains_key(name));
    match asked {
        Some(name) if there(name) => Ok(Some(name.into())),
        Some(name) => Err(Error::file(path, format!("no column `{name}`"))),
        None => Ok(known.iter().find(|n| there(n)).map(ToString::to_string)),
    }
}

/// Whole numbers are labels; texts are class names, numbered in code-point order.
fn to_labels(values: &[Option<&Value>]) -> std::result::Result<(Labels, Vec<String>), String> {
    let mut classes: Vec<String> = values.iter().flatten().filter_map(|v| v.as_str().map(str::to_string)).collect();
    classes.sort_unstable();
    classes.dedup();
    let mut labels = Labels::default();
    for value in values {
        labels.push(match value {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) => classes.binary_search(name).ok().map(|i| i as u32),
            Some(value) if classes.is_empty() => {
                let label = value.as_u64().and_then(|l| u32::try_from(l).ok());
                Some(label.ok_or_else(|| format!("label {value}: expected a whole number or a name"))?)
            }
            Some(value) => return Err(format!("label {value}: others are names")),
        });
    }
    Ok((labels, classes))
}

impl Source for MetadataFolder {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn key(&self, i: usize) -> String {
        self.keys.get(i).to_string()
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.labels.get(i)
    }

    fn caption(&self, i: usize) -> Result<Option<String>> {
        Ok(self.captions[i].as_deref().map(str::to_string))
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        files::size(&self.root.join(self.keys.get(i)))
    }

    fn content(&self, i: usize) -> Result<Content> {
        files::read(&self.root.join(self.keys.get(i))).map(Content::Encoded)
    }

    fn summary(&self) -> Summary {
        Summary { class_names: self.classes.clone(), ..Summary::default() }
    }
}
