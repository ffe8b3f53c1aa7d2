//! The part of Python's pickle format that holds data: numbers, texts, lists, tables and numpy arrays of bytes or float64.
//! Nothing in a pickle is executed: a name is only compared with the few that are known.

/// A value; lists and tables refer to other values by their number.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    None,
    Int(i64),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<usize>),
    Table(Vec<(usize, usize)>),
    Global(String),
    /// A numpy array: shape and content, once it has been built.
    Array(Vec<usize>, usize),
    /// An object without meaning here, such as a dtype: the name it was made by.
    Opaque,
}

/// A pickle that has been read.
pub(crate) struct Pickle {
    values: Vec<Value>,
    root: usize,
}

impl Pickle {
    /// Reads a pickle of protocols 0 to 5. Errors name the first thing that is not data.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: Vec::new() };
        let root = machine.run()?;
        Ok(Self { values: machine.values, root })
    }

    /// The entry `key` of the outermost table.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.find(&[key])
    }

    /// The value that a way of keys leads to, through tables in tables.
    pub(crate) fn find(&self, way: &[&str]) -> Option<&Value> {
        way.iter().try_fold(&self.values[self.root], |value, key| {
            let Value::Table(pairs) = value else { return None };
            pairs.iter().find(|(k, _)| self.text(*k).is_some_and(|t| t == *key)).map(|&(_, v)| &self.values[v])
        })
    }

    fn text(&self, i: usize) -> Option<String> {
        match &self.values[i] {
            Value::Text(text) => Some(text.clone()),
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// A list of texts.
    pub(crate) fn texts(&self, value: &Value) -> Option<Vec<String>> {
        let Value::List(items) = value else { return None };
        items.iter().map(|&i| self.text(i)).collect()
    }

    /// A list of whole numbers.
    pub(crate) fn numbers(&self, value: &Value) -> Option<Vec<i64>> {
        let Value::List(items) = value else { return None };
        let number = |&i: &usize| if let Value::Int(n) = self.values[i] { Some(n) } else { None };
        items.iter().map(number).collect()
    }

    /// Shape and content of an array.
    pub(crate) fn array<'a>(&'a self, value: &'a Value) -> Option<(&'a [usize], &'a [u8])> {
        let Value::Array(shape, content) = value else { return None };
        match &self.values[*content] {
            Value::Bytes(bytes) => Some((shape, bytes)),
            _ => None,
        }
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<usize>,
    marks: Vec<usize>,
    memo: Vec<Option<usize>>,
}

const CUT: &str = "the pickle is cut";
/// More remembered values than any batch has.
const MAX_MEMO: usize = 1 << 24;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<usize, String> {
        loop {
            let op = self.take(1)?[0];
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    fn step(&mut self, op: u8) -> Result<(), String> {
        match op {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'2' => self.stack.push(*self.stack.last().ok_or(CUT)?),
            b'p' | b'q' | b'r' | 0x94 | b'g' | b'h' | b'j' => return self.remember(op),
            b'R' | b'b' | b'a' | b'e' | b's' | b'u' | b'c' | 0x93 => return self.build(op),
            _ => {
                let value = match op {
                    b'N' => Value::None,
                    b'I' | b'J' | b'K' | b'M' | b'L' | 0x88..=0x8b => self.integer(op)?,
                    b'G' => self.take(8).map(|_| Value::Opaque)?,
                    b'F' => self.line().map(|_| Value::Opaque)?,
                    b']' | b')' => Value::List(Vec::new()),
                    b'l' | b't' => Value::List(self.pop_mark()?),
                    0x85..=0x87 => Value::List(self.pop_many(usize::from(op) - 0x84)?),
                    b'}' => Value::Table(Vec::new()),
                    b'd' => Value::Table(pairs(&self.pop_mark()?)),
                    _ => self.string(op)?,
                };
                self.push(value);
            }
        }
        Ok(())
    }

    fn integer(&mut self, op: u8) -> Result<Value, String> {
        let number = match op {
            b'J' => i64::from(i32::from_le_bytes(self.array::<4>()?)),
            b'K' => i64::from(self.take(1)?[0]),
            b'M' => i64::from(u16::from_le_bytes(self.array::<2>()?)),
            0x88 => 1,
            0x89 => 0,
            0x8a => {
                let n = usize::from(self.take(1)?[0]);
                signed(self.take(n)?).ok_or("a number of more than 64 bits")?
            }
            b'I' | b'L' => {
                let line = self.line()?;
                line.trim_end_matches('L').parse().map_err(|_| format!("`{line}` is no number"))?
            }
            _ => return Err(format!("opcode {op:#04x} is not data")),
        };
        Ok(Value::Int(number))
    }

    fn string(&mut self, op: u8) -> Result<Value, String> {
        let length = match op {
            b'U' | b'C' | 0x8c => u64::from(self.take(1)?[0]),
            b'T' | b'B' | b'X' => u64::from(u32::from_le_bytes(self.array::<4>()?)),
            0x8d | 0x8e | 0x96 => u64::from_le_bytes(self.array::<8>()?),
            b'S' => {
                let line = self.line()?;
                let inner = line.get(1..line.len().saturating_sub(1)).unwrap_or_default();
                return Ok(Value::Bytes(inner.as_bytes().to_vec()));
            }
            b'V' => return Ok(Value::Text(self.line()?)),
            _ => return Err(format!("opcode {op:#04x} is not data")),
        };
        let bytes = self.take(usize::try_from(length).map_err(|e| e.to_string())?)?;
        match op {
            b'X' | 0x8c | 0x8d => String::from_utf8(bytes.to_vec()).map(Value::Text).map_err(|e| e.to_string()),
            _ => Ok(Value::Bytes(bytes.to_vec())),
        }
    }

    fn remember(&mut self, op: u8) -> Result<(), String> {
        let place = match op {
            b'p' | b'g' => self.line()?.parse().map_err(|_| CUT)?,
            b'q' | b'h' => usize::from(self.take(1)?[0]),
            0x94 => self.memo.len(),
            _ => u32::from_le_bytes(self.array::<4>()?) as usize,
        };
        if matches!(op, b'g' | b'h' | b'j') {
            let value = self.memo.get(place).copied().flatten().ok_or("a reference to nothing")?;
            self.stack.push(value);
            return Ok(());
        }
        if place > MAX_MEMO {
            return Err(format!("place {place} of the memo: refused"));
        }
        if place >= self.memo.len() {
            self.memo.resize(place + 1, None);
        }
        self.memo[place] = self.stack.last().copied();
        Ok(())
    }

    fn build(&mut self, op: u8) -> Result<(), String> {
        match op {
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?);
                self.push(Value::Global(name));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (&self.values[module], &self.values[name]) else {
                    return Err("a global without a name".into());
                };
                let name = format!("{module}.{name}");
                self.push(Value::Global(name));
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let value = self.call(function, arguments)?;
                self.push(value);
            }
            b'b' => {
                let state = self.pop()?;
                let object = *self.stack.last().ok_or(CUT)?;
                self.set_state(object, state)?;
            }
            b'a' | b'e' => {
                let items = if op == b'a' { vec![self.pop()?] } else { self.pop_mark()? };
                let list = *self.stack.last().ok_or(CUT)?;
                let Value::List(known) = &mut self.values[list] else { return Err("append to what is no list".into()) };
                known.extend(items);
            }
            _ => {
                let items = if op == b's' { self.pop_many(2)? } else { self.pop_mark()? };
                let table = *self.stack.last().ok_or(CUT)?;
                let Value::Table(known) = &mut self.values[table] else { return Err("an entry of what is no table".into()) };
                known.extend(pairs(&items));
            }
        }
        Ok(())
    }

    /// The few functions whose results are data.
    fn call(&mut self, function: usize, arguments: usize) -> Result<Value, String> {
        let Value::Global(name) = &self.values[function] else { return Err("a call of what is no function".into()) };
        let name = name.replace("numpy._core.", "numpy.core.");
        let arguments = match &self.values[arguments] {
            Value::List(items) => items.clone(),
            _ => return Err("arguments that are no tuple".into()),
        };
        match (name.as_str(), arguments.as_slice()) {
            ("numpy.core.multiarray._reconstruct", _) => Ok(Value::Array(Vec::new(), usize::MAX)),
            ("numpy.dtype", [kind, ..]) => self.known_numbers(*kind),
            // Bytes of Python 3 in the protocols of Python 2: each character is a byte.
            ("_codecs.encode", [text, _]) => match &self.values[*text] {
                Value::Text(text) => {
                    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                    bytes.map(Value::Bytes).ok_or_else(|| "a text that is not latin-1".into())
                }
                _ => Err("`_codecs.encode` of what is no text".into()),
            },
            ("__builtin__.bytes" | "builtins.bytes", []) => Ok(Value::Bytes(Vec::new())),
            ("numpy.core.numeric._frombuffer", [content, _, shape, _]) => Ok(Value::Array(self.shape(*shape)?, *content)),
            _ => Err(format!("`{name}` is not data")),
        }
    }

    /// Arrays of bytes are what pictures come in, those of float64 what is measured of them.
    fn known_numbers(&self, kind: usize) -> Result<Value, String> {
        let name = match &self.values[kind] {
            Value::Text(text) => text.clone(),
            Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        };
        match name.as_str() {
            "u1" | "|u1" | "f8" | "<f8" => Ok(Value::Opaque),
            _ => Err(format!("an array of `{name}`: expected u1 or f8")),
        }
    }

    fn set_state(&mut self, object: usize, state: usize) -> Result<(), String> {
        let Value::Array(..) = self.values[object] else { return Ok(()) };
        let Value::List(parts) = self.values[state].clone() else { return Err("an array without a state".into()) };
        let [.., shape, _, order, content] = parts.as_slice() else { return Err("an array without a shape".into()) };
        if !matches!(self.values[*order], Value::Int(0)) {
            return Err("an array in column order".into());
        }
        self.values[object] = Value::Array(self.shape(*shape)?, *content);
        Ok(())
    }

    fn shape(&self, i: usize) -> Result<Vec<usize>, String> {
        let Value::List(items) = &self.values[i] else { return Err("an array without a shape".into()) };
        let size = |&i: &usize| if let Value::Int(n) = self.values[i] { usize::try_from(n).ok() } else { None };
        items.iter().map(size).collect::<Option<_>>().ok_or_else(|| "an array with a strange shape".into())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<usize, String> {
        self.stack.pop().ok_or_else(|| CUT.into())
    }

    fn pop_many(&mut self, n: usize) -> Result<Vec<usize>, String> {
        let start = self.stack.len().checked_sub(n).ok_or(CUT)?;
        Ok(self.stack.split_off(start))
    }

    fn pop_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self.marks.pop().filter(|&m| m <= self.stack.len()).ok_or(CUT)?;
        Ok(self.stack.split_off(mark))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let taken = self.at.checked_add(n).and_then(|end| self.bytes.get(self.at..end)).ok_or(CUT)?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.first_chunk().copied().ok_or_else(|| CUT.into())
    }

    fn line(&mut self) -> Result<String, String> {
        let length = self.bytes[self.at..].iter().position(|&b| b == b'\n').ok_or(CUT)?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(line)
    }
}

fn pairs(items: &[usize]) -> Vec<(usize, usize)> {
    items.chunks_exact(2).map(|p| (p[0], p[1])).collect()
}

/// A little-endian number in two's complement.
fn signed(bytes: &[u8]) -> Option<i64> {
    let (&last, n) = (bytes.last().unwrap_or(&0), bytes.len());
    let fill = if last >= 0x80 { 0xFF } else { 0 };
    (n <= 8).then(|| i64::from_le_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(fill))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_read_and_code_is_not() {
        let table = b"\x80\x02}q\x00(U\x01a]q\x01(K\x01K\x02eX\x01\x00\x00\x00bJ\xff\xff\xff\xffu.";
        let pickle = Pickle::read(table).unwrap_or_else(|e| unreachable!("{e}"));
        assert_eq!(pickle.get("a").and_then(|v| pickle.numbers(v)), Some(vec![1, 2]));
        assert!(matches!(pickle.get("b"), Some(Value::Int(-1))));
        let code = Pickle::read(b"cos\nsystem\n(S'true'\ntR.").err();
        assert!(code.is_some_and(|e| e.contains("os.system")));
        for len in 0..table.len() {
            assert!(Pickle::read(&table[..len]).is_err());
        }
    }
}
