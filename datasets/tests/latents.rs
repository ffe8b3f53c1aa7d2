//! Latents survive kills, refuse what is foreign, and say when they were damaged.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use strata_datasets::{
    DatasetOptions, Error, Finished, ImageKind, ImageSource, LatentImagesWriter, LatentItem, LatentKind, LatentManifest,
    LatentSet, LatentType, LatentWriter, ShardWriter, SourceInfo, Transform,
};

fn manifest() -> LatentManifest {
    LatentManifest {
        autoencoder_sha256: "aa".repeat(32),
        factor: 4,
        channels: 3,
        height: 2,
        width: 5,
        transform: Transform::new(20),
        source: SourceInfo { spec: "emoji".into(), fingerprint: "bb".repeat(32), options: DatasetOptions::default() },
        class_names: vec!["x".into(), "y".into()],
        attribute_names: vec!["young".into(), "smiling".into()],
        pictures: 11,
        pictures_per_shard: 4,
        ..LatentManifest::default()
    }
}

fn item(i: usize) -> Vec<f32> {
    (0..60).map(|k| ((i * 60 + k) as f32 * 0.37).sin() - if k >= 30 { 4.0 } else { 0.0 }).collect()
}

/// The picture that has no latent, where one is asked for.
const BROKEN: usize = 6;

fn attributes(i: usize) -> [i8; 2] {
    [if i.is_multiple_of(2) { 1 } else { -1 }, if i.is_multiple_of(5) { 1 } else { -1 }]
}

fn push(shard: &mut ShardWriter<'_>, i: usize) {
    let caption = i.is_multiple_of(3).then(|| format!("caption \"{i}\""));
    let (moments, key, label) = (item(i), format!("k/{i}"), (!i.is_multiple_of(4)).then_some((i % 2) as u32));
    let item = LatentItem { moments: &moments, label, key: &key, caption: caption.as_deref(), attributes: &attributes(i) };
    shard.push(item).unwrap();
    shard.advance(1);
}

/// Pushes what is missing of `shard`, but for broken pictures, and at most `most`; answers how many it took.
fn fill(shard: &mut ShardWriter<'_>, broken: &[usize], most: usize) -> usize {
    let range = shard.remaining();
    for i in range.clone().take(most) {
        if broken.contains(&i) {
            shard.leave_out(&format!("k/{i}"), "broken");
            shard.advance(1);
        } else {
            push(shard, i);
        }
    }
    range.len().min(most)
}

fn finish(writer: LatentWriter) -> LatentManifest {
    match writer.finish(1).unwrap() {
        Finished::Complete(manifest) => *manifest,
        Finished::Missing(n) => unreachable!("{n} shards are missing"),
    }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

fn write_rank(dir: &Path, manifest: LatentManifest, broken: &[usize], (rank, ranks): (usize, usize)) -> LatentWriter {
    let writer = LatentWriter::create(dir, manifest).unwrap();
    for mut shard in writer.missing(rank, ranks).unwrap() {
        fill(&mut shard, broken, usize::MAX);
        shard.finish().unwrap();
    }
    writer
}

fn write_all(dir: &Path, broken: &[usize]) -> LatentManifest {
    finish(write_rank(dir, manifest(), broken, (0, 1)))
}

#[test]
fn images_lie_beside_latents_and_are_theirs() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &[BROKEN]);
    let latents = LatentSet::open(dir.path()).unwrap();
    assert!(latents.images().is_none());
    for (image, variants, shape) in [(ImageKind::LowRes { factor: 4 }, 1, [3, 2, 2]), (ImageKind::Inpaint, 2, [4, 2, 5])] {
        let source = ImageSource { image, variants, shape };
        let numbers = shape.iter().product::<usize>();
        let image = |n: usize| (0..numbers).map(|k| ((7 * n + k) % 200) as f32).collect::<Vec<_>>();
        let write = |count: usize| {
            let mut writer = LatentImagesWriter::new(dir.path(), &latents, &source).unwrap();
            (0..count).for_each(|n| writer.push(&image(n)).unwrap());
            (writer.push(&[0.0; 1]).is_err(), writer.finish())
        };
        let (short_is_refused, unfinished) = write(latents.len() * variants - 1);
        assert!(short_is_refused && unfinished.unwrap_err().to_string().contains("are missing"));
        write(latents.len() * variants).1.unwrap();
        let read = LatentSet::open(dir.path()).unwrap();
        let images = read.images().unwrap();
        assert_eq!(images.source(), &source);
        assert_eq!(images.get(3, variants - 1).unwrap(), image(4 * variants - 1));
        assert!(images.get(latents.len(), 0).is_err() && images.get(0, variants).is_err());
    }
    let path = dir.path().join("images.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = LatentSet::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("images.safetensors: damaged"), "{error}");
    // Those of more latents.
    fs::write(&path, bytes).unwrap();
    let fewer = tempfile::tempdir().unwrap();
    finish(write_rank(fewer.path(), LatentManifest { pictures: 8, ..manifest() }, &[BROKEN], (0, 1)));
    fs::copy(&path, fewer.path().join("images.safetensors")).unwrap();
    let error = LatentSet::open(fewer.path()).err().unwrap().to_string();
    assert!(error.contains("images of other latents"), "{error}");
}

#[test]
fn what_was_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let written = write_all(dir.path(), &[]);
    let set = LatentSet::open(dir.path()).unwrap();
    assert_eq!((set.len(), set.manifest()), (11, &written));
    assert_eq!(written.shards.iter().map(|s| s.count).collect::<Vec<_>>(), [4, 4, 3]);
    for i in 0..11 {
        assert_eq!(set.moments(i).unwrap(), item(i));
        assert_eq!(set.label(i), (!i.is_multiple_of(4)).then_some((i % 2) as u32));
        assert_eq!(set.key(i), Some(format!("k/{i}").as_str()));
        assert_eq!(set.caption(i), i.is_multiple_of(3).then(|| format!("caption \"{i}\"")).as_deref());
        assert_eq!(set.attributes(i), attributes(i));
    }
    assert!(set.moments(11).is_err() && set.label(11).is_none() && set.key(11).is_none() && set.attributes(11).is_empty());
    set.verify().unwrap();
}

#[test]
fn the_measured_scale_normalises_each_channel() {
    let dir = tempfile::tempdir().unwrap();
    let written = finish(write_rank(dir.path(), LatentManifest { pictures: 50, ..manifest() }, &[], (0, 1)));
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
    for dtype in [LatentType::F32, LatentType::F16] {
        let manifest = || LatentManifest { dtype, ..manifest() };
        let reference = tempfile::tempdir().unwrap();
        finish(write_rank(reference.path(), manifest(), &[BROKEN], (0, 1)));
        for stop in 0..11 {
            let dir = tempfile::tempdir().unwrap();
            let writer = LatentWriter::create(dir.path(), manifest()).unwrap();
            let mut left = stop;
            for mut shard in writer.missing(0, 1).unwrap() {
                left -= fill(&mut shard, &[BROKEN], left);
                if shard.remaining().is_empty() {
                    shard.finish().unwrap();
                } else if stop % 2 == 1 {
                    shard.checkpoint().unwrap();
                    break;
                }
            }
            fs::write(dir.path().join(".strata-tmp-latents-00002.safetensors-x7Bq"), "half a shard").unwrap();
            fs::write(dir.path().join(".strata-tmp-encoding.json-a1"), "half").unwrap();
            assert!(LatentSet::open(dir.path()).err().unwrap().to_string().contains("not finished"));
            let again = LatentWriter::create(dir.path(), manifest()).unwrap();
            let remaining: usize = again.missing(0, 1).unwrap().iter().map(|s| s.remaining().len()).sum();
            assert_eq!(11 - remaining, if stop % 2 == 1 { stop } else { stop / 4 * 4 }, "after {stop}");
            finish(write_rank(dir.path(), manifest(), &[BROKEN], (0, 1)));
            assert!(files(dir.path()) == files(reference.path()), "killed after {stop}");
        }
    }
}

#[test]
fn ranks_write_the_same_bytes_as_one_process_and_the_last_completes() {
    let reference = tempfile::tempdir().unwrap();
    write_all(reference.path(), &[BROKEN]);
    for order in [[0, 1, 2], [2, 0, 1]] {
        let dir = tempfile::tempdir().unwrap();
        let outcomes = order.map(|rank| write_rank(dir.path(), manifest(), &[BROKEN], (rank, 3)).finish(1).unwrap());
        assert_eq!(outcomes[..2], [Finished::Missing(2), Finished::Missing(1)]);
        assert!(matches!(outcomes[2], Finished::Complete(_)));
        assert!(files(dir.path()) == files(reference.path()));
    }
    // A rank was lost: any number of others takes over what it left, also in the middle of a shard.
    let dir = tempfile::tempdir().unwrap();
    write_rank(dir.path(), manifest(), &[BROKEN], (0, 2));
    let lost = LatentWriter::create(dir.path(), manifest()).unwrap();
    let mut shard = lost.missing(1, 2).unwrap().remove(0);
    fill(&mut shard, &[BROKEN], 3);
    shard.checkpoint().unwrap();
    write_all(dir.path(), &[BROKEN]);
    assert!(files(dir.path()) == files(reference.path()));
}

#[test]
fn ranks_at_the_same_time_complete_once() {
    let reference = tempfile::tempdir().unwrap();
    let manifest = || LatentManifest { pictures: 60, ..manifest() };
    finish(write_rank(reference.path(), manifest(), &[], (0, 1)));
    let dir = tempfile::tempdir().unwrap();
    let complete = std::thread::scope(|scope| {
        let rank = |rank| write_rank(dir.path(), manifest(), &[], (rank, 5)).finish(1).unwrap();
        let ranks: Vec<_> = (0..5).map(|r| scope.spawn(move || rank(r))).collect();
        let outcomes = ranks.into_iter().map(|r| r.join().unwrap());
        outcomes.filter(|o| matches!(o, Finished::Complete(_))).count()
    });
    assert!(complete >= 1);
    assert!(files(dir.path()) == files(reference.path()));
}

#[test]
fn left_out_pictures_are_counted_and_too_many_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let written = write_all(dir.path(), &[BROKEN]);
    assert_eq!((written.count, written.left_out, written.pictures), (10, 1, 11));
    let dir = tempfile::tempdir().unwrap();
    let error = write_rank(dir.path(), manifest(), &[2, BROKEN], (0, 1)).finish(1).unwrap_err();
    assert!(matches!(&error, Error::TooManyBad { bad, .. } if bad.len() == 2), "{error}");
    assert!(error.to_string().contains("k/2") && LatentSet::open(dir.path()).is_err());
    // With a higher tolerance nothing is done again; a shard in which nothing is usable has no file.
    let none = write_rank(dir.path(), manifest(), &[], (0, 1));
    assert!(none.missing(0, 1).unwrap().is_empty() && none.bad().unwrap().len() == 2);
    assert!(matches!(none.finish(2).unwrap(), Finished::Complete(m) if m.count == 9));
    let dir = tempfile::tempdir().unwrap();
    let sparse = write_rank(dir.path(), manifest(), &[4, 5, 6, 7], (0, 1)).finish(4).unwrap();
    assert!(matches!(&sparse, Finished::Complete(m) if m.shards.len() == 2 && m.count == 7));
    assert_eq!(LatentSet::open(dir.path()).unwrap().key(4), Some("k/8"));
}

#[test]
fn a_finished_folder_is_found_finished() {
    let dir = tempfile::tempdir().unwrap();
    let first = write_all(dir.path(), &[]);
    let before = files(dir.path());
    let writer = LatentWriter::create(dir.path(), manifest()).unwrap();
    assert!(writer.is_finished() && writer.missing(0, 1).unwrap().is_empty());
    assert_eq!(finish(writer), first);
    assert_eq!(files(dir.path()), before);
}

#[test]
fn another_origin_is_refused_with_both_values_and_nothing_changes() {
    let finished = tempfile::tempdir().unwrap();
    write_all(finished.path(), &[]);
    let begun = tempfile::tempdir().unwrap();
    LatentWriter::create(begun.path(), manifest()).unwrap();
    for dir in [finished.path(), begun.path()] {
        let before = files(dir);
        let others = [
            LatentManifest { autoencoder_sha256: "cc".repeat(32), ..manifest() },
            LatentManifest { source: SourceInfo { fingerprint: "dd".repeat(32), ..manifest().source }, ..manifest() },
            LatentManifest { transform: Transform::new(24), ..manifest() },
            LatentManifest { kind: LatentKind::Continuous, ..manifest() },
            LatentManifest { dtype: LatentType::Bf16, ..manifest() },
            LatentManifest { width: 6, ..manifest() },
            LatentManifest { flipped: true, ..manifest() },
            LatentManifest { pictures_per_shard: 5, ..manifest() },
        ];
        for other in others {
            assert!(LatentWriter::create(dir, other).is_err());
        }
        let other = LatentManifest { autoencoder_sha256: "cc".repeat(32), ..manifest() };
        let why = LatentWriter::create(dir, other).err().unwrap().to_string();
        assert!(why.contains("autoencoder_sha256") && why.contains(&"aa".repeat(32)) && why.contains(&"cc".repeat(32)), "{why}");
        assert_eq!(files(dir), before);
    }
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let why = LatentWriter::create(dir.path(), manifest()).err().unwrap().to_string();
    assert!(why.contains("thesis.tex"), "{why}");
    assert_eq!(files(dir.path()).len(), 1);
    assert!(LatentSet::open(dir.path()).err().unwrap().to_string().contains("no latents"));
}

#[test]
fn damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let shard = write_all(dir.path(), &[]).shards[0].file.clone();
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
        let manifest = LatentManifest {
            dtype,
            kind: LatentKind::Continuous,
            scale: vec![0.5],
            shift: vec![0.0],
            attribute_names: Vec::new(),
            pictures: 1,
            ..manifest()
        };
        let writer = LatentWriter::create(dir.path(), manifest).unwrap();
        let mut shard = writer.missing(0, 1).unwrap().remove(0);
        let (whole, not_finite) = (item(0), [f32::NAN; 30]);
        let latent = |moments| LatentItem { moments, label: None, key: "k", caption: None, attributes: &[] };
        assert!(shard.push(latent(&whole)).is_err(), "wrong length");
        assert!(shard.push(latent(&not_finite)).is_err(), "not finite");
        assert!(shard.push(LatentItem { attributes: &[1], ..latent(&whole[..30]) }).is_err(), "attributes without names");
        shard.push(latent(&whole[..30])).unwrap();
        assert_eq!(shard.remaining(), 0..1);
        shard.advance(1);
        shard.finish().unwrap();
        let written = finish(writer);
        assert_eq!((written.scale, written.shift), (vec![0.5], vec![0.0]));
        let set = LatentSet::open(dir.path()).unwrap();
        for (a, b) in set.moments(0).unwrap().iter().zip(&item(0)) {
            assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{dtype:?}: {a} {b}");
        }
    }
}
