//! The records of a zip archive (PKWARE APPNOTE 6.3, with ZIP64) that lies in memory, each checked against its CRC-32.

use std::{collections::BTreeMap, io::Read};

use bytes::Bytes;
use flate2::{Crc, read::DeflateDecoder};

use super::budget::Budget;

const END: &[u8] = b"PK\x05\x06";
const END64_LOCATOR: &[u8] = b"PK\x06\x07";
const END64: &[u8] = b"PK\x06\x06";
const CENTRAL: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// The end record with its longest comment.
const END_SEARCH: usize = 22 + 65_535;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// A field that says: look into the ZIP64 extension.
const ELSEWHERE: u64 = 0xFFFF_FFFF;

/// A record's place.
#[derive(Clone, Debug)]
struct Record {
    header: u64,
    packed: u64,
    unpacked: u64,
    crc: u32,
    method: u16,
}

/// An archive.
#[derive(Debug)]
pub(super) struct Zip {
    file: Bytes,
    records: BTreeMap<String, Record>,
}

impl Zip {
    /// Whether the file begins as an archive does.
    pub(super) fn is_one(file: &[u8]) -> bool {
        file.starts_with(LOCAL) || file.starts_with(END)
    }

    /// Reads the central directory.
    pub(super) fn open(file: &Bytes, budget: &mut Budget) -> Result<Self, String> {
        let (count, at, size) = directory(file)?;
        let directory = section(file, at, size).ok_or("its directory lies outside of the file")?;
        let mut records = BTreeMap::new();
        let mut rest = directory.as_ref();
        for n in 0..count {
            let (name, record, tail) = entry(rest).map_err(|why| format!("zip record {n}: {why}"))?;
            budget.claim(2 * (name.len() + size_of::<(String, Record)>()))?;
            if records.insert(name.clone(), record).is_some() {
                return Err(format!("record `{name}` is there twice"));
            }
            rest = tail;
        }
        Ok(Self { file: file.clone(), records })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.records.keys().map(String::as_str)
    }

    /// The size of a record's contents in bytes.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.records.get(name).map(|r| r.unpacked)
    }

    /// Whether a record's contents lie in the file as they are.
    pub(super) fn is_stored(&self, name: &str) -> bool {
        self.records.get(name).is_some_and(|r| r.method == STORED)
    }

    /// A record's contents, a slice of the file where they are stored as they are; compared with their CRC-32.
    pub(super) fn read(&self, name: &str, budget: &Budget) -> Result<Bytes, String> {
        let record = self.records.get(name).ok_or_else(|| format!("record `{name}` is missing"))?;
        let contents = self.contents(record, budget).map_err(|why| format!("record `{name}`: {why}"))?;
        let mut crc = Crc::new();
        crc.update(&contents);
        if crc.sum() != record.crc {
            return Err(format!("record `{name}` is damaged: CRC-32 {:08x}, expected {:08x}", crc.sum(), record.crc));
        }
        Ok(contents)
    }

    fn contents(&self, record: &Record, budget: &Budget) -> Result<Bytes, String> {
        let header = section(&self.file, record.header, 30).filter(|h| h.starts_with(LOCAL)).ok_or("it has no header")?;
        let names = u64::from(u16_at(&header, 26)) + u64::from(u16_at(&header, 28));
        let packed = section(&self.file, record.header + 30 + names, record.packed).ok_or("it lies outside of the file")?;
        if record.method == STORED {
            return if record.packed == record.unpacked { Ok(packed) } else { Err("its two sizes differ".to_string()) };
        }
        let size = usize::try_from(record.unpacked).map_err(|e| e.to_string())?;
        if !budget.allows(size) {
            return Err(format!("it would unpack to {size} bytes, much more than the file: refused"));
        }
        // Deflate cannot do better than 1032 to 1.
        if size > packed.len().saturating_mul(1032) {
            return Err(format!("it cannot unpack to {size} bytes"));
        }
        let mut contents = Vec::with_capacity(size + 1);
        // One byte more than announced, so that more is noticed.
        let read = DeflateDecoder::new(packed.as_ref()).take(record.unpacked + 1).read_to_end(&mut contents);
        read.map_err(|e| format!("it cannot be unpacked ({e})"))?;
        if contents.len() != size {
            return Err(format!("it unpacks to another size than {size} bytes"));
        }
        Ok(contents.into())
    }
}

/// Number of entries, offset and size of the central directory.
fn directory(file: &Bytes) -> Result<(u64, u64, u64), String> {
    let cut = "a zip archive that is cut short: its directory is missing";
    let from = file.len().saturating_sub(END_SEARCH);
    let tail = &file[from..];
    let fits = |&i: &usize| {
        tail[i..].starts_with(END) && tail.len() - i >= 22 && i + 22 + usize::from(u16_at(tail, i + 20)) <= tail.len()
    };
    let end = (0..tail.len()).rev().find(fits).ok_or(cut)?;
    let plain = (u64::from(u16_at(tail, end + 10)), u64::from(u32_at(tail, end + 16)), u64::from(u32_at(tail, end + 12)));
    let locator = (from + end).checked_sub(20).and_then(|at| file.get(at..)).filter(|at| at.starts_with(END64_LOCATOR));
    let Some(locator) = locator else { return Ok(plain) };
    let end64 = section(file, u64_at(locator, 8), 56).filter(|r| r.starts_with(END64)).ok_or(cut)?;
    Ok((u64_at(&end64, 32), u64_at(&end64, 48), u64_at(&end64, 40)))
}

/// An entry of the directory, and what follows it.
fn entry(bytes: &[u8]) -> Result<(String, Record, &[u8]), String> {
    let cut = "the directory is cut short";
    if !bytes.starts_with(CENTRAL) || bytes.len() < 46 {
        return Err(cut.to_string());
    }
    let [name, extra, comment] = [28, 30, 32].map(|at| usize::from(u16_at(bytes, at)));
    let text = bytes.get(46..46 + name).ok_or(cut)?;
    let extra_field = bytes.get(46 + name..46 + name + extra).ok_or(cut)?;
    let rest = bytes.get(46 + name + extra + comment..).ok_or(cut)?;
    let text = std::str::from_utf8(text).map_err(|_| "a name that is not UTF-8")?.to_string();
    let mut record = Record {
        header: u64::from(u32_at(bytes, 42)),
        packed: u64::from(u32_at(bytes, 20)),
        unpacked: u64::from(u32_at(bytes, 24)),
        crc: u32_at(bytes, 16),
        method: u16_at(bytes, 10),
    };
    record.extend(extra_field)?;
    if u16_at(bytes, 8) & 1 != 0 {
        return Err(format!("`{text}` is encrypted"));
    }
    if ![STORED, DEFLATED].contains(&record.method) {
        return Err(format!("`{text}` is compressed by method {}, expected stored or deflated", record.method));
    }
    Ok((text, record, rest))
}

impl Record {
    /// Takes sizes and offset from the ZIP64 extension where the entry says so.
    fn extend(&mut self, mut extra: &[u8]) -> Result<(), String> {
        while extra.len() >= 4 {
            let (tag, size) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
            let mut field = extra.get(4..4 + size).ok_or("a damaged extra field")?;
            if tag == 1 {
                for value in [&mut self.unpacked, &mut self.packed, &mut self.header] {
                    if *value == ELSEWHERE {
                        *value = field.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or("a damaged ZIP64 field")?;
                        field = &field[8..];
                    }
                }
            }
            extra = &extra[4 + size..];
        }
        Ok(())
    }
}

/// `size` bytes from `at`, if the file has them.
fn section(file: &Bytes, at: u64, size: u64) -> Option<Bytes> {
    let (at, end) = (usize::try_from(at).ok()?, usize::try_from(at.checked_add(size)?).ok()?);
    (end <= file.len()).then(|| file.slice(at..end))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}
