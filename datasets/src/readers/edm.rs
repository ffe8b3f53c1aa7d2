//! EDM's layout: square pictures of one size in a zip or folder, labels in `dataset.json`.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::dataset::{Content, Metadata, Source, Summary};
use crate::decode::dimensions;
use crate::listing::Labels;
use crate::picture::StoredImage;
use crate::readers::folder::no_images;
use crate::readers::tree::Tree;
use crate::{Error, Result};

#[derive(Default, Deserialize)]
struct Description {
    labels: Option<Vec<(String, Value)>>,
}

/// A zip or folder that `dataset_tool` of EDM or StyleGAN wrote.
pub(crate) struct Edm {
    tree: Tree,
    pictures: Vec<u32>,
    labels: Labels,
    vectors: Vec<Vec<f64>>,
    kind: Option<&'static str>,
    resolution: usize,
    classes: usize,
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
        let description = match tree.find("dataset.json") {
            Some(i) => serde_json::from_slice(&tree.read(i)?).map_err(|e| Error::file(path, format!("dataset.json: {e}")))?,
            None => Description::default(),
        };
        let mut edm =
            Self { tree, pictures, labels: Labels::default(), vectors: Vec::new(), kind: None, resolution: width, classes: 0 };
        if let Some(given) = description.labels {
            edm.set_labels(&given.into_iter().collect())?;
        }
        Ok(edm)
    }

    fn set_labels(&mut self, given: &HashMap<String, Value>) -> Result<()> {
        for &at in &self.pictures {
            let name = self.tree.name(at as usize);
            let bad = |why: &str| Error::file(self.tree.path(), format!("dataset.json: `{name}`: {why}"));
            let value = given.get(name).ok_or_else(|| bad("no label, though others have one"))?;
            let kind = match value {
                Value::Array(numbers) => {
                    let vector: Option<Vec<f64>> = numbers.iter().map(Value::as_f64).collect();
                    self.vectors.push(vector.ok_or_else(|| bad("expected a list of numbers"))?);
                    "vector"
                }
                value => {
                    let label = value.as_u64().and_then(|l| u32::try_from(l).ok()).filter(|&l| l < u32::MAX);
                    let label = label.ok_or_else(|| bad("expected a class index or a list of numbers"))?;
                    self.classes = self.classes.max(label as usize + 1);
                    self.labels.push(Some(label));
                    "index"
                }
            };
            if self.kind.is_some_and(|known| known != kind)
                || self.vectors.last().map(Vec::len) != self.vectors.first().map(Vec::len)
            {
                return Err(bad("labels of different kinds or lengths"));
            }
            self.kind = Some(kind);
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
        Ok(self.vectors.get(i).map(|v| Metadata::from_iter([("label_vector".into(), v.clone().into())])).unwrap_or_default())
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
            class_names: (0..self.classes).map(|c| c.to_string()).collect(),
            label_kind: self.kind.map(str::to_string),
            resolution: Some(self.resolution),
            ..Summary::default()
        }
    }
}
