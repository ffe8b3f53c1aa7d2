//! Names for what lies in nested containers: dictionary keys and list positions joined with dots.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{
    budget::Budget,
    pickle::{Id, Pickle, Value},
    torch::{TorchFile, View},
};

/// Deeper than any checkpoint nests.
const MAX_DEPTH: usize = 200;

/// Longer than any name.
const MAX_KEY: usize = 1024;

/// A tensor under its name.
pub(crate) type Named = (String, Arc<View>);

/// A walk through the containers of a file, which ends however they are entangled.
pub(crate) struct Walk<'a> {
    file: &'a TorchFile,
    budget: &'a mut Budget,
    /// Values that may still be looked at. One may be reached by many names, but not by ever more.
    steps: usize,
    found: Vec<Named>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(file: &'a TorchFile, budget: &'a mut Budget) -> Self {
        Self { file, budget, steps: 100_000 + 4 * file.pickle.len(), found: Vec::new() }
    }

    /// The tensors found, in the order of the file.
    ///
    /// # Errors
    /// If two have the same name.
    pub(crate) fn finish(self) -> Result<Vec<Named>, String> {
        let mut names = HashSet::new();
        match self.found.iter().find(|(name, _)| !names.insert(name.as_str())) {
            Some((name, _)) => Err(format!("two tensors have the name `{name}`")),
            None => Ok(self.found),
        }
    }

    /// Dictionaries, lists and tuples; objects and sets are passed over.
    pub(crate) fn containers(&mut self, prefix: &str, id: Id, depth: usize) -> Result<(), String> {
        if self.tensor(prefix, id)? {
            return Ok(());
        }
        match self.file.pickle.get(id) {
            Value::List(items) | Value::Tuple(items) => {
                self.enter(depth, items.len())?;
                for (i, &item) in items.iter().enumerate() {
                    if self.may_hold_tensors(item) {
                        self.containers(&join(prefix, &i.to_string()), item, depth + 1)?;
                    }
                }
            }
            Value::Dict(pairs) => {
                self.enter(depth, pairs.len())?;
                for (key, value) in entries(&self.file.pickle, id) {
                    if self.may_hold_tensors(value) {
                        self.containers(&join(prefix, &key), value, depth + 1)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A module as its `state_dict` would name it: parameters, buffers, then children.
    pub(crate) fn module(&mut self, prefix: &str, id: Id, depth: usize) -> Result<(), String> {
        let Some(state) = state_of(&self.file.pickle, id) else { return Ok(()) };
        let pickle = &self.file.pickle;
        let entries_of = |part: &str| pickle.entry(state, part).map_or(0, |part| pickle.pairs(part).map_or(0, <[_]>::len));
        self.enter(depth, ["_parameters", "_buffers", "_modules"].map(entries_of).iter().sum())?;
        for part in ["_parameters", "_buffers"] {
            for (key, value) in pickle.entry(state, part).map(|part| entries(pickle, part)).unwrap_or_default() {
                self.tensor(&join(prefix, &key), value)?;
            }
        }
        for (key, child) in pickle.entry(state, "_modules").map(|part| entries(pickle, part)).unwrap_or_default() {
            self.module(&join(prefix, &key), child, depth + 1)?;
        }
        Ok(())
    }

    fn tensor(&mut self, name: &str, id: Id) -> Result<bool, String> {
        let Some(view) = self.file.tensor(id) else { return Ok(false) };
        self.budget.claim(2 * (name.len() + size_of::<Named>()))?;
        self.found.push((name.to_string(), view.clone()));
        Ok(true)
    }

    fn may_hold_tensors(&self, id: Id) -> bool {
        matches!(self.file.pickle.get(id), Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Object(_))
    }

    fn enter(&mut self, depth: usize, contents: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("containers are nested more than {MAX_DEPTH} deep"));
        }
        self.steps = self.steps.checked_sub(1 + contents).ok_or("its containers lead to each other in too many ways")?;
        Ok(())
    }
}

/// The state of an object: a dictionary of its attributes. EDM's persistent objects keep theirs beside their source text.
pub(crate) fn state_of(pickle: &Pickle, id: Id) -> Option<Id> {
    let object = pickle.object(id)?;
    if pickle.class(id)?.ends_with("persistence._reconstruct_persistent_obj") {
        return pickle.entry(*pickle.args(id)?.first()?, "state");
    }
    match pickle.get(object.state?) {
        Value::Dict(_) => object.state,
        Value::Tuple(parts) => parts.first().copied().filter(|&part| matches!(pickle.get(part), Value::Dict(_))),
        _ => None,
    }
}

/// The entries of a dictionary with keys that can be part of a name; of entries with the same key the last.
pub(crate) fn entries(pickle: &Pickle, id: Id) -> Vec<(String, Id)> {
    let pairs = pickle.pairs(id).unwrap_or_default();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut out: Vec<(String, Id)> = Vec::new();
    for &(key, value) in pairs {
        let Some(key) = key_name(pickle, key) else { continue };
        match places.get(&key) {
            Some(&place) => out[place].1 = value,
            None => {
                places.insert(key.clone(), out.len());
                out.push((key, value));
            }
        }
    }
    out
}

fn key_name(pickle: &Pickle, key: Id) -> Option<String> {
    Some(match pickle.get(key) {
        Value::Text(text) if text.len() <= MAX_KEY => pickle.text(key)?.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Bool(true) => "True".to_string(),
        Value::Bool(false) => "False".to_string(),
        Value::None => "None".to_string(),
        Value::Float(x) => x.to_string(),
        Value::Global(name) if name.len() <= MAX_KEY => name.to_string(),
        // A key without a name of its own: its number tells it apart.
        _ => format!("#{key}"),
    })
}

/// `prefix.name`; the prefix may be empty.
pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") }
}
