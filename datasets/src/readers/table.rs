//! Text tables: JSON lines, CSV, and CelebA's lists.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde_json::Value;

use crate::dataset::Metadata;
use crate::listing::{Index, Texts};
use crate::readers::files;
use crate::{Error, Result};

/// No line is longer.
const MAX_LINE: u64 = 64 << 20;

/// Hands over one object a line; empty lines are passed. The file is not held in memory.
pub(crate) fn each_json_line(path: &Path, mut each: impl FnMut(Metadata) -> Result<()>) -> Result<()> {
    let bad = |n: usize, why: &dyn std::fmt::Display| Error::file(path, format!("line {n}: {why}"));
    let mut file = BufReader::new(File::open(path).map_err(|e| Error::file(path, e))?);
    let mut line = Vec::new();
    for n in 1.. {
        line.clear();
        let read = file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(|e| bad(n, &e))?;
        if read == 0 {
            break;
        }
        let start = if n == 1 && line.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        if !line[start..].trim_ascii().is_empty() {
            each(serde_json::from_slice(&line[start..]).map_err(|e| bad(n, &e))?)?;
        }
    }
    Ok(())
}

/// Hands over the rows below a header line, with standard quoting (RFC 4180); integers become numbers, empty fields null.
pub(crate) fn each_csv_row(path: &Path, mut each: impl FnMut(Metadata) -> Result<()>) -> Result<()> {
    let mut header: Option<Vec<String>> = None;
    let mut n = 0;
    each_csv(&files::read_text(path)?, &mut |row| {
        let Some(header) = &header else {
            header = Some(row);
            return Ok(());
        };
        n += 1;
        if row.len() != header.len() {
            return Err(Error::file(path, format!("row {n}: expected {} fields, got {}", header.len(), row.len())));
        }
        each(header.iter().cloned().zip(row.into_iter().map(to_value)).collect())
    })
    .and_then(|closed| if closed { Ok(()) } else { Err(Error::file(path, "a quote is not closed")) })
}

fn to_value(field: String) -> Value {
    match field.parse::<i64>() {
        _ if field.is_empty() => Value::Null,
        Ok(number) => number.into(),
        Err(_) => field.into(),
    }
}

/// Hands over rows, but for empty ones; answers whether every quote was closed.
fn each_csv(text: &str, each: &mut dyn FnMut(Vec<String>) -> Result<()>) -> Result<bool> {
    let (mut row, mut field) = (Vec::new(), String::new());
    let mut quoted = false;
    let mut end_row = |row: &mut Vec<String>| {
        let row = std::mem::take(row);
        if row.iter().any(|f| !f.is_empty()) { each(row) } else { Ok(()) }
    };
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            _ if quoted => field.push(c),
            ',' => row.push(std::mem::take(&mut field)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                row.push(std::mem::take(&mut field));
                end_row(&mut row)?;
            }
            _ => field.push(c),
        }
    }
    row.push(field);
    end_row(&mut row)?;
    Ok(!quoted)
}

/// A list of binary attributes as CelebA publishes it.
pub(crate) struct Attributes {
    /// Column names.
    pub(crate) names: Vec<String>,
    /// File names, in order.
    pub(crate) files: Texts,
    /// One bit a value, row after row, each row from a new word: set for 1, clear for -1.
    bits: Vec<u64>,
}

impl Attributes {
    /// Reads the number of rows, the names, then a file name and values of 1 or -1 a row. Errors if they disagree.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = files::read_text(path)?;
        let bad = |why: String| Error::file(path, why);
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default().trim();
        let count: usize = head.parse().map_err(|_| bad(format!("line 1: expected the number of rows, got `{head}`")))?;
        let names: Vec<String> = lines.next().unwrap_or_default().split_whitespace().map(str::to_string).collect();
        let mut list = Self { names, files: Texts::default(), bits: Vec::new() };
        for (n, line) in lines.enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            list.row(line).map_err(|why| bad(format!("line {}: {why}", n + 3)))?;
        }
        if list.files.len() != count {
            return Err(bad(format!("line 1 says {count} rows, there are {}", list.files.len())));
        }
        Ok(list)
    }

    fn row(&mut self, line: &str) -> std::result::Result<(), String> {
        let mut fields = line.split_whitespace();
        self.files.push(fields.next().unwrap_or_default());
        let start = self.bits.len();
        self.bits.resize(start + self.words(), 0);
        let mut n = 0;
        for value in fields {
            match value {
                "1" if n < self.names.len() => self.bits[start + n / 64] |= 1 << (n % 64),
                "1" | "-1" => {}
                other => return Err(format!("expected 1 or -1, got `{other}`")),
            }
            n += 1;
        }
        if n == self.names.len() { Ok(()) } else { Err(format!("expected {} values, got {n}", self.names.len())) }
    }

    fn words(&self) -> usize {
        self.names.len().div_ceil(64)
    }

    /// The values of row `i`, 1 or -1.
    pub(crate) fn values(&self, i: usize) -> Vec<i8> {
        let row = &self.bits[i * self.words()..];
        (0..self.names.len()).map(|n| if row[n / 64] >> (n % 64) & 1 == 1 { 1 } else { -1 }).collect()
    }
}

/// Rows of a name and a whole number.
#[derive(Default)]
pub(crate) struct Pairs {
    names: Texts,
    index: Index,
    numbers: Vec<u32>,
}

impl Pairs {
    /// Errors if a row is anything else, or a number is `limit` or higher.
    pub(crate) fn read(path: &Path, limit: u32) -> Result<Self> {
        let mut pairs = Self::default();
        let text = files::read_text(path)?;
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let mut fields = line.split_whitespace();
            let parsed = match (fields.next(), fields.next(), fields.next()) {
                (Some(name), Some(number), None) => Some(name).zip(number.parse().ok().filter(|n| *n < limit)),
                _ => None,
            };
            let expected = || format!("line {}: expected a file name and a number below {limit}, got `{line}`", n + 1);
            let (name, number) = parsed.ok_or_else(|| Error::file(path, expected()))?;
            pairs.names.push(name);
            pairs.numbers.push(number);
        }
        pairs.index = Index::of(&pairs.names);
        Ok(pairs)
    }

    pub(crate) fn get(&self, name: &str) -> Option<u32> {
        self.index.find(&self.names, name).map(|i| self.numbers[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quoting() {
        let mut rows = Vec::new();
        let mut keep = |row| {
            rows.push(row);
            Ok(())
        };
        assert!(each_csv("a,b\r\n\"x, \"\"y\"\"\n2\",3\n\n,z", &mut keep).unwrap_or(false));
        assert_eq!(rows, [vec!["a", "b"], vec!["x, \"y\"\n2", "3"], vec!["", "z"]]);
        assert!(!each_csv("\"open", &mut |_| Ok(())).unwrap_or(true));
    }
}
