//! A zip archive of stored members (PKWARE APPNOTE 6.3, with ZIP64). Its directory is kept packed while it grows, about 80 bytes
//! a member, so that ten million fit.

use std::io::{self, Write};

use flate2::Crc;

const LOCAL: u32 = 0x0403_4B50;
const CENTRAL: u32 = 0x0201_4B50;
const END64: u32 = 0x0606_4B50;
const END64_LOCATOR: u32 = 0x0706_4B50;
const END: u32 = 0x0605_4B50;
/// Version 4.5 of the format: ZIP64.
const VERSION: u16 = 45;
/// Names are UTF-8.
const UTF8: u16 = 1 << 11;
/// 1980-01-01 00:00, the first day of the format: the same members give the same bytes.
const DATE: u16 = 1 << 5 | 1;
const LARGE: u32 = u32::MAX;

/// The archive up to the member written last.
pub(super) struct StoredZip<W> {
    out: W,
    at: u64,
    directory: Vec<u8>,
    members: u64,
}

/// What local header and directory say of a member.
struct Head<'a> {
    name: &'a [u8],
    crc: u32,
    size: u64,
}

impl<W: Write> StoredZip<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, at: 0, directory: Vec::new(), members: 0 }
    }

    /// Adds a member of less than 4 GiB.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut crc = Crc::new();
        crc.update(content);
        self.head(&Head { name: name.as_bytes(), crc: crc.sum(), size: content.len() as u64 })?;
        self.write(content)
    }

    /// Adds a member of any size, that `write` writes twice with the same bytes: its size and checksum stand before it.
    pub(super) fn add_written(&mut self, name: &str, write: &dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut measure = Measure { crc: Crc::new(), size: 0 };
        write(&mut measure)?;
        self.head(&Head { name: name.as_bytes(), crc: measure.crc.sum(), size: measure.size })?;
        let expected = self.at + measure.size;
        write(&mut Counted(self))?;
        if self.at == expected { Ok(()) } else { Err(io::Error::other("a member was written with two sizes")) }
    }

    /// Writes the local header, and notes the member for the directory.
    fn head(&mut self, head: &Head<'_>) -> io::Result<()> {
        let small = |n: u64| u32::try_from(n).unwrap_or(LARGE);
        let name_len = u16::try_from(head.name.len()).map_err(io::Error::other)?;
        let common = |extra: &[u8]| {
            let mut bytes = Vec::new();
            // Version needed, flags, stored, time, date.
            [VERSION, UTF8, 0, 0, DATE].iter().for_each(|v| bytes.extend(v.to_le_bytes()));
            [head.crc, small(head.size), small(head.size)].iter().for_each(|v| bytes.extend(v.to_le_bytes()));
            [name_len, extra.len() as u16].iter().for_each(|v| bytes.extend(v.to_le_bytes()));
            bytes
        };
        let sizes = if head.size >= u64::from(LARGE) { vec![head.size; 2] } else { Vec::new() };
        let local_extra = extra(&sizes);
        let offset = self.at;
        let local = [&LOCAL.to_le_bytes()[..], &common(&local_extra), head.name, &local_extra].concat();
        self.write(&local)?;
        let beyond = if offset >= u64::from(LARGE) { vec![offset] } else { Vec::new() };
        let central_extra = extra(&[sizes, beyond].concat());
        self.directory.extend(CENTRAL.to_le_bytes());
        self.directory.extend(VERSION.to_le_bytes());
        self.directory.extend(common(&central_extra));
        // No comment, first disk, no attributes.
        self.directory.extend([0; 10]);
        self.directory.extend(small(offset).to_le_bytes());
        self.directory.extend_from_slice(head.name);
        self.directory.extend(central_extra);
        self.members += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Writes the directory; with it the archive is complete.
    pub(super) fn finish(mut self) -> io::Result<W> {
        let (start, size, n) = (self.at, self.directory.len() as u64, self.members);
        let directory = std::mem::take(&mut self.directory);
        self.write(&directory)?;
        let mut end = Vec::new();
        if n >= 0xFFFF || start >= u64::from(LARGE) || size >= u64::from(LARGE) {
            end.extend(END64.to_le_bytes());
            end.extend(44u64.to_le_bytes());
            end.extend([VERSION.to_le_bytes(), VERSION.to_le_bytes()].concat());
            end.extend([0; 8]);
            [n, n, size, start].iter().for_each(|v| end.extend(v.to_le_bytes()));
            end.extend(END64_LOCATOR.to_le_bytes());
            end.extend([0; 4]);
            end.extend((start + size).to_le_bytes());
            end.extend(1u32.to_le_bytes());
        }
        let (count, small) = (u16::try_from(n).unwrap_or(u16::MAX), |v: u64| u32::try_from(v).unwrap_or(LARGE));
        end.extend(END.to_le_bytes());
        end.extend([0; 4]);
        end.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
        end.extend([small(size).to_le_bytes(), small(start).to_le_bytes()].concat());
        end.extend([0; 2]);
        self.write(&end)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// The ZIP64 field of these numbers; nothing without any.
fn extra(numbers: &[u64]) -> Vec<u8> {
    if numbers.is_empty() {
        return Vec::new();
    }
    let mut bytes = [1u16.to_le_bytes(), (8 * numbers.len() as u16).to_le_bytes()].concat();
    numbers.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    bytes
}

struct Measure {
    crc: Crc,
    size: u64,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Counted<'a, W>(&'a mut StoredZip<W>);

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
