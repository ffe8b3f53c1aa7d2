//! Python's pickle format as data. Nothing in a pickle is executed or imported: a name is a name, a call is a note of what would
//! have been called with what.

mod known;
mod machine;
mod scan;

use bytes::Bytes;

use super::budget::Budget;

/// A value's number in its pickle.
pub(crate) type Id = u32;

/// A value. Containers name their contents by number, so that shared and cyclic ones need no care.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: little-endian, two's complement.
    Long(Bytes),
    Float(f64),
    /// UTF-8.
    Text(Bytes),
    Bytes(Bytes),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Set(Vec<Id>),
    /// As written: a later entry replaces an earlier one of the same key.
    Dict(Vec<(Id, Id)>),
    /// `module.name`.
    Global(Box<str>),
    /// What a call of something unknown would have made.
    Object(Box<Object>),
    /// A reference to something outside the pickle.
    Persistent(Id),
}

/// An object that was never made: the parts it would have been made from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    /// The class or function.
    pub class: Id,
    /// Its arguments, a tuple.
    pub args: Id,
    /// What its `__setstate__` would have been given.
    pub state: Option<Id>,
    /// What would have been appended to it.
    pub items: Vec<Id>,
    /// What would have been set in it.
    pub pairs: Vec<(Id, Id)>,
}

/// A pickle that has been read.
#[derive(Debug)]
pub(crate) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    /// Reads one pickle of protocols 0 to 5 from the beginning of `source`, and says how many bytes it took.
    ///
    /// # Errors
    /// If it is damaged, claims more than `budget`, or names something that can only serve an attack.
    pub(crate) fn read(source: &Bytes, budget: &mut Budget) -> Result<(Self, usize), String> {
        machine::Machine::new(source, budget).run()
    }

    /// The outermost value.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// How many values there are; their numbers run from 0.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// A value by its number.
    pub(crate) fn get(&self, id: Id) -> &Value {
        self.values.get(id as usize).unwrap_or(&Value::None)
    }

    /// A text.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// Whether a value is this text.
    fn is_text(&self, id: Id, text: &str) -> bool {
        matches!(self.get(id), Value::Text(bytes) if bytes == text.as_bytes())
    }

    /// A whole number.
    pub(crate) fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The contents of a list or tuple.
    pub(crate) fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dictionary, or of an object that behaves as one.
    pub(crate) fn pairs(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(pairs) => Some(pairs),
            Value::Object(object) if !object.pairs.is_empty() => Some(&object.pairs),
            _ => None,
        }
    }

    /// The entry of a dictionary (or of an object that behaves as one) under a text; the last one written.
    pub(crate) fn entry(&self, id: Id, key: &str) -> Option<Id> {
        self.pairs(id)?.iter().rev().find(|(k, _)| self.is_text(*k, key)).map(|(_, v)| *v)
    }

    /// An object that was never made.
    pub(crate) fn object(&self, id: Id) -> Option<&Object> {
        match self.get(id) {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The `module.name` of a class, of a function, or of what an object would have been made by.
    pub(crate) fn class(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Global(name) => Some(name),
            Value::Object(object) => match self.get(object.class) {
                Value::Global(name) => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// The arguments of an object that would have been made by a call.
    pub(crate) fn args(&self, id: Id) -> Option<&[Id]> {
        self.items(self.object(id)?.args)
    }
}

#[cfg(test)]
mod tests;
