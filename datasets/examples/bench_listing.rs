//! What a listing of very many entries costs: writes one of a kind, opens it in this process, prints time and memory.
//!
//!     bench_listing make zip|jsonl|tar|folder PATH N
//!     bench_listing open PATH
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use strata_datasets::{Dataset, DatasetOptions};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["make", kind, path, n] => make(kind, Path::new(path), n.parse()?),
        ["open", path] => open(path),
        _ => Err("expected make or open; see the source".into()),
    }
}

/// Names as EDM's tool gives them.
fn name(i: u64) -> String {
    format!("{:05}/img{i:08}.png", i / 1000)
}

fn make(kind: &str, path: &Path, n: u64) -> Outcome<()> {
    let mut png = Vec::new();
    image::RgbImage::new(1, 1).write_to(&mut io::Cursor::new(&mut png), image::ImageFormat::Png)?;
    match kind {
        "zip" => zip(BufWriter::new(File::create(path)?), &png, n)?,
        "jsonl" => jsonl(path, n)?,
        "tar" => tar(BufWriter::new(File::create(path)?), &png, n)?,
        "folder" => folder(path, n)?,
        _ => return Err(format!("{kind}: expected zip, jsonl, tar or folder").into()),
    }
    Ok(())
}

/// Stored members and `dataset.json` with a label for each.
fn zip(mut out: impl Write, png: &[u8], n: u64) -> io::Result<()> {
    let mut json = String::from("{\"labels\": [");
    for i in 0..n {
        json.push_str(&format!("{}[\"{}\", {}]", if i == 0 { "" } else { ",\n" }, name(i), i % 1000));
    }
    json.push_str("]}");
    let (mut at, mut directory) = (0u64, Vec::new());
    let mut member = |out: &mut dyn Write, name: &str, content: &[u8]| -> io::Result<()> {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let size = (content.len() as u32).to_le_bytes();
        let common =
            [&[45, 0, 0, 0, 0, 0, 0, 0, 33, 0][..], &crc.sum().to_le_bytes(), &size, &size, &(name.len() as u16).to_le_bytes()]
                .concat();
        out.write_all(&[&b"PK\x03\x04"[..], &common, &[0, 0], name.as_bytes(), content].concat())?;
        let large = at >= u64::from(u32::MAX);
        let extra = if large { [&[1, 0, 8, 0][..], &at.to_le_bytes()].concat() } else { Vec::new() };
        let offset = if large { u32::MAX } else { at as u32 };
        let extra_len = (extra.len() as u16).to_le_bytes();
        directory.extend(
            [&b"PK\x01\x02\x2D\0"[..], &common, &extra_len, &[0; 10], &offset.to_le_bytes(), name.as_bytes(), &extra].concat(),
        );
        at += (30 + name.len() + content.len()) as u64;
        Ok(())
    };
    for i in 0..n {
        member(&mut out, &name(i), png)?;
    }
    member(&mut out, "dataset.json", json.as_bytes())?;
    out.write_all(&directory)?;
    let size = directory.len() as u64;
    let numbers: Vec<u8> = [n + 1, n + 1, size, at].iter().flat_map(|v| v.to_le_bytes()).collect();
    out.write_all(&[&b"PK\x06\x06\x2C\0\0\0\0\0\0\0\x2D\0\x2D\0\0\0\0\0\0\0\0\0"[..], &numbers].concat())?;
    out.write_all(&[&b"PK\x06\x07\0\0\0\0"[..], &(at + size).to_le_bytes(), &[1, 0, 0, 0]].concat())?;
    out.write_all(&[&b"PK\x05\x06\0\0\0\0"[..], &[0xFF; 12], &[0, 0]].concat())?;
    out.flush()
}

/// Rows of a file name, a caption and a class by name; no picture is there.
fn jsonl(folder: &Path, n: u64) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut out = BufWriter::new(File::create(folder.join("metadata.jsonl"))?);
    for i in 0..n {
        let class = i % 1000;
        writeln!(out, "{{\"file_name\": \"{}\", \"text\": \"picture {i}\", \"label\": \"class {class}\"}}", name(i))?;
    }
    out.flush()
}

/// A picture and its class for each sample.
fn tar(out: impl Write, png: &[u8], n: u64) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    for i in 0..n {
        let class = (i % 1000).to_string();
        for (field, content) in [("png", png), ("cls", class.as_bytes())] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, format!("{i:09}.{field}"), content)?;
        }
    }
    archive.finish()
}

/// A thousand pictures to a class; empty files, which a listing does not read.
fn folder(root: &Path, n: u64) -> io::Result<()> {
    for i in 0..n {
        let path = root.join(name(i));
        if i % 1000 == 0 {
            std::fs::create_dir_all(path.parent().unwrap_or(root))?;
        }
        File::create(path)?;
    }
    Ok(())
}

fn open(path: &str) -> Outcome<()> {
    let before = memory("VmRSS")?;
    let began = Instant::now();
    let data = Dataset::open(path, &DatasetOptions::default())?;
    let seconds = began.elapsed().as_secs_f64();
    let (kept, peak, n) = (memory("VmRSS")? - before, memory("VmHWM")? - before, data.len() as f64);
    let last = data.info(data.len() - 1)?;
    println!("{} entries of {} in {seconds:.1} s", data.len(), data.layout());
    println!("{:.0} bytes an entry kept, {:.0} at the highest; the last is {} of {:?}", kept / n, peak / n, last.key, last.class);
    Ok(())
}

/// Bytes, as the system counts them.
fn memory(what: &str) -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(what)).ok_or("no such line in /proc/self/status")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse::<f64>()? * 1024.0)
}
