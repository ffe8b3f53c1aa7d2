//! From preset, file, `--set` and flags to resolved settings.

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};
use strata_training::settings::{Layers, resolve, to_toml};
use toml::Table;

use crate::{args, context::Context, hint::hinted};

/// A preset: its name and its text.
pub type Preset = (&'static str, &'static str);

/// Settings with every layer applied, and the same as a table.
///
/// # Errors
/// An unknown preset or key (with the nearest known one), a value of the wrong type, a file that cannot be read.
pub fn load<T: Serialize + DeserializeOwned + Default>(
    settings: &args::Settings,
    presets: &[Preset],
    default_preset: Option<&str>,
    context: &Context,
    extra: Table,
) -> anyhow::Result<(T, Table)> {
    let preset = settings.preset.as_deref().or(default_preset).map(|name| find(presets, name)).transpose()?;
    let mut flags = extra;
    let mut flag = |key: &str, value: Option<toml::Value>| value.and_then(|v| flags.insert(key.to_string(), v));
    flag("images", settings.images.map(|v| toml::Value::Integer(v as i64)));
    flag("batch", settings.batch.map(|v| toml::Value::Integer(v as i64)));
    flag("checkpoint_activations", settings.checkpoint_activations.then_some(toml::Value::Boolean(true)));
    flag("max_minutes", settings.limit_minutes().map(toml::Value::Float));
    flag("seed", context.seed.map(|v| toml::Value::Integer(v as i64)));
    Ok(resolve(Layers { preset, file: settings.config.clone(), sets: settings.set.clone(), flags })?)
}

/// The preset `name` as a table.
///
/// # Errors
/// If there is none of that name.
pub fn find(presets: &[Preset], name: &str) -> anyhow::Result<Table> {
    let Some((_, text)) = presets.iter().find(|(n, _)| *n == name) else {
        let names: Vec<&str> = presets.iter().map(|(n, _)| *n).collect();
        return Err(hinted(format!("there is no preset `{name}`"), format!("presets: {}", names.join(", "))));
    };
    toml::from_str(text).with_context(|| format!("preset `{name}`"))
}

/// Prints resolved settings as TOML on stdout.
///
/// # Errors
/// If they cannot be written as TOML.
pub fn print(table: &Table) -> anyhow::Result<()> {
    print!("{}", to_toml(table)?);
    Ok(())
}
