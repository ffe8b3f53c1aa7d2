//! EDM's layout: PNG files, stored, in a zip with `dataset.json`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::archive::StoredZip;
use super::{Columns, Origin, Sink};
use crate::dataset::ItemInfo;
use crate::listing::Texts;
use crate::readers::edm::{DESCRIPTION, Description};
use crate::readers::tree::Tree;
use crate::{Error, Result};

/// The archive, and what its `dataset.json` will say.
pub(super) struct ZipSink {
    out: PathBuf,
    archive: StoredZip<BufWriter<File>>,
    rows: Rows,
}

struct Rows {
    columns: Columns,
    keys: Texts,
    captions: Texts,
    labels: Vec<u32>,
    attributes: Vec<i8>,
}

/// The name of picture `i`, as EDM's tool gives it: in folders of a thousand.
fn name(i: usize) -> String {
    format!("{:05}/img{i:08}.png", i / 1000)
}

impl ZipSink {
    pub(super) fn new(out: &Path, file: File, columns: Columns) -> Self {
        let archive = StoredZip::new(BufWriter::with_capacity(1 << 20, file));
        let (keys, captions) = (Texts::default(), Texts::default());
        let rows = Rows { columns, keys, captions, labels: Vec::new(), attributes: Vec::new() };
        Self { out: out.to_path_buf(), archive, rows }
    }
}

impl Rows {
    /// `dataset.json`, row by row: of ten million pictures it has hundreds of megabytes. Labels are class indices; of a set
    /// with attributes instead, rows of 0 and 1. What EDM does not look for comes after them.
    fn describe(&self, origin: &Origin, json: &mut dyn Write) -> std::io::Result<()> {
        let (columns, n) = (&self.columns, self.keys.len());
        let width = columns.attribute_names.len();
        match (columns.labels, width > 0) {
            (true, _) => rows(json, "{\"labels\": ", n, |i| format!("[\"{}\", {}]", name(i), self.labels[i]))?,
            (false, true) => rows(json, "{\"labels\": ", n, |i| {
                let row = &self.attributes[i * width..(i + 1) * width];
                let values: Vec<&str> = row.iter().map(|&a| if a > 0 { "1" } else { "0" }).collect();
                format!("[\"{}\", [{}]]", name(i), values.join(", "))
            })?,
            (false, false) => json.write_all(b"{\"labels\": null")?,
        }
        let text = |texts: &Texts, i: usize| serde_json::Value::from(texts.optional(i)).to_string();
        if columns.captions {
            rows(json, ",\n\"captions\": ", n, |i| text(&self.captions, i))?;
        }
        rows(json, ",\n\"keys\": ", n, |i| text(&self.keys, i))?;
        let names = serde_json::json!({
            "class_names": columns.class_names, "attribute_names": columns.attribute_names, "strata": origin,
        });
        write!(json, ",\n{}\n", names.to_string().trim_start_matches('{'))
    }

    fn push(&mut self, info: &ItemInfo) -> Result<()> {
        self.keys.push(&info.key);
        if self.columns.captions {
            self.captions.push_optional(info.caption.as_deref());
        }
        if self.columns.labels {
            let label = info.label.ok_or_else(|| Error::item(&info.key, "has no label, though others do"))?;
            self.labels.push(label);
        }
        self.attributes.extend_from_slice(&info.attributes);
        Ok(())
    }
}

/// `head` and a list, one row a line.
fn rows(json: &mut dyn Write, head: &str, n: usize, row: impl Fn(usize) -> String) -> std::io::Result<()> {
    write!(json, "{head}[")?;
    for i in 0..n {
        let separator = if i == 0 { "\n" } else { ",\n" };
        write!(json, "{separator}{}", row(i))?;
    }
    write!(json, "]")
}

impl Sink for ZipSink {
    fn push(&mut self, info: &ItemInfo, picture: &[u8]) -> Result<()> {
        self.archive.add(&name(self.rows.keys.len()), picture).map_err(|e| Error::file(&self.out, e))?;
        self.rows.push(info)
    }

    fn finish(self: Box<Self>, origin: &Origin) -> Result<()> {
        let Self { out, mut archive, rows } = *self;
        let written = archive.add_written(DESCRIPTION, &|json| {
            let mut json = BufWriter::new(json);
            rows.describe(origin, &mut json)?;
            json.flush()
        });
        written.and_then(|()| archive.finish()).map_err(|e| Error::file(out, e))?;
        Ok(())
    }
}

/// What an archive of ours says that it was made from.
pub(super) fn origin(out: &Path) -> Result<Option<Origin>> {
    let tree = Tree::open(out)?;
    Ok(Description::read(&tree)?.origin)
}
