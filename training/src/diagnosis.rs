//! From serde's messages about a table of settings to errors with the key, its origin and the nearest known key.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::{
    Error, Result,
    settings::{Layer, join, lookup},
};

/// More wrong keys than this are not looked for.
const MOST: usize = 20;

/// Reads settings from the merged table; every unknown key is reported.
pub(crate) fn deserialize<T: DeserializeOwned>(mut merged: Table, layers: &[Layer]) -> Result<T> {
    let mut errors = Vec::new();
    while errors.len() < MOST {
        match merged.clone().try_into::<T>() {
            Ok(settings) if errors.is_empty() => return Ok(settings),
            Ok(_) => break,
            Err(e) => {
                let problem = Problem::new(&e.to_string());
                let (error, key) = problem.explain(&merged, layers);
                errors.push(error);
                // Only an unknown key can be left out to look for the next one.
                if !key.is_some_and(|key| remove(&mut merged, &key)) {
                    break;
                }
            }
        }
    }
    match errors.len() {
        1 => Err(errors.remove(0)),
        _ => Err(Error::Settings(errors)),
    }
}

/// A message of serde with the path that toml adds to it.
struct Problem {
    message: String,
    path: String,
}

impl Problem {
    fn new(text: &str) -> Self {
        let mut message = text.trim_end();
        let mut path = String::new();
        if let Some((head, tail)) = message.rsplit_once("\nin `") {
            path = tail.trim_end_matches('`').to_string();
            message = head;
        }
        Self { message: message.trim().to_string(), path }
    }

    /// The error, and the dotted key if it is one that nobody knows.
    fn explain(&self, merged: &Table, layers: &[Layer]) -> (Error, Option<String>) {
        let quoted = quoted(&self.message);
        if let (true, Some((field, known))) = (self.message.starts_with("unknown field"), quoted.split_first()) {
            let parent = self.parent_of(field, merged, layers);
            let key = join(&parent, field);
            let nearest = nearest(field, known).map(|k| join(&parent, &k));
            let known = known.iter().map(|k| join(&parent, k)).collect();
            return (Error::UnknownKey { origin: origin(&key, layers), key: key.clone(), nearest, known }, Some(key));
        }
        (self.wrong_value(merged, layers, &quoted), None)
    }

    /// Where `field` stands: toml's path ends at the table, or at an enum above it.
    fn parent_of(&self, field: &str, merged: &Table, layers: &[Layer]) -> String {
        let path = self.path.strip_suffix(field).map_or(self.path.as_str(), |p| p.strip_suffix('.').unwrap_or(p));
        let root = if path.is_empty() { Some(merged) } else { lookup(merged, path).and_then(Value::as_table) };
        let mut candidates = Vec::new();
        if let Some(root) = root {
            tables_with(root, path, field, &mut candidates);
        }
        let given = |parent: &&String| layers.iter().any(|l| lookup(&l.table, &join(parent, field)).is_some());
        candidates.iter().find(given).or(candidates.first()).cloned().unwrap_or_else(|| path.to_string())
    }

    fn wrong_value(&self, merged: &Table, layers: &[Layer], quoted: &[String]) -> Error {
        let (problem, expected) = self.message.split_once(", expected ").unwrap_or((&self.message, "another value"));
        let (key, expected, got) = if let Some(field) = self.message.strip_prefix("missing field ") {
            (join(&self.path, field.trim_matches('`')), "a value".to_string(), "none".to_string())
        } else if self.message.starts_with("unknown variant") {
            let nearest = quoted.split_first().and_then(|(got, known)| nearest(got, known));
            let hint = nearest.map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default();
            (self.path.clone(), expected.to_string(), format!("{}{hint}", problem.trim_start_matches("unknown variant ")))
        } else {
            let words = problem.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
            let value = lookup(merged, &self.path).filter(|v| !v.is_table()).map(|v| format!("{v} ({words})"));
            (self.path.clone(), expected.to_string(), value.unwrap_or_else(|| words.to_string()))
        };
        Error::Setting { origin: origin(&key, layers), key, expected, got }
    }
}

/// The names between back quotes.
fn quoted(message: &str) -> Vec<String> {
    message.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

fn nearest(wrong: &str, known: &[String]) -> Option<String> {
    let best = known.iter().map(|k| (strsim::damerau_levenshtein(wrong, k), k)).min()?;
    let close = best.0 <= wrong.len().max(3) / 2;
    let contained = || known.iter().find(|k| k.contains(wrong) || wrong.contains(k.as_str()));
    if close { Some(best.1.clone()) } else { contained().cloned() }
}

fn tables_with(table: &Table, path: &str, field: &str, found: &mut Vec<String>) {
    if table.contains_key(field) {
        found.push(path.to_string());
    }
    for (key, value) in table {
        if let Value::Table(below) = value {
            tables_with(below, &join(path, key), field, found);
        }
    }
}

/// The uppermost layer that gives the key or something above it.
fn origin(key: &str, layers: &[Layer]) -> String {
    let mut path = key;
    loop {
        if let Some(layer) = layers.iter().rev().find(|l| lookup(&l.table, path).is_some()) {
            return layer.origin.clone();
        }
        match path.rsplit_once('.') {
            Some((above, _)) => path = above,
            None => return "the defaults".to_string(),
        }
    }
}

fn remove(table: &mut Table, key: &str) -> bool {
    match key.split_once('.') {
        None => table.remove(key).is_some(),
        Some((first, rest)) => table.get_mut(first).and_then(Value::as_table_mut).is_some_and(|below| remove(below, rest)),
    }
}
