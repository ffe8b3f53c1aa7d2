//! Broken data and archives through the binary: counted, named, bounded; and what a conversion keeps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{io::Write, path::Path, process::Command, sync::Arc};

use common::{SMALL_AUTOENCODER, binary, pictures, strata};
use parquet::{
    data_type::{ByteArray, ByteArrayType},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};

/// `strata args` with little memory to get: exit code, stdout and stderr.
fn bounded(folder: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    // Few arenas: each reserves addresses, which are what is limited.
    let script = format!("ulimit -v 3000000; MALLOC_ARENA_MAX=2 exec {} \"$@\" --threads 2", binary().display());
    let output = Command::new("sh").args(["-c", &script, "sh"]).args(args).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The keys that `data inspect` calls broken, and the number of items.
fn broken(folder: &Path, data: &str) -> (Vec<String>, u64) {
    let (code, stdout, stderr) = bounded(folder, &["data", "inspect", data, "--json", "--quiet"]);
    assert_eq!(code, Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let keys = report["broken"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap().to_string());
    (keys.collect(), report["count"].as_u64().unwrap())
}

fn png(folder: &Path) -> Vec<u8> {
    pictures(&folder.join("one"), 1);
    std::fs::read(folder.join("one/000.png")).unwrap()
}

/// A picture whose header claims 100000 x 100000 pixels.
fn huge(png: &[u8]) -> Vec<u8> {
    let mut bytes = png.to_vec();
    bytes[16..24].copy_from_slice(&[0, 1, 0x86, 0xA0, 0, 1, 0x86, 0xA0]);
    let mut crc = flate2::Crc::new();
    crc.update(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    bytes
}

const BROKEN: [&str; 4] = ["empty.png", "huge.png", "text.jpg", "truncated.png"];

/// Twenty pictures and four that are none.
fn broken_folder(folder: &Path) {
    let whole = png(folder);
    pictures(&folder.join("data"), 20);
    let contents = [Vec::new(), huge(&whole), b"not a picture".to_vec(), whole[..whole.len() / 2].to_vec()];
    BROKEN.iter().zip(contents).for_each(|(name, bytes)| std::fs::write(folder.join("data").join(name), bytes).unwrap());
}

/// How many of the broken files are named.
fn named(stderr: &str) -> usize {
    BROKEN.iter().filter(|name| stderr.contains(*name)).count()
}

#[test]
fn cli_broken_files_are_named_and_stop_a_run_before_it_trains() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    broken_folder(folder);
    assert_eq!(broken(folder, "data"), (BROKEN.map(str::to_string).to_vec(), 24));
    let train = [&["train", "autoencoder", "--data", "data", "--size", "16", "--out"], &["run"][..]].concat();
    let (code, _, stderr) = bounded(folder, &[&train[..], &SMALL_AUTOENCODER].concat());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(named(&stderr) >= 2 && stderr.contains("at most 1"), "{stderr}");
    let checkpoints = std::fs::read_dir(folder.join("run/checkpoints")).map_or(0, Iterator::count);
    let lines = std::fs::read(folder.join("run/stats.jsonl")).map_or(0, |log| log.len());
    assert_eq!((checkpoints, lines), (0, 0), "something was trained");

    let train = ["train", "autoencoder", "--data", "one", "--size", "16", "--out", "autoencoder"];
    pictures(&folder.join("one"), 4);
    let (code, _, stderr) = bounded(folder, &[&train[..], &SMALL_AUTOENCODER].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let encode = ["encode", "--autoencoder", "autoencoder", "--data", "data", "--out", "latents"];
    let (code, _, stderr) = bounded(folder, &encode);
    assert!(code == Some(1) && named(&stderr) >= 2, "{stderr}");
    assert!(!folder.join("latents/manifest.json").exists());
    let (code, stdout, stderr) = bounded(folder, &[&encode[..], &["--max-bad", "0.2"]].concat());
    assert!(code == Some(0) && stdout.contains("20 latents") && stdout.contains("4 images left out"), "{stdout}{stderr}");
}

/// One member of a zip archive: name, deflated, content as packed, claimed size, checksum.
struct Member<'a>(&'a str, bool, Vec<u8>, u32, u32);

fn zip(members: &[Member<'_>]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for Member(name, deflated, packed, size, crc) in members {
        let mut common = vec![20, 0, 0, 0, if *deflated { 8 } else { 0 }, 0, 0, 0, 33, 0];
        [*crc, packed.len() as u32, *size].iter().for_each(|v| common.extend(v.to_le_bytes()));
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend(
            [&b"PK\x01\x02\x14\x00"[..], &common, &[0; 10], &(archive.len() as u32).to_le_bytes(), name.as_bytes()].concat(),
        );
        archive.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), packed].concat());
    }
    let (start, count) = ((archive.len() as u32).to_le_bytes(), (members.len() as u16).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    archive.extend(directory);
    archive.extend([&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &size, &start, &[0, 0]].concat());
    archive
}

/// So many zeros, deflated: a thousandth of their size.
fn zeros(bytes: usize) -> (Vec<u8>, u32) {
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut crc = flate2::Crc::new();
    for _ in 0..bytes >> 20 {
        packed.write_all(&[0; 1 << 20]).unwrap();
        crc.update(&[0; 1 << 20]);
    }
    (packed.finish().unwrap(), crc.sum())
}

#[test]
fn cli_zip_bombs_are_named_and_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    std::fs::create_dir(folder.join("square")).unwrap();
    image::RgbImage::new(8, 8).save(folder.join("square/a.png")).unwrap();
    let whole = std::fs::read(folder.join("square/a.png")).unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(&whole);
    let (bomb, sum) = zeros(400 << 20);
    let honest = Member("bomb.png", true, bomb.clone(), 400 << 20, sum);
    let lying = Member("liar.png", true, bomb, 100, sum);
    let good = Member("a.png", false, whole.clone(), whole.len() as u32, crc.sum());
    std::fs::write(folder.join("data.zip"), zip(&[good, honest, lying])).unwrap();
    assert_eq!(broken(folder, "data.zip"), (vec!["bomb.png".to_string(), "liar.png".to_string()], 3));
}

#[test]
fn cli_archives_that_leave_their_folder_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("inner");
    std::fs::create_dir(&folder).unwrap();
    let whole = png(&folder);
    let mut tar = tar::Builder::new(std::fs::File::create(folder.join("data.tar")).unwrap());
    for name in ["a.png", "../outside.png"] {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(whole.len() as u64);
        header.set_cksum();
        tar.append(&header, whole.as_slice()).unwrap();
    }
    tar.finish().unwrap();
    let zipped = zip(&[Member("../outside.png", false, whole.clone(), whole.len() as u32, 0)]);
    std::fs::write(folder.join("data.zip"), zipped).unwrap();
    for data in ["data.tar", "data.zip"] {
        for command in [&["data", "inspect", data][..], &["data", "convert", data, "out.zip", "--size", "8"]] {
            let (code, _, stderr) = bounded(&folder, command);
            assert!(code == Some(1) && stderr.contains(data) && stderr.contains("../outside.png"), "{stderr}");
        }
    }
    assert!(!dir.path().join("outside.png").exists() && !folder.join("out.zip").exists());
}

#[test]
fn cli_a_null_row_of_parquet_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = png(dir.path());
    let schema = "message schema { optional group image { optional binary bytes; optional binary path (UTF8); } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(dir.path().join("data.parquet")).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::builder().build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for values in [vec![ByteArray::from(whole.clone()), ByteArray::from(whole)], vec!["a.png".into(), "c.png".into()]] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[2, 0, 2]), None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    assert_eq!(broken(dir.path(), "data.parquet"), (vec!["1".to_string()], 3));
}

fn inspected(folder: &Path, data: &str) -> serde_json::Value {
    let output = strata(folder).args(["data", "inspect", data, "--json", "--quiet"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn cli_conversion_keeps_labels_captions_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    pictures(&folder.join("data/cats"), 9);
    pictures(&folder.join("data/dogs"), 8);
    std::fs::write(folder.join("data/cats/003.txt"), "a \"cat\"").unwrap();
    std::fs::write(folder.join("data/dogs/broken.png"), "none").unwrap();
    let before = inspected(folder, "data");
    for out in ["out.zip", "out.parquet"] {
        let convert = ["data", "convert", "data", out, "--size", "16"];
        let said = String::from_utf8(strata(folder).args(convert).output().unwrap().stdout).unwrap();
        assert!(said.contains("17 images, 1 left out"), "{said}");
        let after = inspected(folder, out);
        assert_eq!((&after["count"], &after["captions"]), (&17.into(), &before["captions"]));
        let names = |report: &serde_json::Value| {
            report["classes"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&after), names(&before));
        assert_eq!(after["classes"][1]["count"], 8);
        assert_eq!(after["sizes"], serde_json::json!([{ "width": 16, "height": 16, "count": 17 }]));
        let bytes = std::fs::read(folder.join(out)).unwrap();
        let again = strata(folder).args(convert).output().unwrap();
        assert!(String::from_utf8_lossy(&again.stdout).contains("was there already"));
        let stderr = common::refusal(strata(folder).args(["data", "convert", "data", out, "--size", "8"]));
        assert!(stderr.contains("another origin") && stderr.contains("16x16") && stderr.contains("8x8"), "{stderr}");
        assert!(bytes == std::fs::read(folder.join(out)).unwrap(), "nothing overwritten");
    }
    let stderr = common::refusal(strata(folder).args(["data", "convert", "data", "unsized.zip"]));
    assert!(stderr.contains("size"), "{stderr}");
    // Pictures that are not resized are kept as they are.
    strata(folder).args(["data", "convert", "data", "kept.parquet"]).assert().success();
    assert_eq!(inspected(folder, "kept.parquet")["sizes"], before["sizes"]);
    let left: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}
