//! CelebA as published, and CelebA-HQ with its masks' annotations.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::dataset::{Content, Metadata, Source, Summary};
use crate::readers::table::{Attributes, Pairs};
use crate::readers::tree::Tree;
use crate::readers::{files, folder};
use crate::{Error, Result};

pub(crate) const ATTRIBUTES: &str = "list_attr_celeba.txt";
const PARTITION: &str = "list_eval_partition.txt";
const IDENTITY: &str = "identity_CelebA.txt";
const PICTURES: &str = "img_align_celeba";
const SPLITS: [&str; 3] = ["train", "valid", "test"];
const NONE: u32 = u32::MAX;

/// CelebA: the order is that of the attribute list.
pub(crate) struct Celeba {
    attributes: Attributes,
    splits: Vec<Option<u8>>,
    identities: Vec<u32>,
    tree: Tree,
    /// Position of each picture in the tree, `NONE` if it is absent.
    places: Vec<u32>,
}

impl Celeba {
    /// Opens the folder of the lists, with the pictures in a folder or zip beside them. Errors if a list contradicts itself.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let attributes = Attributes::read(&root.join(ATTRIBUTES))?;
        if attributes.files.len() == 0 {
            return Err(folder::no_images(root));
        }
        let folder = root.join(PICTURES);
        let tree = Tree::open(&if folder.is_dir() { folder } else { root.join(format!("{PICTURES}.zip")) })?;
        let (names, index) = (tree.names(), tree.index());
        let place = |file: &str| index.find(names, file).or_else(|| index.find(names, &format!("{PICTURES}/{file}")));
        let places = attributes.files.iter().map(|f| place(f).map_or(NONE, |i| i as u32)).collect();
        let partition = optional_pairs(&root.join(PARTITION), 3)?;
        let identity = optional_pairs(&root.join(IDENTITY), NONE)?;
        let splits = attributes.files.iter().map(|f| partition.get(f).map(|n| n as u8)).collect();
        let identities = attributes.files.iter().map(|f| identity.get(f).unwrap_or(NONE)).collect();
        Ok(Self { attributes, splits, identities, tree, places })
    }

    fn place(&self, i: usize) -> Result<usize> {
        match self.places[i] {
            NONE => Err(Error::file(self.tree.path(), format!("`{}` is listed but absent", self.attributes.files.get(i)))),
            at => Ok(at as usize),
        }
    }
}

fn optional_pairs(path: &Path, limit: u32) -> Result<Pairs> {
    if path.exists() { Pairs::read(path, limit) } else { Ok(Pairs::default()) }
}

impl Source for Celeba {
    fn len(&self) -> usize {
        self.attributes.files.len()
    }

    fn key(&self, i: usize) -> String {
        self.attributes.files.get(i).to_string()
    }

    fn metadata(&self, i: usize) -> Result<Metadata> {
        let mut metadata = Metadata::from_iter([("attributes".to_string(), Value::from(self.attributes.values(i)))]);
        if self.identities[i] != NONE {
            metadata.insert("identity".into(), self.identities[i].into());
        }
        Ok(metadata)
    }

    fn split(&self, i: usize) -> Option<&str> {
        self.splits[i].map(|s| SPLITS[usize::from(s)])
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        self.tree.size(self.place(i)?)
    }

    fn content(&self, i: usize) -> Result<Content> {
        self.tree.read(self.place(i)?).map(Content::Encoded)
    }

    fn summary(&self) -> Summary {
        // A partition has three parts, also where one of them is empty.
        let partitioned = self.splits.iter().any(Option::is_some);
        let splits = SPLITS.iter().filter(|_| partitioned).map(|s| (s.to_string(), 0)).collect();
        Summary { attribute_names: self.attributes.names.clone(), splits, ..Summary::default() }
    }
}

pub(crate) const HQ_PICTURES: &str = "CelebA-HQ-img";
const HQ_ATTRIBUTES: &str = "CelebAMask-HQ-attribute-anno.txt";
const HQ_MAPPING: &str = "CelebA-HQ-to-CelebA-mapping.txt";

/// CelebA-HQ: the order is that of the numbers.
pub(crate) struct CelebaHq {
    folder: PathBuf,
    numbers: Vec<(u64, String)>,
    attributes: Option<Attributes>,
    rows: HashMap<String, usize>,
    originals: HashMap<u64, (u64, String)>,
}

impl CelebaHq {
    /// Opens the folder of the lists. Errors if there is no picture, or a list contradicts itself.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let folder = root.join(HQ_PICTURES);
        let names = files::entries(&folder)?.into_iter().filter(|(name, is_folder)| !is_folder && files::is_picture(name));
        let mut numbers: Vec<(u64, String)> =
            names.filter_map(|(name, _)| Some((files::stem(&name).parse().ok()?, name))).collect();
        numbers.sort_unstable();
        if numbers.is_empty() {
            return Err(folder::no_images(&folder));
        }
        let list = root.join(HQ_ATTRIBUTES);
        let attributes = list.exists().then(|| Attributes::read(&list)).transpose()?;
        let files = attributes.iter().flat_map(|a| a.files.iter());
        let rows = files.enumerate().map(|(i, name)| (name.to_string(), i)).collect();
        Ok(Self { folder, numbers, attributes, rows, originals: read_mapping(&root.join(HQ_MAPPING))? })
    }
}

/// Number of the picture, then index and file name of the original.
fn read_mapping(path: &Path) -> Result<HashMap<u64, (u64, String)>> {
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let text = files::read_text(path)?;
    let rows = text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty());
    rows.map(|(n, line)| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let parsed = match fields.as_slice() {
            [number, index, file] => number.parse().ok().zip(index.parse().ok()).map(|(n, i)| (n, (i, file.to_string()))),
            _ => None,
        };
        parsed.ok_or_else(|| Error::file(path, format!("line {}: expected idx, orig_idx and orig_file, got `{line}`", n + 1)))
    })
    .collect()
}

impl Source for CelebaHq {
    fn len(&self) -> usize {
        self.numbers.len()
    }

    fn key(&self, i: usize) -> String {
        self.numbers[i].1.clone()
    }

    fn metadata(&self, i: usize) -> Result<Metadata> {
        let (number, name) = &self.numbers[i];
        let mut metadata = Metadata::new();
        if let Some((attributes, &row)) = self.attributes.as_ref().zip(self.rows.get(name)) {
            metadata.insert("attributes".into(), attributes.values(row).into());
        }
        if let Some((index, file)) = self.originals.get(number) {
            metadata.insert("orig_idx".into(), (*index).into());
            metadata.insert("orig_file".into(), file.as_str().into());
        }
        Ok(metadata)
    }

    fn stored_bytes(&self, i: usize) -> Result<u64> {
        files::size(&self.folder.join(&self.numbers[i].1))
    }

    fn content(&self, i: usize) -> Result<Content> {
        files::read(&self.folder.join(&self.numbers[i].1)).map(Content::Encoded)
    }

    fn summary(&self) -> Summary {
        let attribute_names = self.attributes.as_ref().map(|a| a.names.clone()).unwrap_or_default();
        Summary { attribute_names, ..Summary::default() }
    }
}
