//! Hugging Face's picture folders with a metadata file: `metadata.jsonl` or `metadata.csv`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::dataset::{Content, DatasetOptions, Metadata, Source, Summary};
use crate::listing::{Labels, Texts};
use crate::readers::files::{self, Files};
use crate::readers::table::{each_csv_row, each_json_line};
use crate::{Error, Result};

/// Columns looked for where none is named.
pub(crate) const CAPTION_COLUMNS: [&str; 3] = ["text", "caption", "prompt"];
pub(crate) const LABEL_COLUMNS: [&str; 2] = ["label", "labels"];

/// Pictures in the order of their metadata file.
pub(crate) struct MetadataFolder {
    files: Files,
    captions: Texts,
    labels: Labels,
    classes: Vec<String>,
}

impl MetadataFolder {
    /// Opens the folder `root` by its file `name`. Errors if a row has no `file_name`, one that leaves the folder, or a
    /// column that was named is in no row.
    pub(crate) fn open(root: &Path, name: &str, options: &DatasetOptions) -> Result<Self> {
        let path = root.join(name);
        let asked = options.label_column.as_deref();
        let seen = Seen::look(&path, &asked.map_or(LABEL_COLUMNS.to_vec(), |name| vec![name]))?;
        let caption = seen.column(options.caption_column.as_deref(), &CAPTION_COLUMNS, &path)?;
        let label = seen.column(asked, &LABEL_COLUMNS, &path)?;
        let classes: Vec<String> =
            label.as_ref().and_then(|label| seen.texts.get(label)).into_iter().flatten().cloned().collect();
        let files = Files { root: root.to_path_buf(), keys: Texts::default() };
        let mut set = Self { files, captions: Texts::default(), labels: Labels::default(), classes };
        each_row(&path, |row| {
            let n = set.files.keys.len() + 1;
            let bad = |why: String| Error::file(&path, format!("row {n}: {why}"));
            set.files.keys.push(file_name(&row).map_err(bad)?);
            let value = |column: &Option<String>| column.as_ref().and_then(|c| row.get(c)).filter(|v| !v.is_null());
            let text = value(&caption).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string));
            set.captions.push_optional(text.as_deref());
            set.labels.push(label_of(value(&label), &set.classes).map_err(bad)?);
            Ok(())
        })?;
        if set.files.keys.len() == 0 {
            return Err(Error::NoImages { path, looked_for: "rows with a file_name".into() });
        }
        Ok(set)
    }
}

fn each_row(path: &Path, each: impl FnMut(Metadata) -> Result<()>) -> Result<()> {
    if path.extension().is_some_and(|e| e == "csv") { each_csv_row(path, each) } else { each_json_line(path, each) }
}

/// What a first look at all rows finds: classes are numbered by it, so it comes before the rows are taken in.
#[derive(Default)]
struct Seen {
    columns: BTreeSet<String>,
    /// The different texts of the columns that may be labels.
    texts: BTreeMap<String, BTreeSet<String>>,
}

impl Seen {
    fn look(path: &Path, labels: &[&str]) -> Result<Self> {
        let mut seen = Self::default();
        each_row(path, |row| {
            for (name, value) in row {
                if let (true, Value::String(text)) = (labels.contains(&name.as_str()), value) {
                    seen.texts.entry(name.clone()).or_default().insert(text);
                }
                if !seen.columns.contains(&name) {
                    seen.columns.insert(name);
                }
            }
            Ok(())
        })?;
        Ok(seen)
    }

    /// The column asked for, or the first known one that a row has.
    fn column(&self, asked: Option<&str>, known: &[&str], path: &Path) -> Result<Option<String>> {
        match asked {
            Some(name) if self.columns.contains(name) => Ok(Some(name.into())),
            Some(name) => Err(Error::file(path, format!("no column `{name}`"))),
            None => Ok(known.iter().find(|n| self.columns.contains(**n)).map(ToString::to_string)),
        }
    }
}

fn file_name(row: &Metadata) -> std::result::Result<&str, String> {
    let name = row.get("file_name").and_then(Value::as_str).ok_or("no `file_name`")?;
    if files::stays_inside(name) { Ok(name) } else { Err(format!("`{name}` leaves the folder")) }
}

/// Whole numbers are labels; texts are class names, numbered in code-point order.
fn label_of(value: Option<&Value>, classes: &[String]) -> std::result::Result<Option<u32>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(name)) => Ok(classes.binary_search(name).ok().map(|i| i as u32)),
        Some(value) if classes.is_empty() => {
            let label = value.as_u64().and_then(|l| u32::try_from(l).ok()).filter(|&l| l < u32::MAX);
            label.map(Some).ok_or_else(|| format!("label {value}: expected a whole number or a name"))
        }
        Some(value) => Err(format!("label {value}: others are names")),
    }
}

impl Source for MetadataFolder {
    fn len(&self) -> usize {
        self.files.keys.len()
    }

    fn key(&self, i: usize) -> String {
        self.files.keys.get(i).to_string()
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.labels.get(i)
    }

    fn caption(&self, i: usize) -> Result<Option<String>> {
        Ok(self.captions.optional(i).map(str::to_string))
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        self.files.size(i)
    }

    fn content(&self, i: usize) -> Result<Content> {
        self.files.content(i)
    }

    fn summary(&self) -> Summary {
        Summary { class_names: self.classes.clone(), ..Summary::default() }
    }
}
