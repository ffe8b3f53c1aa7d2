//! Settings in layers: defaults < preset < file < `--set` < flags, with errors that name the key.
//!
//! A configuration is a plain struct with `Default` and `serde(deny_unknown_fields)`. A choice with settings of its own
//! is an enum tagged by `kind`, or by the one key of its table (`{ width = 32 }`): a layer that makes another choice replaces
//! the table instead of adding to it.

use std::path::PathBuf;

use serde::{Serialize, de::DeserializeOwned};
use toml::{Table, Value};

use crate::{Error, Result, diagnosis};

/// What is laid over the defaults, each over the one before.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// A preset.
    pub preset: Option<Table>,
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// `key=value`, the key dotted; the value is TOML, or else a string without quotes.
    pub sets: Vec<String>,
    /// Values of command-line flags.
    pub flags: Table,
}

/// A layer and what to call it in an error.
pub(crate) struct Layer {
    pub origin: String,
    pub table: Table,
}

/// The settings with all layers applied, and the same as a table, which with [`to_toml`] gives the same settings again.
///
/// # Errors
/// A file that cannot be read; every unknown key (with the nearest known one) and every value of the wrong type at once.
pub fn resolve<T: Serialize + DeserializeOwned + Default>(layers: Layers) -> Result<(T, Table)> {
    let defaults = table_of(&T::default())?;
    let layers = collect(layers, &defaults)?;
    let mut merged = defaults;
    for layer in &layers {
        merge(&mut merged, &layer.table);
    }
    let settings: T = diagnosis::deserialize(merged, &layers)?;
    let resolved = table_of(&settings)?;
    Ok((settings, resolved))
}

/// A table as the text of a TOML file.
///
/// # Errors
/// A value that TOML cannot hold.
pub fn to_toml(table: &Table) -> Result<String> {
    toml::to_string_pretty(table).map_err(|e| Error::Config(format!("settings cannot be written as TOML: {e}")))
}

/// The first key, in order, at which two configurations differ, with both values; keys in `may_change` (dotted, with
/// all below them) are left out. None if they agree.
pub fn first_difference(here: &Table, asked: &Table, may_change: &[&str]) -> Option<String> {
    let (here, asked) = (flatten(here), flatten(asked));
    let allowed = |key: &str| may_change.iter().any(|k| key == *k || key.starts_with(&format!("{k}.")));
    let words = |value: Option<&String>| value.map_or("nothing".to_string(), Clone::clone);
    let keys: std::collections::BTreeSet<&String> = here.keys().chain(asked.keys()).collect();
    keys.into_iter()
        .filter(|key| !allowed(key))
        .find(|key| here.get(*key) != asked.get(*key))
        .map(|key| format!("`{key}` is {} there, but {} was asked for", words(here.get(key)), words(asked.get(key))))
}

fn flatten(table: &Table) -> std::collections::BTreeMap<String, String> {
    fn walk(path: &str, value: &Value, into: &mut std::collections::BTreeMap<String, String>) {
        match value {
            Value::Table(table) if !table.is_empty() => table.iter().for_each(|(k, v)| walk(&join(path, k), v, into)),
            other => {
                into.insert(path.to_string(), other.to_string());
            }
        }
    }
    let mut flat = std::collections::BTreeMap::new();
    table.iter().for_each(|(k, v)| walk(k, v, &mut flat));
    flat
}

/// A dotted key.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
}

/// The value at a dotted key.
pub(crate) fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

fn table_of<T: Serialize>(settings: &T) -> Result<Table> {
    Table::try_from(settings).map_err(|e| Error::Config(format!("settings cannot be written as TOML: {e}")))
}

fn collect(layers: Layers, defaults: &Table) -> Result<Vec<Layer>> {
    let mut list = Vec::new();
    if let Some(table) = layers.preset {
        list.push(Layer { origin: "the preset".to_string(), table });
    }
    if let Some(path) = layers.file {
        let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
        let table = text.parse().map_err(|e: toml::de::Error| Error::file(&path, e.to_string().trim_end()))?;
        list.push(Layer { origin: path.display().to_string(), table });
    }
    let mut sets = Table::new();
    for text in &layers.sets {
        lay(&mut sets, &parse_set(text, defaults)?, &changes_kind);
    }
    list.push(Layer { origin: "--set".to_string(), table: sets });
    list.push(Layer { origin: "the command line".to_string(), table: layers.flags });
    Ok(list)
}

/// `a.b=c` as a table.
fn parse_set(text: &str, defaults: &Table) -> Result<Table> {
    let wrong = || Error::Config(format!("--set: expected key=value, got `{text}`"));
    let (key, raw) = text.split_once('=').ok_or_else(wrong)?;
    let (key, raw) = (key.trim(), raw.trim());
    if key.split('.').any(str::is_empty) {
        return Err(wrong());
    }
    let plain = || Value::String(raw.to_string());
    let value = match format!("v = {raw}").parse::<Table>().ok().and_then(|mut t| t.remove("v")) {
        Some(Value::String(s)) => Value::String(s),
        // A number where a string belongs, for example a name of digits.
        Some(value) if is_plain(&value) && matches!(lookup(defaults, key), Some(Value::String(_))) => plain(),
        Some(value) => value,
        None => plain(),
    };
    let nested = key.rsplit('.').fold(value, |value, part| Value::Table(Table::from_iter([(part.to_string(), value)])));
    match nested {
        Value::Table(table) => Ok(table),
        _ => Err(wrong()),
    }
}

/// Neither a table nor a list, which a choice may be where another is one word.
fn is_plain(value: &Value) -> bool {
    !matches!(value, Value::Table(_) | Value::Array(_))
}

/// Lays `over` on `base`, which has every key of every table that is not a choice.
fn merge(base: &mut Table, over: &Table) {
    lay(base, over, &|below, above| changes_kind(below, above) || changes_key(below, above));
}

fn lay(base: &mut Table, over: &Table, replaces: &dyn Fn(&Table, &Table) -> bool) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) if !replaces(below, above) => lay(below, above, replaces),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

fn changes_kind(below: &Table, above: &Table) -> bool {
    matches!((below.get("kind"), above.get("kind")), (Some(a), Some(b)) if a != b)
}

/// Whether a choice that is named by the one key of its table is another one above.
fn changes_key(below: &Table, above: &Table) -> bool {
    let single = |table: &Table| if table.len() == 1 { table.keys().next().cloned() } else { None };
    matches!((single(below), single(above)), (Some(a), Some(b)) if a != b && a != "kind")
}
