//! `strata inspect` of a weight file: a tree of its tensors, and what the file is. Contents are read for norms alone.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde_json::{Value, json};
use strata_nn::checkpoint::{Checkpoint, Dtype, Tensor};

use super::inspect::Shown;
use crate::origin::Origin;

/// Plain values that are shown to a person; scripts get all.
const MAX_VALUES: usize = 24;
/// Parts of a name; the rest of a longer one stays together.
const MAX_PARTS: usize = 32;
/// Characters of a value that are shown.
const MAX_TEXT: usize = 100;

/// The weight file at `path` for a person and for a script. `norms`: reads the contents and adds each tensor's Euclidean norm.
///
/// # Errors
/// If the file cannot be read or is refused; with `norms` also if contents are damaged.
pub fn shown(path: &Path, norms: bool) -> anyhow::Result<Shown> {
    let file = Checkpoint::open(path)?;
    let origin = Origin::of(&file);
    let count: usize = file.tensors().iter().map(Tensor::elements).sum();
    let mut text = format!(
        "{}: {}, {}\n{} tensors, {count} numbers ({}), {} bytes\n",
        path.display(),
        file.format().describe(),
        origin.describe(),
        file.tensors().len(),
        dtypes(&file),
        file.file_bytes()
    );
    if !file.ema().is_empty() {
        let _ = writeln!(text, "averaged weights: {} parameters", file.ema().len());
    }
    if let Some(optimizer) = file.optimizer() {
        let steps = optimizer.steps.map_or(String::new(), |steps| format!(" after {steps} steps"));
        let _ = writeln!(text, "optimizer: {} tensors{steps}", optimizer.tensors.len());
    }
    metadata(&file, &mut text);
    let mut tree = Tree::default();
    let mut listed = Vec::with_capacity(file.tensors().len());
    for t in file.tensors() {
        let norm =
            if norms { Some(norm(t).map_err(|why| anyhow::anyhow!("{}: `{}`: {why}", path.display(), t.name()))?) } else { None };
        let shown = norm.flatten().map_or(String::new(), |n| format!("  norm {n:.6}"));
        tree.insert(t.name(), t.elements(), format!("{:?} {:?}{shown}", t.dtype(), t.shape()));
        let mut entry = json!({ "name": t.name(), "dtype": format!("{:?}", t.dtype()), "shape": t.shape() });
        if norms {
            entry["norm"] = json!(norm.flatten());
        }
        listed.push(entry);
    }
    tree.write(0, &mut text);
    let json = json!({
        "format": file.format().describe(),
        "origin": origin.name(),
        "what": origin.describe(),
        "bytes": file.file_bytes(),
        "metadata": file.metadata(),
        "config": config(&file),
        "ema": file.ema().len(),
        "tensors": listed,
    });
    Ok(Shown { text, json })
}

fn dtypes(file: &Checkpoint) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    file.tensors().iter().for_each(|t| *counts.entry(format!("{:?}", t.dtype())).or_default() += 1);
    counts.keys().cloned().collect::<Vec<_>>().join(", ")
}

/// The configuration that a file of ours carries.
fn config(file: &Checkpoint) -> Option<Value> {
    serde_json::from_str(file.metadata().get("__metadata__.config")?.as_str()?).ok()
}

fn metadata(file: &Checkpoint, text: &mut String) {
    // Empty hooks and the like say nothing.
    let telling: Vec<_> =
        file.metadata().iter().filter(|(_, v)| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty())).collect();
    for (key, value) in telling.iter().take(MAX_VALUES) {
        let shown = value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
        let short: String = shown.chars().take(MAX_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let more = if shown.chars().count() > MAX_TEXT { "..." } else { "" };
        let _ = writeln!(text, "{key}: {short}{more}");
    }
    if telling.len() > MAX_VALUES {
        let _ = writeln!(text, "and {} more values (--json shows all)", telling.len() - MAX_VALUES);
    }
}

/// Euclidean norm, for floats.
fn norm(t: &Tensor) -> Result<Option<f64>, String> {
    let bytes = t.read()?;
    let sum = |squares: &mut dyn Iterator<Item = f64>| squares.map(|x| x * x).sum::<f64>();
    let squares = match t.dtype() {
        Dtype::F32 => sum(&mut bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)))),
        Dtype::F64 => sum(&mut bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b))),
        Dtype::F16 => sum(&mut bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f64())),
        Dtype::BF16 => sum(&mut bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f64())),
        _ => return Ok(None),
    };
    Ok(Some(squares.sqrt()))
}

/// Names by their parts.
#[derive(Default)]
struct Tree {
    children: BTreeMap<Part, Tree>,
    leaf: Option<String>,
    tensors: usize,
    elements: usize,
}

/// A part of a name; numbers are ordered as numbers.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

impl Tree {
    fn insert(&mut self, name: &str, elements: usize, leaf: String) {
        let mut node = self;
        for part in name.splitn(MAX_PARTS, '.') {
            node.tensors += 1;
            node.elements += elements;
            // 01 and 1 are two names.
            let number = part.parse().ok().filter(|n: &u64| n.to_string() == part);
            let part = number.map_or_else(|| Part::Text(part.to_string()), Part::Number);
            node = node.children.entry(part).or_default();
        }
        node.tensors += 1;
        node.leaf = Some(leaf);
    }

    fn write(&self, depth: usize, text: &mut String) {
        for (part, child) in &self.children {
            let (mut name, mut node) = (part.to_string(), child);
            // A chain without branches is one line.
            while let (None, 1, Some((part, next))) = (&node.leaf, node.children.len(), node.children.first_key_value()) {
                name = format!("{name}.{part}");
                node = next;
            }
            let indent = "  ".repeat(depth + 1);
            let what = match &node.leaf {
                Some(leaf) => leaf.clone(),
                None => format!("({} tensors, {} numbers)", node.tensors, node.elements),
            };
            let _ = writeln!(text, "{indent}{name}  {what}");
            node.write(depth + 1, text);
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(text) => f.write_str(&text.chars().filter(|c| !c.is_control()).collect::<String>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_orders_numbers_and_joins_chains() {
        let mut tree = Tree::default();
        for name in ["a.10.weight", "a.9.weight", "b.c.d", "a.9.bias"] {
            tree.insert(name, 2, "F32 [2]".into());
        }
        let mut text = String::new();
        tree.write(0, &mut text);
        let expected = "  a  (3 tensors, 6 numbers)\n    9  (2 tensors, 4 numbers)\n      bias  F32 [2]\n      weight  F32 [2]\n    10.weight  F32 [2]\n  b.c.d  F32 [2]\n";
        assert_eq!(text, expected);
    }
}
