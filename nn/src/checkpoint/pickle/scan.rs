//! Bytes of a pickle, one after the other, and the texts and numbers in them. Every length is checked before it is used.

use bytes::Bytes;

use super::Value;

pub(super) const CUT: &str = "the pickle is cut short";

/// A place in the bytes of a pickle.
pub(super) struct Scan<'a> {
    source: &'a Bytes,
    at: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(source: &'a Bytes) -> Self {
        Self { source, at: 0 }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next `n` bytes, not copied.
    pub(super) fn take(&mut self, n: usize) -> Result<Bytes, String> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.source.len()).ok_or(CUT)?;
        let taken = self.source.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, String> {
        let byte = *self.source.get(self.at).ok_or(CUT)?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let rest = self.source.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).ok_or(CUT)?;
        self.at += N;
        Ok(*rest)
    }

    /// A length of 8 bytes, which must lie within what is left.
    pub(super) fn length(&mut self) -> Result<usize, String> {
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).ok().filter(|&n| n <= self.source.len() - self.at).ok_or_else(|| CUT.to_string())
    }

    /// Up to the next line break, which is passed over.
    pub(super) fn line(&mut self) -> Result<Bytes, String> {
        let rest = self.source.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&b| b == b'\n').ok_or(CUT)?;
        let line = self.take(length)?;
        self.at += 1;
        Ok(line)
    }

    pub(super) fn text_line(&mut self) -> Result<String, String> {
        let line = self.line()?;
        String::from_utf8(line.into()).map_err(|_| "a line that is not UTF-8".to_string())
    }
}

/// Checked UTF-8.
pub(super) fn text(bytes: Bytes) -> Result<Value, String> {
    match std::str::from_utf8(&bytes) {
        Ok(_) => Ok(Value::Text(bytes)),
        Err(_) => Err("a text that is not UTF-8".to_string()),
    }
}

/// A string of Python 2: text where it can be.
pub(super) fn old_string(bytes: Bytes) -> Value {
    if std::str::from_utf8(&bytes).is_ok() { Value::Text(bytes) } else { Value::Bytes(bytes) }
}

/// Little-endian, two's complement.
pub(super) fn long(bytes: Bytes) -> Value {
    let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
    if bytes.len() > 8 {
        return Value::Long(bytes);
    }
    Value::Int(i64::from_le_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(fill))))
}

/// A number in digits, as protocol 0 writes it; `01` and `00` are its booleans.
pub(super) fn decimal(line: &str) -> Result<Value, String> {
    match line.trim_end_matches('L') {
        "01" => Ok(Value::Bool(true)),
        "00" => Ok(Value::Bool(false)),
        // More than 64 bits in digits: nothing that a checkpoint needs, kept as it is written.
        digits if digits.len() > 18 && digits.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) => match digits.parse()
        {
            Ok(n) => Ok(Value::Int(n)),
            Err(_) => Ok(Value::Text(Bytes::copy_from_slice(digits.as_bytes()))),
        },
        digits => digits.parse().map(Value::Int).map_err(|_| format!("`{}` is no number", short(digits))),
    }
}

/// The inside of a quoted string of protocol 0 with its escapes resolved.
pub(super) fn quoted(line: &[u8]) -> Result<Vec<u8>, String> {
    let inner = match line {
        [open @ (b'\'' | b'"'), inner @ .., close] if open == close => inner,
        _ => return Err("a string without quotes".to_string()),
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let escaped = bytes.next().ok_or("a string that ends in a backslash")?;
        match escaped {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'x' => out.push((hex(bytes.next())? << 4) | hex(bytes.next())?),
            b'\\' | b'\'' | b'"' => out.push(escaped),
            other => out.extend([b'\\', other]),
        }
    }
    Ok(out)
}

fn hex(digit: Option<u8>) -> Result<u8, String> {
    let value = digit.and_then(|d| char::from(d).to_digit(16)).ok_or("a damaged escape in a string")?;
    Ok(value as u8)
}

/// Text of protocol 0: latin-1 with `\uXXXX` for everything beyond.
pub(super) fn raw_unicode(line: &[u8]) -> Result<String, String> {
    let (mut out, mut rest) = (String::with_capacity(line.len()), line);
    while let [first, tail @ ..] = rest {
        rest = tail;
        let width = match (first, tail.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                out.push(char::from(*first));
                continue;
            }
        };
        let digits = tail.get(1..=width).and_then(|d| std::str::from_utf8(d).ok()).ok_or("a damaged escape in a text")?;
        let code = u32::from_str_radix(digits, 16).map_err(|_| "a damaged escape in a text")?;
        out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        rest = &tail[1 + width..];
    }
    Ok(out)
}

/// What fits into a message.
pub(super) fn short(text: &str) -> String {
    text.chars().take(80).filter(|c| !c.is_control()).collect()
}
