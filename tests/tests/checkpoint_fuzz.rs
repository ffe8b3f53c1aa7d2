//! Damaged and hostile weight files: whatever the bytes, reading ends with an answer or an error, soon, and without claiming much
//! more memory than four times the file.
//!
//! The inputs are mutations of the golden files; archives and headers are closed again around what was changed, so that checksums
//! and lengths do not turn everything away at the door. `STRATA_FUZZ_INPUTS=10000000` runs so many instead of a short set, and
//! `STRATA_FUZZ_SEED` others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "common/fuzz.rs"]
mod fuzz;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use flate2::Crc;
use fuzz::{Random, SHORT_RUN, claimed, number};
use strata_nn::checkpoint::{Checkpoint, Tensor};

/// Beside four times the file: what a reader may claim for the shortest one, as much again for vectors while they move, and
/// what a message takes.
const FLOOR: usize = 4 << 20;

/// How a file is closed around its changed part.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// As it is.
    Raw,
    /// A zip archive: `data.pkl` is changed, the records stay.
    Pickle,
    /// safetensors: the header is changed, its length is right.
    Header,
}

struct Seed {
    name: String,
    form: Form,
    /// What is changed.
    part: Vec<u8>,
    /// Names and contents of an archive's other records; a safetensors file's data.
    rest: Vec<(String, Vec<u8>)>,
}

impl Seed {
    fn close(&self, part: &[u8]) -> Vec<u8> {
        match self.form {
            Form::Raw => part.to_vec(),
            Form::Pickle => {
                zip(std::iter::once(("archive/data.pkl", part)).chain(self.rest.iter().map(|(n, c)| (n.as_str(), c.as_slice()))))
            }
            Form::Header => [&(part.len() as u64).to_le_bytes()[..], part, &self.rest[0].1].concat(),
        }
    }
}

/// An archive of stored records.
fn zip<'a>(records: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let (mut out, mut directory, mut count) = (Vec::new(), Vec::new(), 0u16);
    for (name, contents) in records {
        let mut crc = Crc::new();
        crc.update(contents);
        let size = contents.len() as u32;
        let fields =
            [&crc.sum().to_le_bytes()[..], &size.to_le_bytes(), &size.to_le_bytes(), &(name.len() as u16).to_le_bytes()].concat();
        let at = out.len() as u32;
        out.extend([b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0", &fields[..], b"\0\0", name.as_bytes(), contents].concat());
        directory.extend(
            [b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0", &fields[..], &[0; 12], &at.to_le_bytes(), name.as_bytes()].concat(),
        );
        count += 1;
    }
    let (at, size, count) = (out.len() as u32, directory.len() as u32, count.to_le_bytes());
    out.extend([&directory[..], b"PK\x05\x06\0\0\0\0", &count, &count, &size.to_le_bytes(), &at.to_le_bytes(), b"\0\0"].concat());
    out
}

/// The records of an archive, which were stored.
fn unzip(file: &[u8]) -> Vec<(String, Vec<u8>)> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(file[at..at + 2].try_into().unwrap()));
    let end = (0..file.len() - 21).rev().find(|&i| file[i..].starts_with(b"PK\x05\x06")).unwrap();
    let (mut at, mut out) = (word(end + 16), Vec::new());
    for _ in 0..half(end + 10) {
        let (size, name, local) = (word(at + 24), half(at + 28), word(at + 42));
        let data = local + 30 + half(local + 26) + half(local + 28);
        let text = String::from_utf8(file[at + 46..at + 46 + name].to_vec()).unwrap();
        out.push((text, file[data..data + size].to_vec()));
        at += 46 + name + half(at + 30) + half(at + 32);
    }
    out
}

/// Every golden file that is not too long to be mutated often: as it is, and opened.
fn seeds() -> Vec<Seed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/checkpoints");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|case| case.unwrap().path()).filter(|p| p.is_dir()).collect();
    files.sort();
    let mut seeds = Vec::new();
    for file in files.iter().flat_map(|case| std::fs::read_dir(case).unwrap()).map(|file| file.unwrap().path()) {
        let known = ["pt", "pth", "pkl", "ckpt", "safetensors"].map(|e| Some(e.as_ref()));
        if !known.contains(&file.extension()) || file.ends_with("tensors.safetensors") {
            continue;
        }
        let (name, bytes) = (file.display().to_string(), std::fs::read(&file).unwrap());
        if bytes.len() > 120_000 {
            continue;
        }
        let intact = Checkpoint::open(&file).is_ok();
        if intact && bytes.starts_with(b"PK") && !name.contains("deflated") {
            let (pickle, records): (Vec<_>, Vec<_>) = unzip(&bytes).into_iter().partition(|(n, _)| n.ends_with("/data.pkl"));
            let rest = records.into_iter().map(|(n, c)| (format!("archive/{}", n.split_once('/').unwrap().1), c)).collect();
            seeds.push(Seed { name: name.clone(), form: Form::Pickle, part: pickle[0].1.clone(), rest });
        }
        if intact && name.ends_with(".safetensors") {
            let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let rest = vec![(String::new(), bytes[end..].to_vec())];
            seeds.push(Seed { name: name.clone(), form: Form::Header, part: bytes[8..end].to_vec(), rest });
        }
        seeds.push(Seed { name, form: Form::Raw, part: bytes, rest: Vec::new() });
    }
    assert!(seeds.len() > 60, "{} seeds", seeds.len());
    seeds
}

/// Operations of the pickle machine with few or no bytes behind them, and pieces that mean something.
const PIECES: &[&[u8]] = &[
    b"(",
    b".",
    b"0",
    b"1",
    b"2",
    b"]",
    b")",
    b"}",
    b"\x8f",
    b"a",
    b"e",
    b"s",
    b"u",
    b"b",
    b"R",
    b"\x81",
    b"\x92",
    b"\x93",
    b"o",
    b"t",
    b"l",
    b"d",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x90",
    b"\x91",
    b"\x94",
    b"Q",
    b"N",
    b"\x88",
    b"h\0",
    b"h\x01",
    b"h\x05",
    b"q\0",
    b"j\0\0\0\0",
    b"r\xff\xff\xff\xff",
    b"K\xff",
    b"M\xff\xff",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"X\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x8b\xff\xff\xff\x7f",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"ccollections\nOrderedDict\n)R",
    b"c__builtin__\nlist\n",
    b"c__builtin__\nset\n",
    b"ccopyreg\n_reconstructor\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch.storage\n_load_from_bytes\n",
    b"c_codecs\nencode\n",
    b"ctorch\nDoubleStorage\n",
    b"X\x07\0\0\0storage",
    b"X\x0a\0\0\0state_dict",
    b"X\x03\0\0\0ema",
    b"999999999999",
    b"18446744073709551615",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"\"",
    b"-1",
    b"1e400",
    b"\"F64\"",
    b"\"data_offsets\":[0,0]",
    b"__metadata__",
    b"PK\x05\x06",
    b"PK\x01\x02",
    b"\xff\xff\xff\xff",
];

fn mutate(part: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = part.to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(out.len() + 1);
        let longest = (out.len() - at).min(1 << random.below(14));
        let to = at + random.below(longest + 1);
        match random.below(10) {
            0 => out.truncate(at),
            1 => drop(out.drain(at..to)),
            2 => {
                let copy = out[at..to].to_vec();
                let place = random.below(out.len() + 1);
                out.splice(place..place, copy);
            }
            3 => {
                let from = random.below(other.len() + 1);
                let length = random.below((other.len() - from).min(64) + 1);
                out.splice(at..at, other[from..from + length].iter().copied());
            }
            4 | 5 => {
                let piece = PIECES[random.below(PIECES.len())];
                let to = if random.below(2) == 0 { at } else { (at + piece.len()).min(out.len()) };
                out.splice(at..to, piece.iter().copied());
            }
            6 => {
                let value = [0, 1, 0x7f, 0x80, 0xff, 0x40][random.below(6)];
                let length = [1, 2, 4, 8][random.below(4)].min(out.len() - at);
                out[at..at + length].fill(value);
            }
            // The same short piece often: what a bomb is made of.
            7 if random.below(8) == 0 => {
                let piece = PIECES[random.below(PIECES.len())].repeat(random.below(2000));
                out.splice(at..at, piece);
            }
            _ if at < out.len() => out[at] ^= 1 << random.below(8),
            _ => out.push(random.next() as u8),
        }
    }
    out
}

/// Reads a file completely, as an import does.
fn read(file: Vec<u8>) -> bool {
    let Ok(file) = Checkpoint::from_bytes("fuzz".as_ref(), file) else { return false };
    let all = file.tensors().iter().chain(file.optimizer().map_or(&[][..], |o| &o.tensors));
    all.map(Tensor::read).filter(Result::is_ok).count() == file.tensors().len()
}

/// What happened to the inputs of one thread.
#[derive(Default)]
struct Tally {
    inputs: u64,
    accepted: u64,
    slowest: Duration,
    most_memory: f64,
}

fn run(inputs: u64, seed: u64) -> Tally {
    let (seeds, mut random, mut tally) = (seeds(), Random(seed), Tally::default());
    while tally.inputs < inputs {
        let (seed, other) = (&seeds[random.below(seeds.len())], &seeds[random.below(seeds.len())]);
        let file = seed.close(&mutate(&seed.part, &other.part, &mut random));
        let (length, copy) = (file.len(), (inputs > SHORT_RUN).then(|| file.clone()));
        let started = Instant::now();
        let (accepted, claimed) = claimed(|| read(file));
        let took = started.elapsed();
        tally.accepted += u64::from(accepted);
        if claimed > 4 * length + FLOOR {
            if let Some(copy) = copy {
                std::fs::write("/tmp/strata-fuzz-input", copy).unwrap();
            }
            panic!("{:?} of {}: {claimed} bytes claimed for a file of {length}", seed.form, seed.name);
        }
        tally.most_memory = tally.most_memory.max(claimed as f64 / (4 * length + FLOOR) as f64);
        tally.slowest = tally.slowest.max(took);
        tally.inputs += 1;
    }
    tally
}

#[test]
fn mutated_files_end_with_an_answer_or_an_error() {
    let inputs = number("STRATA_FUZZ_INPUTS").unwrap_or(SHORT_RUN);
    let seed = number("STRATA_FUZZ_SEED").unwrap_or(1);
    let tally = run(inputs, seed);
    eprintln!(
        "{} inputs, {} of them read completely; slowest {:?}, most memory {:.0} % of the limit",
        tally.inputs,
        tally.accepted,
        tally.slowest,
        100.0 * tally.most_memory
    );
    assert!(tally.accepted > 0 && tally.accepted < inputs, "the mutations reach nothing");
}
