//! The index of a zip archive (PKWARE APPNOTE 6.3, with ZIP64), packed, and its members read in place by many threads.

use std::io::Read;
use std::path::Path;

use flate2::Crc;
use flate2::read::DeflateDecoder;

use crate::Result;
use crate::listing::Texts;
use crate::readers::files::{MAX_FILE_BYTES, stays_inside};
use crate::readers::regions::{Numbers, RangeFile};

const END: u32 = 0x0605_4B50;
const END64_LOCATOR: u32 = 0x0706_4B50;
const END64: u32 = 0x0606_4B50;
const CENTRAL: u32 = 0x0201_4B50;
const LOCAL: u32 = 0x0403_4B50;
/// The end record with its longest comment.
const END_SEARCH: u64 = 22 + 65_535;
const DEFLATED: u16 = 8;

/// A larger member that unpacks to more than so many times its size is a bomb: pictures hardly shrink, lists tenfold.
const MAX_EXPANSION: u64 = 100;
const PLAIN: u64 = 64 << 20;

/// A member: 32 bytes beside its name.
#[derive(Clone, Copy)]
struct Member {
    offset: u64,
    packed: u64,
    unpacked: u64,
    crc: u32,
    deflated: bool,
}

/// An open archive. Members are its files, in order of the central directory; folders are left out.
pub(crate) struct Zip {
    file: RangeFile,
    names: Texts,
    members: Vec<Member>,
}

impl Zip {
    /// Reads the central directory. Errors if it is damaged, a name leaves the archive, or a member is encrypted or of a
    /// compression other than deflate.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut zip = Self { file: RangeFile::open(path)?, names: Texts::default(), members: Vec::new() };
        let (entries, size, offset) = zip.find_directory()?;
        let file = RangeFile::open(path)?;
        let mut directory = file.reader_at(offset).take(size);
        let mut entry = Vec::new();
        for n in 0..entries {
            next_entry(&mut directory, &mut entry).map_err(|e| file.error(format!("zip entry {n}: {e}")))?;
            zip.entry(&entry).map_err(|why| file.error(format!("zip entry {n}: {why}")))?;
        }
        Ok(zip)
    }

    /// Number of entries, size and offset of the central directory.
    fn find_directory(&self) -> Result<(u64, u64, u64)> {
        let damaged = || self.file.error("not a zip archive, or cut: its end record is missing");
        let tail_len = self.file.len().min(END_SEARCH);
        let tail_at = self.file.len() - tail_len;
        let tail = self.file.read(tail_at, tail_len)?;
        let fits = |&i: &usize| {
            tail.u32_at(i) == Some(END) && tail.u16_at(i + 20).is_some_and(|n| i + 22 + usize::from(n) <= tail.len())
        };
        let end = (0..tail.len().saturating_sub(21)).rev().find(fits).ok_or_else(damaged)?;
        let small =
            || Some((u64::from(tail.u16_at(end + 10)?), u64::from(tail.u32_at(end + 12)?), u64::from(tail.u32_at(end + 16)?)));
        let found = small().ok_or_else(damaged)?;
        if found.0 < 0xFFFF && found.1 < 0xFFFF_FFFF && found.2 < 0xFFFF_FFFF {
            return Ok(found);
        }
        let locator = self.file.read((tail_at + end as u64).checked_sub(20).ok_or_else(damaged)?, 20)?;
        if locator.u32_at(0) != Some(END64_LOCATOR) {
            return Ok(found);
        }
        let record = self.file.read(locator.u64_at(8).ok_or_else(damaged)?, 56)?;
        let large = || Some((record.u64_at(32)?, record.u64_at(40)?, record.u64_at(48)?));
        if record.u32_at(0) == Some(END64) { large().ok_or_else(damaged) } else { Err(damaged()) }
    }

    /// Takes in one entry of the directory.
    fn entry(&mut self, bytes: &[u8]) -> std::result::Result<(), String> {
        const CUT: &str = "the directory is damaged";
        if bytes.u32_at(0) != Some(CENTRAL) || bytes.len() < 46 {
            return Err(CUT.into());
        }
        let u16_at = |at| bytes.u16_at(at).unwrap_or(0);
        let u32_at = |at| u64::from(bytes.u32_at(at).unwrap_or(0));
        let (name_len, extra_len) = (usize::from(u16_at(28)), usize::from(u16_at(30)));
        let name = bytes.get(46..46 + name_len).ok_or(CUT)?;
        let extra = bytes.get(46 + name_len..46 + name_len + extra_len).ok_or(CUT)?;
        let name = String::from_utf8_lossy(name);
        if !stays_inside(&name) {
            return Err(format!("the name `{name}` leaves the archive"));
        }
        if name.ends_with('/') {
            return Ok(());
        }
        let method = u16_at(10);
        if u16_at(8) & 1 == 1 || (method != 0 && method != DEFLATED) {
            return Err(format!("`{name}` is encrypted or of compression {method}; stored and deflated are read"));
        }
        let [unpacked, packed, offset] = large_sizes(extra, [u32_at(24), u32_at(20), u32_at(42)]).ok_or(CUT)?;
        self.members.push(Member { offset, packed, unpacked, crc: u32_at(16) as u32, deflated: method == DEFLATED });
        self.names.push(&name);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn name(&self, i: usize) -> &str {
        self.names.get(i)
    }

    pub(crate) fn names(&self) -> &Texts {
        &self.names
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Unpacked size of member `i`, as the archive says.
    pub(crate) fn size(&self, i: usize) -> u64 {
        self.members[i].unpacked
    }

    /// Where the bytes of member `i` begin in the file, if they lie there as they are. Errors if the archive is damaged.
    pub(crate) fn stored_at(&self, i: usize) -> Result<Option<u64>> {
        let member = self.members[i];
        if member.deflated {
            return Ok(None);
        }
        if member.packed != member.unpacked {
            return Err(self.file.error(format!("`{}`: the archive is damaged: two sizes of a stored member", self.name(i))));
        }
        Ok(Some(member.offset + self.local_header(i)?))
    }

    /// `len` bytes of the archive from `at` on. Errors if they do not lie in it.
    pub(crate) fn range(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        self.file.read(at, len)
    }

    /// Length of the header before the bytes of member `i`.
    fn local_header(&self, i: usize) -> Result<u64> {
        let head = self.file.read(self.members[i].offset, 30)?;
        if head.u32_at(0) != Some(LOCAL) {
            return Err(self.file.error(format!("`{}`: the archive is damaged: no header there", self.name(i))));
        }
        Ok(30 + u64::from(head.u16_at(26).unwrap_or(0)) + u64::from(head.u16_at(28).unwrap_or(0)))
    }

    /// The bytes of member `i`. Errors if they are damaged, or more than the archive says or any picture has.
    pub(crate) fn read(&self, i: usize) -> Result<Vec<u8>> {
        let member = self.members[i];
        let bad = |why: &str| self.file.error(format!("`{}`: {why}", self.name(i)));
        if member.unpacked > MAX_FILE_BYTES {
            return Err(bad(&format!("{} bytes, more than {MAX_FILE_BYTES} are refused", member.unpacked)));
        }
        if member.unpacked > PLAIN && member.unpacked / MAX_EXPANSION > member.packed {
            return Err(bad(&format!("{} bytes packed into {}: refused", member.unpacked, member.packed)));
        }
        let mut bytes = self.file.read(member.offset + self.local_header(i)?, member.packed)?;
        if member.deflated {
            let mut unpacked = Vec::new();
            let limited = &mut DeflateDecoder::new(bytes.as_slice()).take(member.unpacked + 1);
            limited.read_to_end(&mut unpacked).map_err(|e| bad(&e.to_string()))?;
            bytes = unpacked;
        }
        if bytes.len() as u64 != member.unpacked {
            return Err(bad(&format!("expected {} bytes, got {}", member.unpacked, bytes.len())));
        }
        let mut crc = Crc::new();
        crc.update(&bytes);
        if crc.sum() == member.crc { Ok(bytes) } else { Err(bad("its checksum is wrong")) }
    }
}

/// Reads an entry of the directory, of any of its lengths, into `entry`.
fn next_entry(directory: &mut impl Read, entry: &mut Vec<u8>) -> std::io::Result<()> {
    entry.resize(46, 0);
    directory.read_exact(entry)?;
    let lengths = [28, 30, 32].map(|at| usize::from(entry.u16_at(at).unwrap_or(0)));
    entry.resize(46 + lengths.iter().sum::<usize>(), 0);
    directory.read_exact(&mut entry[46..])
}

/// Unpacked size, packed size and offset, from the ZIP64 field where they do not fit into 32 bits.
fn large_sizes(mut extra: &[u8], mut sizes: [u64; 3]) -> Option<[u64; 3]> {
    while let (Some(id), Some(len)) = (extra.u16_at(0), extra.u16_at(2)) {
        let body = extra.get(4..4 + usize::from(len))?;
        if id == 1 {
            let mut at = 0;
            for size in sizes.iter_mut().filter(|s| **s == 0xFFFF_FFFF) {
                *size = body.u64_at(at)?;
                at += 8;
            }
        }
        extra = &extra[4 + usize::from(len)..];
    }
    Some(sizes)
}
