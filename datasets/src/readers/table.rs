//! Text tables: JSON lines, CSV, and CelebA's lists.

use std::path::Path;

use serde_json::Value;

use crate::dataset::Metadata;
use crate::readers::files;
use crate::{Error, Result};

/// One object a line; empty lines are passed.
pub(crate) fn read_json_lines(path: &Path) -> Result<Vec<Metadata>> {
    let text = files::read_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(n, line)| serde_json::from_str(line).map_err(|e| Error::file(path, format!("line {}: {e}", n + 1)))).collect()
}

/// A header line and rows, with standard quoting (RFC 4180); integers become numbers, empty fields null.
pub(crate) fn read_csv(path: &Path) -> Result<Vec<Metadata>> {
    let mut rows = csv(&files::read_text(path)?).map_err(|why| Error::file(path, why))?.into_iter();
    let header = rows.next().unwrap_or_default();
    let mut found = Vec::new();
    for (n, row) in rows.enumerate() {
        if row.len() != header.len() {
            return Err(Error::file(path, format!("row {}: expected {} fields, got {}", n + 1, header.len(), row.len())));
        }
        found.push(header.iter().cloned().zip(row.into_iter().map(to_value)).collect());
    }
    Ok(found)
}

fn to_value(field: String) -> Value {
    match field.parse::<i64>() {
        _ if field.is_empty() => Value::Null,
        Ok(number) => number.into(),
        Err(_) => field.into(),
    }
}

fn csv(text: &str) -> std::result::Result<Vec<Vec<String>>, String> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
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
                rows.push(std::mem::take(&mut row));
            }
            _ => field.push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push(row);
    }
    rows.retain(|row| row.iter().any(|f| !f.is_empty()));
    Ok(rows)
}

/// A list of binary attributes as CelebA publishes it.
pub(crate) struct Attributes {
    /// Column names.
    pub(crate) names: Vec<String>,
    /// File names, in order.
    pub(crate) files: Vec<String>,
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
        let mut list = Self { names, files: Vec::new(), bits: Vec::new() };
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
        self.files.push(fields.next().unwrap_or_default().to_string());
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

/// Rows of a name and a whole number. Errors if a row is anything else.
pub(crate) fn read_pairs(path: &Path) -> Result<Vec<(String, u64)>> {
    let text = files::read_text(path)?;
    let rows = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    rows.map(|(n, line)| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [name, number] => number.parse().ok().map(|number| (name.to_string(), number)),
            _ => None,
        }
        .ok_or_else(|| Error::file(path, format!("line {}: expected a file name and a number, got `{line}`", n + 1)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_quoting() {
        let rows = csv("a,b\r\n\"x, \"\"y\"\"\n2\",3\n\n,z").unwrap_or_default();
        assert_eq!(rows, [vec!["a", "b"], vec!["x, \"y\"\n2", "3"], vec!["", "z"]]);
        assert!(csv("\"open").is_err());
    }
}
