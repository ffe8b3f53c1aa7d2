//! Event files of scalars that TensorBoard opens: records of a length, a checksum, a message and a checksum.
//!
//! The messages are written by hand: `Event` (`wall_time` 1, `step` 2, `file_version` 3, `summary` 5, `session_log` 7),
//! `Summary.Value` (`tag` 1, `simple_value` 2) and `SessionLog` (`status` 1) of TensorFlow's event.proto and summary.proto.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::{Error, Result, files::create_folder};

/// Writes one event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// A new event file in `folder`. `step` is where the run begins or goes on: TensorBoard drops what earlier files
    /// of the folder hold at or beyond it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(folder: &Path, step: u64) -> Result<Self> {
        let (mut file, path) = new_file(folder)?;
        let mut version = Message::default();
        version.double(1, now()).bytes(3, b"brain.Event:2");
        let mut session = Message::default();
        session.varint(1, 1);
        let mut start = Message::default();
        start.double(1, now()).varint(2, step).bytes(7, &session.0);
        let data = [record(&version.0), record(&start.0)].concat();
        file.write_all(&data).map_err(|e| Error::file(&path, e))?;
        Ok(Self { path, file })
    }

    /// Adds the values of `scalars` at `step` under their tags, for example `loss/stage1`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes()).float(2, *value as f32);
            summary.bytes(1, &entry.0);
        }
        let mut event = Message::default();
        event.double(1, now()).varint(2, step).bytes(5, &summary.0);
        self.file.write_all(&record(&event.0)).map_err(|e| Error::file(&self.path, e))
    }
}

/// The event file of a run, which begins with its first record. The log beside it is the truth: where it cannot be written, the
/// training goes on.
#[derive(Debug)]
pub(crate) struct Events {
    folder: PathBuf,
    begin: u64,
    writer: Option<EventWriter>,
    failed: bool,
}

impl Events {
    /// For the run directory `run`, from `seen_images` on.
    pub fn new(run: &Path, seen_images: u64) -> Self {
        Self { folder: run.join("events"), begin: seen_images, writer: None, failed: false }
    }

    /// Adds all numbers of a record under their paths, at its `seen_images`.
    pub fn log(&mut self, record: &Value) {
        if self.failed {
            return;
        }
        if let Err(e) = self.write(record) {
            tracing::warn!("no more events for TensorBoard: {e}");
            self.failed = true;
        }
    }

    fn write(&mut self, record: &Value) -> Result<()> {
        let seen = record.get("seen_images").and_then(Value::as_u64).unwrap_or(0);
        let mut scalars = Vec::new();
        numbers("", record, &mut scalars);
        let scalars: Vec<(&str, f64)> = scalars.iter().map(|(tag, v)| (tag.as_str(), *v)).collect();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                create_folder(&self.folder)?;
                // What a killed process wrote beyond its last checkpoint is written again: the first step that is dropped.
                self.writer.insert(EventWriter::create(&self.folder, self.begin + 1)?)
            }
        };
        writer.scalars(seen, &scalars)
    }
}

/// All numbers below a value with their paths; elements of a list count from 1.
fn numbers(path: &str, value: &Value, found: &mut Vec<(String, f64)>) {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
    match value {
        Value::Number(n) if path != "seen_images" => found.extend(n.as_f64().map(|v| (path.to_string(), v))),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| numbers(&below(&(i + 1).to_string()), item, found)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| numbers(&below(name), field, found)),
        _ => {}
    }
}

/// A file of a name that does not exist yet: TensorBoard reads the files of a folder in the order of their names.
fn new_file(folder: &Path) -> Result<(File, PathBuf)> {
    let seconds = now() as u64;
    let mut n = 0;
    loop {
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.strata.{}.{n}", std::process::id()));
        match OpenOptions::new().create_new(true).append(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => n += 1,
            Err(e) => return Err(Error::file(path, e)),
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A protocol-buffer message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u64, wire_type: u64) {
        self.number(field << 3 | wire_type);
    }

    fn number(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push((v & 0x7f) as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    fn varint(&mut self, field: u64, v: u64) -> &mut Self {
        self.key(field, 0);
        self.number(v);
        self
    }

    fn double(&mut self, field: u64, v: f64) -> &mut Self {
        self.key(field, 1);
        self.0.extend(v.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u64, data: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.number(data.len() as u64);
        self.0.extend(data);
        self
    }

    fn float(&mut self, field: u64, v: f32) -> &mut Self {
        self.key(field, 5);
        self.0.extend(v.to_le_bytes());
        self
    }
}

fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), message, &masked(message).to_le_bytes()].concat()
}

/// The checksum as records store it, so that a checksum over data with checksums stays strong.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_checksum() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa, "RFC 3720, B.4");
    }

    #[test]
    fn records_are_whole_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(dir.path(), 0).unwrap();
        writer.scalars(300, &[("a", 1.5), ("b", f64::NAN)]).unwrap();
        let second = EventWriter::create(dir.path(), 300).unwrap();
        assert!(second.path > writer.path);
        let data = std::fs::read(&writer.path).unwrap();
        let (mut rest, mut messages) = (&data[..], Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(u32::from_le_bytes(rest[8..12].try_into().unwrap()), masked(&rest[..8]));
            let message = &rest[12..12 + length];
            assert_eq!(u32::from_le_bytes(rest[12 + length..16 + length].try_into().unwrap()), masked(message));
            messages.push(message.to_vec());
            rest = &rest[16 + length..];
        }
        assert_eq!(messages.len(), 3);
        let value = [&[0x0a, 1, b'a', 0x15][..], &1.5f32.to_le_bytes()].concat();
        let tail = &messages[2][9..];
        // step 300 as a varint, then the summary with its first value of 8 bytes
        assert_eq!(&tail[..3], [0x10, 0xac, 0x02]);
        assert_eq!(&tail[3..5], [0x2a, 20]);
        assert_eq!(&tail[5..7], [0x0a, 8]);
        assert_eq!(&tail[7..15], value);
    }

    #[test]
    fn numbers_of_a_record_have_paths() {
        let record = serde_json::json!({"seen_images": 9, "loss": 0.5, "per": [1, null, 3], "of": {"a": {"b": 2}}, "word": "x"});
        let mut found = Vec::new();
        numbers("", &record, &mut found);
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [("loss", 0.5), ("of/a/b", 2.0), ("per/1", 1.0), ("per/3", 3.0)];
        assert_eq!(found, expected.map(|(tag, v)| (tag.to_string(), v)));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = EventWriter::create(&dir.path().join("none"), 0).unwrap_err().to_string();
        assert!(message.contains("none"), "{message}");
    }
}
