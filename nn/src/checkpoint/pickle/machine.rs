//! The stack machine that a pickle is a program for, reduced to the operations that build data.

use std::collections::HashMap;

use bytes::Bytes;

use super::{
    Id, Object, Pickle, Value,
    known::{self, Maker},
    scan::{self, CUT, Scan},
};
use crate::checkpoint::budget::Budget;

/// A place on the stack or a value in a list. A vector grows to twice what it holds, beside the one that it moves out of.
const SLOT: usize = 3 * size_of::<Id>();
const PAIR: usize = 3 * size_of::<(Id, Id)>();
const VALUE: usize = 3 * size_of::<Value>();
/// An entry of the memo with its share of the table.
const MEMO: usize = 24;

const HIGHEST_PROTOCOL: u8 = 5;

pub(super) struct Machine<'a, 'b> {
    scan: Scan<'a>,
    budget: &'b mut Budget,
    pub(super) values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at its open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a, 'b> Machine<'a, 'b> {
    pub(super) fn new(source: &'a Bytes, budget: &'b mut Budget) -> Self {
        let (scan, values) = (Scan::new(source), Vec::new());
        Self { scan, budget, values, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() }
    }

    pub(super) fn run(mut self) -> Result<(Pickle, usize), String> {
        loop {
            let at = self.scan.at();
            let op = self.scan.byte()?;
            if op == b'.' {
                let root = self.pop()?;
                return Ok((Pickle { values: self.values, root }, self.scan.at()));
            }
            self.step(op).map_err(|why| format!("pickle, byte {at}: {why}"))?;
        }
    }

    fn step(&mut self, op: u8) -> Result<(), String> {
        match op {
            0x80 => self.protocol(),
            0x95 => self.scan.length().map(drop),
            b'(' => self.mark(),
            b'0' => self.discard(),
            b'1' => self.pop_mark().map(drop),
            b'2' => self.top().and_then(|top| self.push_id(top)),
            b'p' | b'q' | b'r' | 0x94 => self.put(op),
            b'g' | b'h' | b'j' => self.recall(op),
            b'a' | b'e' | 0x90 => self.append(op),
            b's' | b'u' => self.set_items(op),
            b'b' => self.build(),
            b'c' | 0x93 | b'i' | b'o' | b'R' | 0x81 | 0x92 | 0x82..=0x84 => self.construct(op),
            b'N' | 0x88 | 0x89 | b'I' | b'L' | b'J' | b'K' | b'M' | 0x8a | 0x8b | b'F' | b'G' => {
                self.number(op).and_then(|v| self.push(v))
            }
            b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e | 0x96 => {
                self.string(op).and_then(|v| self.push(v))
            }
            b']' | b')' | b'}' | 0x8f | b'l' | b't' | b'd' | 0x85..=0x87 | 0x91 | b'P' | b'Q' => {
                self.container(op).and_then(|v| self.push(v))
            }
            0x97 | 0x98 => Err("its buffers lie outside of it".to_string()),
            _ => Err(format!("opcode {op:#04x} is none")),
        }
    }

    fn protocol(&mut self) -> Result<(), String> {
        match self.scan.byte()? {
            n if n <= HIGHEST_PROTOCOL => Ok(()),
            n => Err(format!("protocol {n}: expected at most {HIGHEST_PROTOCOL}")),
        }
    }

    fn mark(&mut self) -> Result<(), String> {
        self.budget.claim(2 * size_of::<usize>())?;
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Takes the top of the stack away, a mark included.
    fn discard(&mut self) -> Result<(), String> {
        if self.marks.last() == Some(&self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn put(&mut self, op: u8) -> Result<(), String> {
        let place = match op {
            b'p' => number_of(&self.scan.text_line()?)?,
            b'q' => u32::from(self.scan.byte()?),
            b'r' => u32::from_le_bytes(self.scan.array()?),
            _ => u32::try_from(self.memo.len()).map_err(|_| "the memo is full")?,
        };
        let top = self.top()?;
        if self.memo.insert(place, top).is_none() {
            self.budget.claim(MEMO)?;
        }
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Result<(), String> {
        let place = match op {
            b'g' => number_of(&self.scan.text_line()?)?,
            b'h' => u32::from(self.scan.byte()?),
            _ => u32::from_le_bytes(self.scan.array()?),
        };
        let id = *self.memo.get(&place).ok_or_else(|| format!("place {place} of the memo is empty"))?;
        self.push_id(id)
    }

    fn number(&mut self, op: u8) -> Result<Value, String> {
        Ok(match op {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'I' | b'L' => scan::decimal(self.scan.text_line()?.trim())?,
            b'J' => Value::Int(i64::from(i32::from_le_bytes(self.scan.array()?))),
            b'K' => Value::Int(i64::from(self.scan.byte()?)),
            b'M' => Value::Int(i64::from(u16::from_le_bytes(self.scan.array()?))),
            0x8a => {
                let n = usize::from(self.scan.byte()?);
                scan::long(self.scan.take(n)?)
            }
            0x8b => {
                let n = usize::try_from(i32::from_le_bytes(self.scan.array()?)).map_err(|_| "a negative length")?;
                scan::long(self.scan.take(n)?)
            }
            b'G' => Value::Float(f64::from_be_bytes(self.scan.array()?)),
            _ => {
                let line = self.scan.text_line()?;
                Value::Float(line.trim().parse().map_err(|_| format!("`{}` is no number", scan::short(&line)))?)
            }
        })
    }

    fn string(&mut self, op: u8) -> Result<Value, String> {
        if op == b'S' {
            let line = scan::quoted(&self.scan.line()?)?;
            self.budget.claim(line.len())?;
            return Ok(scan::old_string(line.into()));
        }
        if op == b'V' {
            let line = scan::raw_unicode(&self.scan.line()?)?;
            self.budget.claim(line.len())?;
            return Ok(Value::Text(line.into()));
        }
        let length = match op {
            b'U' | b'C' | 0x8c => usize::from(self.scan.byte()?),
            b'T' | b'B' | b'X' => u32::from_le_bytes(self.scan.array()?) as usize,
            _ => self.scan.length()?,
        };
        let bytes = self.scan.take(length)?;
        match op {
            b'X' | 0x8c | 0x8d => scan::text(bytes),
            b'T' | b'U' => Ok(scan::old_string(bytes)),
            _ => Ok(Value::Bytes(bytes)),
        }
    }

    fn container(&mut self, op: u8) -> Result<Value, String> {
        Ok(match op {
            b']' => Value::List(Vec::new()),
            b')' => Value::Tuple(Vec::new()),
            b'}' => Value::Dict(Vec::new()),
            0x8f => Value::Set(Vec::new()),
            b'l' => Value::List(self.pop_mark()?),
            b't' => Value::Tuple(self.pop_mark()?),
            0x91 => Value::Set(self.pop_mark()?),
            b'd' => Value::Dict(pairs(&self.pop_mark()?)?),
            b'Q' => Value::Persistent(self.pop()?),
            b'P' => {
                let text = self.scan.line()?;
                Value::Persistent(self.add(scan::old_string(text))?)
            }
            _ => {
                let items = self.pop_many(usize::from(op) - 0x84)?;
                self.budget.claim(items.len() * SLOT)?;
                Value::Tuple(items)
            }
        })
    }

    fn append(&mut self, op: u8) -> Result<(), String> {
        let items = if op == b'a' { vec![self.pop()?] } else { self.pop_mark()? };
        self.budget.claim(items.len() * SLOT)?;
        match self.top_value()? {
            Value::List(list) | Value::Set(list) => list.extend(items),
            Value::Object(object) => object.items.extend(items),
            Value::Global(_) | Value::Persistent(_) => {}
            _ => return Err("items for what is no list".to_string()),
        }
        Ok(())
    }

    fn set_items(&mut self, op: u8) -> Result<(), String> {
        let items = if op == b's' { self.pop_many(2)? } else { self.pop_mark()? };
        let entries = pairs(&items)?;
        self.budget.claim(entries.len() * PAIR)?;
        match self.top_value()? {
            Value::Dict(dict) => dict.extend(entries),
            Value::Object(object) => object.pairs.extend(entries),
            Value::Global(_) | Value::Persistent(_) => {}
            _ => return Err("entries for what is no dictionary".to_string()),
        }
        Ok(())
    }

    /// The state of an object is noted; what else may be given one keeps nothing of it (an ordered dictionary's `_metadata`).
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        match self.top_value()? {
            Value::Object(object) => object.state = Some(state),
            Value::Dict(_) | Value::List(_) | Value::Set(_) | Value::Global(_) | Value::Persistent(_) => {}
            _ => return Err("a state for what can have none".to_string()),
        }
        Ok(())
    }

    fn construct(&mut self, op: u8) -> Result<(), String> {
        let value = match op {
            b'c' => {
                let (module, name) = (self.scan.text_line()?, self.scan.text_line()?);
                self.global(&module, &name)?
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |id: Id| match &self.values[id as usize] {
                    Value::Text(text) => Ok(String::from_utf8_lossy(text).into_owned()),
                    _ => Err("a global whose name is no text".to_string()),
                };
                let (module, name) = (text(module)?, text(name)?);
                self.global(&module, &name)?
            }
            // The registry of extensions is a program's own: what the number stands for cannot be known.
            0x82..=0x84 => {
                self.scan.take([1, 2, 4][usize::from(op - 0x82)])?;
                self.global("copyreg", "extension")?
            }
            b'i' => {
                let (module, name) = (self.scan.text_line()?, self.scan.text_line()?);
                let class = self.global(&module, &name)?;
                let (class, args) = (self.add(class)?, Value::Tuple(self.pop_mark()?));
                let args = self.add(args)?;
                self.call(class, args)?
            }
            b'o' => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(CUT.to_string());
                }
                let class = items.remove(0);
                let args = self.add(Value::Tuple(items))?;
                self.call(class, args)?
            }
            0x92 => {
                let (_keywords, args, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, args)?
            }
            _ => {
                let (args, class) = (self.pop()?, self.pop()?);
                self.call(class, args)?
            }
        };
        self.push(value)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<Value, String> {
        self.budget.claim(module.len() + name.len() + 1)?;
        known::refuse(module, name)?;
        Ok(Value::Global(format!("{module}.{name}").into()))
    }

    /// What a call would have made: data where the function is known to make data, a note of the call otherwise.
    fn call(&mut self, class: Id, args: Id) -> Result<Value, String> {
        let Value::Tuple(items) = &self.values[args as usize] else {
            return Err("arguments that are no tuple".to_string());
        };
        let maker = match &self.values[class as usize] {
            Value::Global(name) => Maker::named(name),
            Value::Object(_) | Value::Persistent(_) => None,
            _ => return Err("a call of what is no function".to_string()),
        };
        self.budget.claim(size_of::<Object>())?;
        if let Some(maker) = maker {
            self.budget.claim(items.iter().take(3).map(|&id| known::size(&self.values[id as usize])).sum())?;
            return maker.make(&self.values, items);
        }
        Ok(Value::Object(Box::new(Object { class, args, ..Object::default() })))
    }

    /// Adds a value that is not on the stack.
    fn add(&mut self, value: Value) -> Result<Id, String> {
        self.budget.claim(VALUE)?;
        let id = Id::try_from(self.values.len()).map_err(|_| "too many values")?;
        self.values.push(value);
        Ok(id)
    }

    fn push(&mut self, value: Value) -> Result<(), String> {
        let id = self.add(value)?;
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), String> {
        self.budget.claim(SLOT)?;
        self.stack.push(id);
        Ok(())
    }

    /// What lies above the last mark.
    fn height(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.last().copied().filter(|_| self.height() > 0).ok_or_else(|| UNDERFLOW.to_string())
    }

    fn top_value(&mut self) -> Result<&mut Value, String> {
        let top = self.top()?;
        self.values.get_mut(top as usize).ok_or_else(|| UNDERFLOW.to_string())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, n: usize) -> Result<Vec<Id>, String> {
        if self.height() < n {
            return Err(UNDERFLOW.to_string());
        }
        Ok(self.stack.split_off(self.stack.len() - n))
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("an end without a mark")?;
        Ok(self.stack.split_off(mark))
    }
}

const UNDERFLOW: &str = "the stack is empty";

fn number_of(line: &str) -> Result<u32, String> {
    line.trim().parse().map_err(|_| format!("`{}` is no place of the memo", scan::short(line)))
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    if !items.len().is_multiple_of(2) {
        return Err("a key without a value".to_string());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}
