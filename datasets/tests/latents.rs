//! Latents survive kills, refuse what is foreign, and say when they were damaged.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use strata_datasets::{LatentKind, LatentManifest, LatentSet, LatentType, LatentWriter, SourceInfo, Transform};

fn manifest() -> LatentManifest {
    LatentManifest {
        autoencoder_sha256: "aa".repeat(32),
        factor: 4,
        channels: 3,
        height: 2,
        width: 5,
        transform: Transform::new(20),
        source: SourceInfo { spec: "emoji".into(), fingerprint: "bb".repeat(32) },
        class_names: vec!["x".into(), "y".into()],
        ..LatentManifest::default()
    }
}

fn item(i: usize) -> Vec<f32> {
    (0..60).map(|k| ((i * 60 + k) as f32 * 0.37).sin() - if k >= 30 { 4.0 } else { 0.0 }).collect()
}

fn push(writer: &mut LatentWriter, i: usize) {
    let caption = i.is_multiple_of(3).then(|| format!("caption \"{i}\""));
    writer.push(&item(i), (!i.is_multiple_of(4)).then_some((i % 2) as u32), &format!("k/{i}"), caption.as_deref()).unwrap();
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

fn write_all(dir: &Path, n: usize) -> LatentManifest {
    let mut writer = LatentWriter::create(dir, manifest(), 4).unwrap();
    for i in writer.written()..n {
        push(&mut writer, i);
    }
    writer.finish().unwrap()
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let written = write_all(dir.path(), 10);
    let set = LatentSet::open(dir.path()).unwrap();
    assert_eq!((set.len(), set.manifest()), (10, &written));
    assert_eq!(written.shards.iter().map(|s| s.count).collect::<Vec<_>>(), [4, 4, 2]);
    for i in 0..10 {
        assert_eq!(set.moments(i).unwrap(), item(i));
        assert_eq!(set.label(i), (!i.is_multiple_of(4)).then_some((i % 2) as u32));
        assert_eq!(set.key(i), Some(format!("k/{i}").as_str()));
        assert_eq!(set.caption(i), i.is_multiple_of(3).then(|| format!("caption \"{i}\"")).as_deref());
    }
    assert!(set.moments(10).is_err() && set.label(10).is_none() && set.key(10).is_none());
    set.verify().unwrap();
}

#[test]
fn the_measured_scale_normalises_each_channel() {
    let dir = tempfile::tempdir().unwrap();
    let written = write_all(dir.path(), 50);
    for c in 0..3 {
        let (mut n, mut first, mut second) = (0.0, 0.0, 0.0);
        for i in 0..50 {
            let all = item(i);
            for k in 0..10 {
                let z = (f64::from(all[c * 10 + k]) - f64::from(written.shift[c])) * f64::from(written.scale[c]);
                let variance = f64::from(all[30 + c * 10 + k]).exp() * f64::from(written.scale[c]).powi(2);
                n += 1.0;
                first += z;
                second += z * z + variance;
            }
        }
        assert!((first / n).abs() < 1e-5 && (second / n - 1.0).abs() < 1e-5, "channel {c}");
    }
}

#[test]
fn a_kill_at_any_moment_gives_the_same_bytes() {
    let reference = tempfile::tempdir().unwrap();
    write_all(reference.path(), 11);
    for stop in 0..11 {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LatentWriter::create(dir.path(), manifest(), 4).unwrap();
        (0..stop).for_each(|i| push(&mut writer, i));
        if stop % 2 == 1 {
            writer.checkpoint().unwrap();
        }
        drop(writer);
        fs::write(dir.path().join(".strata-tmp-latents-00007.safetensors"), "half a shard").unwrap();
        let again = LatentWriter::create(dir.path(), manifest(), 4).unwrap();
        assert_eq!(again.written(), if stop % 2 == 1 { stop } else { stop / 4 * 4 }, "after {stop}");
        drop(again);
        assert!(LatentSet::open(dir.path()).err().unwrap().to_string().contains("not finished"));
        write_all(dir.path(), 11);
        assert_eq!(files(dir.path()), files(reference.path()), "killed after {stop}");
    }
}

#[test]
fn a_finished_folder_is_found_finished() {
    let dir = tempfile::tempdir().unwrap();
    let first = write_all(dir.path(), 5);
    let before = files(dir.path());
    let mut writer = LatentWriter::create(dir.path(), manifest(), 4).unwrap();
    assert!(writer.is_finished() && writer.written() == 5);
    assert!(writer.push(&item(5), None, "k", None).is_err());
    assert_eq!(writer.finish().unwrap(), first);
    assert_eq!(files(dir.path()), before);
}

#[test]
fn another_origin_is_refused_with_both_values_and_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), 5);
    let before = files(dir.path());
    let others = [
        LatentManifest { autoencoder_sha256: "cc".repeat(32), ..manifest() },
        LatentManifest { source: SourceInfo { fingerprint: "dd".repeat(32), ..manifest().source }, ..manifest() },
        LatentManifest { transform: Transform::new(24), ..manifest() },
        LatentManifest { kind: LatentKind::Continuous, ..manifest() },
        LatentManifest { width: 6, ..manifest() },
        LatentManifest { flipped: true, ..manifest() },
    ];
    for other in others {
        assert!(LatentWriter::create(dir.path(), other, 4).is_err());
    }
    let other = LatentManifest { autoencoder_sha256: "cc".repeat(32), ..manifest() };
    let why = LatentWriter::create(dir.path(), other, 4).err().unwrap().to_string();
    assert!(why.contains("autoencoder_sha256") && why.contains(&"aa".repeat(32)) && why.contains(&"cc".repeat(32)), "{why}");
    assert_eq!(files(dir.path()), before);
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let why = LatentWriter::create(dir.path(), manifest(), 4).err().unwrap().to_string();
    assert!(why.contains("thesis.tex"), "{why}");
    assert_eq!(files(dir.path()).len(), 1);
    assert!(LatentSet::open(dir.path()).err().unwrap().to_string().contains("no latents"));
}

#[test]
fn damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let shard = write_all(dir.path(), 5).shards[0].file.clone();
    let path = dir.path().join(&shard);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, &flipped).unwrap();
    let why = LatentSet::open(dir.path()).unwrap().verify().unwrap_err().to_string();
    assert!(why.contains(&shard) && why.contains("sha256"), "{why}");
    for len in [0, 7, 100, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let why = LatentSet::open(dir.path()).err().unwrap().to_string();
        assert!(why.contains(&shard), "{len}: {why}");
    }
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, huge).unwrap();
    assert!(LatentSet::open(dir.path()).is_err());
    fs::remove_file(&path).unwrap();
    assert!(LatentSet::open(dir.path()).is_err());
}

#[test]
fn half_precision_and_continuous_latents() {
    for (dtype, tolerance) in [(LatentType::F16, 2e-3), (LatentType::Bf16, 2e-2)] {
        let dir = tempfile::tempdir().unwrap();
        let manifest = LatentManifest { dtype, kind: LatentKind::Continuous, scale: vec![0.5], shift: vec![0.0], ..manifest() };
        let mut writer = LatentWriter::create(dir.path(), manifest, 4).unwrap();
        writer.push(&item(0)[..30], None, "k", None).unwrap();
        assert!(writer.push(&item(0), None, "k", None).is_err(), "wrong length");
        assert!(writer.push(&[f32::NAN; 30], None, "k", None).is_err(), "not finite");
        let written = writer.finish().unwrap();
        assert_eq!((written.scale, written.shift), (vec![0.5], vec![0.0]));
        let set = LatentSet::open(dir.path()).unwrap();
        for (a, b) in set.moments(0).unwrap().iter().zip(&item(0)) {
            assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{dtype:?}: {a} {b}");
        }
    }
}
