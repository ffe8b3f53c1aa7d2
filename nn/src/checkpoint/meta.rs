//! Plain values beside the tensors, as JSON under dotted names.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::{
    budget::Budget,
    pickle::{Id, Pickle, Value},
    tree::{entries, join, state_of},
};

/// Values beyond this many are left out: nobody reads them.
const MAX_VALUES: usize = 200_000;
const MAX_DEPTH: usize = 24;
/// Texts beyond this are left out (program text, for one).
const MAX_TEXT: usize = 4096;

/// Collects plain values.
pub(crate) struct Meta<'a> {
    pickle: &'a Pickle,
    budget: &'a mut Budget,
    found: BTreeMap<String, Json>,
    /// Values that may still be looked at.
    steps: usize,
}

impl<'a> Meta<'a> {
    pub(crate) fn new(pickle: &'a Pickle, budget: &'a mut Budget) -> Self {
        Self { pickle, budget, found: BTreeMap::new(), steps: MAX_VALUES }
    }

    pub(crate) fn finish(self) -> BTreeMap<String, Json> {
        self.found
    }

    /// Notes a value, unless the file has claimed too much: then nothing further is noted.
    fn insert(&mut self, name: impl Into<String>, value: Json) {
        let name = name.into();
        let contents = match &value {
            Json::String(text) => text.len(),
            Json::Array(items) => items.len() * size_of::<Json>(),
            _ => 0,
        };
        match self.budget.claim(2 * (name.len() + contents + size_of::<(String, Json)>())) {
            Ok(()) => drop(self.found.insert(name, value)),
            Err(_) => self.steps = 0,
        }
    }

    fn may_look_at(&mut self, values: usize) -> bool {
        self.steps = self.steps.saturating_sub(values);
        self.steps > 0
    }

    /// Everything plain in and below a value. Of an object: its class and attributes; of a module also its children.
    pub(crate) fn collect(&mut self, name: &str, id: Id, depth: usize) {
        if depth > MAX_DEPTH || !self.may_look_at(1) {
            return;
        }
        if let Some(value) = scalar(self.pickle, id) {
            self.insert(name, value);
            return;
        }
        match self.pickle.get(id) {
            Value::Dict(_) => self.entries(name, id, depth),
            Value::List(items) | Value::Tuple(items) => {
                if items.len() > MAX_TEXT || !self.may_look_at(items.len()) {
                    return;
                }
                let plain: Option<Vec<Json>> = items.iter().map(|&item| short_scalar(self.pickle, item)).collect();
                match plain {
                    Some(plain) => self.insert(name, Json::Array(plain)),
                    None => {
                        for (i, &item) in items.iter().enumerate() {
                            self.collect(&join(name, &i.to_string()), item, depth + 1);
                        }
                    }
                }
            }
            Value::Object(_) => self.object(name, id, depth),
            _ => {}
        }
    }

    fn entries(&mut self, name: &str, id: Id, depth: usize) {
        if self.may_look_at(self.pickle.pairs(id).map_or(0, <[_]>::len)) {
            for (key, value) in entries(self.pickle, id) {
                self.collect(&join(name, &key), value, depth + 1);
            }
        }
    }

    fn object(&mut self, name: &str, id: Id, depth: usize) {
        if let Some(class) = class_name(self.pickle, id) {
            self.insert(join(name, "class_name"), class.into());
        }
        self.entries(name, id, depth);
        let Some(state) = state_of(self.pickle, id) else { return };
        if !self.may_look_at(self.pickle.pairs(state).map_or(0, <[_]>::len)) {
            return;
        }
        for (key, value) in entries(self.pickle, state) {
            match key.as_str() {
                // OmegaConf's nodes hold their contents here, and their surroundings beside.
                "_content" | "_val" => self.collect(name, value, depth + 1),
                "_metadata" | "_parent" | "_flags_cache" | "_parameters" | "_buffers" => {}
                "_modules" => self.entries(name, value, depth),
                _ => self.collect(&join(name, &key), value, depth + 1),
            }
        }
    }
}

/// The class of one of EDM's persistent objects.
pub(crate) fn class_name(pickle: &Pickle, id: Id) -> Option<String> {
    let args = pickle.args(id)?;
    let described = pickle.class(id)?.ends_with("persistence._reconstruct_persistent_obj");
    let class = described.then(|| pickle.entry(*args.first()?, "class_name")).flatten()?;
    pickle.text(class).map(ToString::to_string)
}

/// A group of an optimizer's settings as JSON: its plain values, and lists of them.
pub(crate) fn settings(pickle: &Pickle, id: Id) -> Json {
    let plain = |value: Id| match pickle.items(value) {
        Some(items) => items.iter().map(|&item| short_scalar(pickle, item)).collect::<Option<_>>().map(Json::Array),
        None => scalar(pickle, value),
    };
    entries(pickle, id).into_iter().filter_map(|(key, value)| Some((key, plain(value)?))).collect::<Map<_, _>>().into()
}

/// Of a list: long texts in lists would add up.
fn short_scalar(pickle: &Pickle, id: Id) -> Option<Json> {
    scalar(pickle, id).filter(|value| value.as_str().is_none_or(|text| text.len() <= 256))
}

fn scalar(pickle: &Pickle, id: Id) -> Option<Json> {
    Some(match pickle.get(id) {
        Value::None => Json::Null,
        Value::Bool(b) => json!(b),
        Value::Int(n) => json!(n),
        Value::Float(x) if x.is_finite() => json!(x),
        // JSON has no such numbers.
        Value::Float(x) => json!(if x.is_nan() {
            "nan"
        } else if *x > 0.0 {
            "inf"
        } else {
            "-inf"
        }),
        Value::Text(text) if text.len() <= MAX_TEXT => json!(pickle.text(id)?),
        _ => return None,
    })
}
