//! EDM's layout: square pictures of one size in a zip or folder, labels in `dataset.json`.

use std::fmt;
use std::path::Path;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::convert::Origin;
use crate::dataset::{Content, Metadata, Source, Summary};
use crate::decode::dimensions;
use crate::listing::{Labels, Texts};
use crate::picture::StoredImage;
use crate::readers::folder::no_images;
use crate::readers::tree::Tree;
use crate::{Error, Result};

pub(crate) const DESCRIPTION: &str = "dataset.json";

/// What `dataset.json` says: EDM's labels, and what an archive of ours holds beside them, in order of the pictures.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Description {
    labels: Option<Given>,
    captions: Rows,
    keys: Rows,
    class_names: Vec<String>,
    attribute_names: Vec<String>,
    #[serde(rename = "strata")]
    pub(crate) origin: Option<Origin>,
}

impl Description {
    /// Of the files in `tree`; empty where there is none. Errors if it is damaged.
    pub(crate) fn read(tree: &Tree) -> Result<Self> {
        let Some(i) = tree.find(DESCRIPTION) else { return Ok(Self::default()) };
        serde_json::from_slice(&tree.read(i)?).map_err(|e| Error::file(tree.path(), format!("{DESCRIPTION}: {e}")))
    }
}

/// Labels by name, packed as they are read.
#[derive(Default)]
struct Given {
    names: Texts,
    values: Vec<Label>,
    /// The numbers of all vectors.
    numbers: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Label {
    Index(u32),
    /// Offset of a vector's first number, and their count.
    Vector(u32, u16),
    Neither,
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of [file, label]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> std::result::Result<Given, A::Error> {
                let mut given = Given::default();
                while let Some((name, value)) = rows.next_element::<(std::borrow::Cow<'de, str>, Value)>()? {
                    given.push(&name, &value);
                }
                Ok(given)
            }
        }
        deserializer.deserialize_seq(Pairs)
    }
}

impl Given {
    fn push(&mut self, name: &str, value: &Value) {
        self.names.push(name);
        let index = || value.as_u64().and_then(|l| u32::try_from(l).ok()).filter(|&l| l < u32::MAX);
        let vector = |list: &Vec<Value>| list.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
        let label = match (value.as_array().map(vector), index()) {
            (Some(Some(numbers)), _) => {
                let start = u32::try_from(self.numbers.len()).ok().zip(u16::try_from(numbers.len()).ok());
                self.numbers.extend(numbers);
                start.map_or(Label::Neither, |(start, len)| Label::Vector(start, len))
            }
            (None, Some(index)) => Label::Index(index),
            _ => Label::Neither,
        };
        self.values.push(label);
    }

    /// Positions in order of the names.
    fn sorted(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.names.len() as u32).collect();
        order.sort_by(|&a, &b| self.names.get(a as usize).cmp(self.names.get(b as usize)));
        order
    }
}

/// A list of texts, packed as they are read; null is absent.
#[derive(Default)]
struct Rows(Texts);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Rows;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts and nulls")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> std::result::Result<Rows, A::Error> {
                let mut texts = Texts::default();
                while let Some(text) = rows.next_element::<Option<std::borrow::Cow<'de, str>>>()? {
                    texts.push_optional(text.as_deref());
                }
                Ok(Rows(texts))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// A zip or folder that `dataset_tool` of EDM or StyleGAN wrote, or one of ours.
pub(crate) struct Edm {
    tree: Tree,
    pictures: Vec<u32>,
    labels: Labels,
    /// One row of `vector_len` numbers for each picture.
    vectors: Vec<f64>,
    vector_len: usize,
    kind: Option<&'static str>,
    resolution: usize,
    classes: Vec<String>,
    captions: Texts,
    keys: Texts,
    attribute_names: Vec<String>,
}

impl Edm {
    /// Errors if there is no picture, the first is not square, or labels are given but not for all or not of one kind.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let tree = Tree::open(path)?;
        let pictures = tree.pictures();
        let &first = pictures.first().ok_or_else(|| no_images(path))?;
        let named = |why: String| Error::item(tree.name(first as usize), why);
        let (width, height) = dimensions(&tree.read(first as usize)?).map_err(named)?;
        if width != height {
            return Err(named(format!("expected a square picture in this layout, got {width}x{height}")));
        }
        let Description { labels, captions, keys, class_names, attribute_names, .. } = Description::read(&tree)?;
        for (what, texts) in [("captions", &captions.0), ("keys", &keys.0)] {
            if ![0, pictures.len()].contains(&texts.len()) {
                let why = format!("{DESCRIPTION}: {} {what} for {} pictures", texts.len(), pictures.len());
                return Err(Error::file(path, why));
            }
        }
        let mut edm = Self {
            tree,
            pictures,
            labels: Labels::default(),
            vectors: Vec::new(),
            vector_len: 0,
            kind: None,
            resolution: width,
            classes: class_names,
            captions: captions.0,
            keys: keys.0,
            attribute_names,
        };
        if let Some(given) = labels {
            edm.set_labels(&given)?;
        }
        if edm.attribute_names.len() != edm.vector_len {
            edm.attribute_names.clear();
        }
        Ok(edm)
    }

    fn set_labels(&mut self, given: &Given) -> Result<()> {
        let order = given.sorted();
        let mut highest = None;
        for &at in &self.pictures {
            let name = self.tree.name(at as usize);
            let bad = |why: &str| Error::file(self.tree.path(), format!("{DESCRIPTION}: `{name}`: {why}"));
            let found = order.binary_search_by(|&row| given.names.get(row as usize).cmp(name));
            let row = found.map_err(|_| bad("no label, though others have one"))?;
            let (kind, len) = match given.values[order[row] as usize] {
                Label::Index(label) => {
                    highest = highest.max(Some(label as usize));
                    self.labels.push(Some(label));
                    ("index", 0)
                }
                Label::Vector(start, len) => {
                    self.vectors.extend_from_slice(&given.numbers[start as usize..start as usize + usize::from(len)]);
                    ("vector", usize::from(len))
                }
                Label::Neither => return Err(bad("expected a class index or a list of numbers")),
            };
            if self.kind.is_some_and(|known| known != kind || len != self.vector_len) {
                return Err(bad("labels of different kinds or lengths"));
            }
            (self.kind, self.vector_len) = (Some(kind), len);
        }
        let classes = highest.map_or(0, |l| l + 1);
        if self.classes.len() < classes {
            self.classes = (0..classes).map(|c| c.to_string()).collect();
        }
        Ok(())
    }

    fn at(&self, i: usize) -> usize {
        self.pictures[i] as usize
    }
}

impl Source for Edm {
    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn key(&self, i: usize) -> String {
        self.tree.name(self.at(i)).to_string()
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.labels.get(i)
    }

    fn metadata(&self, i: usize) -> Result<Metadata> {
        let mut metadata = Metadata::new();
        let row = self.vectors.get(i * self.vector_len..(i + 1) * self.vector_len).filter(|row| !row.is_empty());
        if let Some(row) = row.filter(|_| self.attribute_names.is_empty()) {
            metadata.insert("label_vector".into(), row.to_vec().into());
        } else if let Some(row) = row {
            let signs: Vec<i8> = row.iter().map(|&v| if v > 0.5 { 1 } else { -1 }).collect();
            metadata.insert("attributes".into(), signs.into());
        }
        if self.keys.len() > 0 {
            metadata.insert("original_key".into(), self.keys.get(i).into());
        }
        Ok(metadata)
    }

    fn caption(&self, i: usize) -> Result<Option<String>> {
        Ok(if self.captions.len() > 0 { self.captions.optional(i).map(str::to_string) } else { None })
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        self.tree.size(self.at(i))
    }

    fn content(&self, i: usize) -> Result<Content> {
        self.tree.read(self.at(i)).map(Content::Encoded)
    }

    fn check(&self, image: &StoredImage) -> std::result::Result<(), String> {
        if (image.width, image.height) == (self.resolution, self.resolution) {
            return Ok(());
        }
        Err(format!(
            "expected {0}x{0} as the first picture of this layout, got {1}x{2}",
            self.resolution, image.width, image.height
        ))
    }

    fn summary(&self) -> Summary {
        Summary {
            class_names: self.classes.clone(),
            attribute_names: self.attribute_names.clone(),
            label_kind: self.kind.map(str::to_string),
            resolution: Some(self.resolution),
            ..Summary::default()
        }
    }
}
