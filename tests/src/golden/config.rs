//! The configuration of a case, which knows what of it has been read.

use std::{cell::RefCell, collections::BTreeSet};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A table of `case.json` that remembers which keys were asked for, so that a key nobody understood is an error.
#[derive(Debug)]
pub struct Config<'a> {
    table: &'a Map<String, Value>,
    path: String,
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Config<'a> {
    /// Reads `value`, which must be a table; `path` names it in errors.
    ///
    /// # Errors
    /// If it is no table.
    pub fn new(value: &'a Value, path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        let table = value.as_object().with_context(|| format!("`{path}`: expected a table, got {value}"))?;
        Ok(Self { table, path, read: RefCell::default() })
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// If it is absent or of another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let value = self.raw(key).with_context(|| format!("`{}.{key}` is missing", self.path))?;
        self.parse(key, value)
    }

    /// The value of `key`, or none where it is absent or null.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn opt<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.raw(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.parse(key, value).map(Some),
        }
    }

    /// The value of `key`, or `default` where it is absent or null.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.opt(key)?.unwrap_or(default))
    }

    /// The value of `key` as it stands; null is a value.
    pub fn raw(&self, key: &str) -> Option<&'a Value> {
        self.read.borrow_mut().insert(key.to_string());
        self.table.get(key)
    }

    /// The table under `key`, which is checked by its own [`Config::finish`].
    ///
    /// # Errors
    /// If it is absent or no table.
    pub fn section(&self, key: &str) -> Result<Config<'a>> {
        let path = format!("{}.{key}", self.path);
        let value = self.raw(key).with_context(|| format!("`{path}` is missing"))?;
        Config::new(value, path)
    }

    /// The tables of the list under `key`.
    ///
    /// # Errors
    /// If it is absent, no list, or holds something else than tables.
    pub fn sections(&self, key: &str) -> Result<Vec<Config<'a>>> {
        let path = format!("{}.{key}", self.path);
        let list = self.raw(key).and_then(Value::as_array).with_context(|| format!("`{path}`: expected a list"))?;
        list.iter().enumerate().map(|(i, value)| Config::new(value, format!("{path}[{i}]"))).collect()
    }

    /// Whether `key` is given, null included. Does not count as reading it.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// All keys, in alphabetical order. Does not count as reading them.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.table.keys().map(String::as_str)
    }

    /// Marks keys that are known to have no effect on the answer.
    pub fn without_effect(&self, keys: &[&str]) {
        self.read.borrow_mut().extend(keys.iter().map(ToString::to_string));
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Names every key that was never asked for; keys that begin with `_` are not the source's and need no reader.
    pub fn finish(self) -> Result<()> {
        let read = self.read.into_inner();
        let unread: Vec<&String> = self.table.keys().filter(|key| !key.starts_with('_') && !read.contains(*key)).collect();
        if !unread.is_empty() {
            bail!("keys of `{}` that this kind does not know: {unread:?}", self.path);
        }
        Ok(())
    }

    fn parse<T: DeserializeOwned>(&self, key: &str, value: &Value) -> Result<T> {
        serde_json::from_value(value.clone()).with_context(|| format!("`{}.{key}` = {value}", self.path))
    }
}
