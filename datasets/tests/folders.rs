//! Folders of pictures as users have them.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{encoded, write};
use image::ImageFormat;
use strata_datasets::{Alpha, Dataset, DatasetOptions, Decode, Error, Layout, Transform, prepare};

fn open(path: &Path) -> Result<Dataset, Error> {
    Dataset::open(path.to_str().unwrap(), &DatasetOptions::default())
}

fn all(set: &Dataset) -> Vec<usize> {
    (0..set.len()).collect()
}

#[test]
fn sub_folders_are_classes_and_texts_are_captions() {
    let dir = tempfile::tempdir().unwrap();
    for (i, name) in ["b cat/2.png", "b cat/10.JPG", "Dog/x/1.webp", "Dog/a.png", "b cat/.hidden.png"].iter().enumerate() {
        write(&dir.path().join(name), 20 + i as u32, 30, i as u32);
    }
    fs::write(dir.path().join("Dog/a.txt"), " a dog \n").unwrap();
    fs::write(dir.path().join("b cat/notes.txt"), "no caption").unwrap();
    let set = open(dir.path()).unwrap();
    assert_eq!((set.layout(), set.class_names()), (Layout::ImageFolder, ["Dog".to_string(), "b cat".to_string()].as_slice()));
    let infos: Vec<_> = all(&set).iter().map(|&i| set.info(i).unwrap()).collect();
    let rows: Vec<_> = infos.iter().map(|i| (i.key.as_str(), i.label, i.caption.as_deref())).collect();
    let wanted = [
        ("Dog/a.png", Some(0), Some("a dog")),
        ("Dog/x/1.webp", Some(0), None),
        ("b cat/10.JPG", Some(1), None),
        ("b cat/2.png", Some(1), None),
    ];
    assert_eq!(rows, wanted);
    assert_eq!(set.load(1).unwrap().width, 22);
    assert!(set.load(4).is_err());
}

#[test]
fn flat_and_captioned_folders_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("b.png"), 8, 8, 0);
    write(&dir.path().join("sub/a.png"), 8, 8, 1);
    assert_eq!(open(dir.path()).unwrap().layout(), Layout::FlatFolder);
    fs::write(dir.path().join("sub/a.txt"), "über").unwrap();
    let set = open(dir.path()).unwrap();
    assert_eq!(set.layout(), Layout::CaptionFolder);
    assert_eq!(set.info(1).unwrap().caption.as_deref(), Some("über"));
    assert!(set.class_names().is_empty() && set.info(0).unwrap().label.is_none());
}

#[test]
fn a_missing_and_an_empty_folder_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let missing = open(&dir.path().join("nowhere")).unwrap_err().to_string();
    assert!(missing.contains("nowhere") && missing.contains("no such file or folder"), "{missing}");
    fs::write(dir.path().join("readme.txt"), "x").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NoImages { .. }), "{error}");
    assert!(error.to_string().contains("png"));
}

/// One broken file among good ones of mixed sizes and formats.
fn with_broken(good: usize, broken: &[(&str, Vec<u8>)]) -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..good {
        let name = if i % 2 == 0 { format!("{i:03}.png") } else { format!("{i:03}.jpg") };
        write(&dir.path().join(name), 20 + i as u32 % 13, 40 - i as u32 % 11, i as u32);
    }
    for (name, bytes) in broken {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let set = open(dir.path()).unwrap();
    (dir, set)
}

#[test]
fn a_broken_file_is_named_and_the_rest_goes_through() {
    let (_dir, set) = with_broken(9, &[("004x.png", b"not a picture".to_vec())]);
    let done = std::sync::atomic::AtomicU64::new(0);
    let count = |n: u64| {
        done.fetch_max(n, std::sync::atomic::Ordering::Relaxed);
    };
    let prepared = prepare(&set, &all(&set), &Transform::new(16), 0.01, &count).unwrap();
    assert_eq!(done.into_inner(), 10);
    assert_eq!((prepared.len(), prepared.images.len()), (9, 9 * 16 * 16 * 3));
    assert_eq!(prepared.bad.len(), 1);
    assert_eq!(prepared.bad[0].0, "004x.png");
    assert!(!prepared.keys.contains(&"004x.png".to_string()));
    for (at, &i) in prepared.indices.iter().enumerate() {
        let alone = Transform::new(16).apply(&set.load(i).unwrap()).unwrap();
        assert_eq!(prepared.image(at), alone.pixels, "picture {i}");
    }
}

#[test]
fn more_broken_files_than_tolerated_stop_the_run_and_are_listed() {
    let (_dir, set) = with_broken(4, &[("x.png", vec![]), ("y.jpg", b"text".to_vec())]);
    let error = prepare(&set, &all(&set), &Transform::new(8), 0.01, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("x.png: empty file") && error.contains("y.jpg"), "{error}");
    assert!(prepare(&set, &all(&set), &Transform::new(8), 0.4, &|_| {}).is_ok());
}

#[test]
fn a_set_of_nothing_but_broken_files_is_an_error() {
    let (_dir, set) = with_broken(0, &[("x.png", vec![])]);
    assert!(prepare(&set, &[0], &Transform::new(8), 1.0, &|_| {}).is_err());
}

/// Every cut of a file must be an error, or give the very pixels of the whole (the cut took only what follows them).
fn check_cuts(format: ImageFormat, bytes: &[u8]) {
    let decode = Decode::default();
    let whole = decode.rgb(bytes).unwrap();
    let mut refused = 0;
    for len in (0..bytes.len()).step_by(3) {
        match decode.rgb(&bytes[..len]) {
            Ok(image) => assert_eq!(image, whole, "{format:?} cut at {len} of {}", bytes.len()),
            Err(why) => {
                refused += 1;
                assert!(!why.is_empty());
            }
        }
    }
    assert!(refused > bytes.len() / 3 - 30, "{format:?}: only {refused} cuts refused");
}

#[test]
fn truncated_files_are_errors_wherever_they_are_cut() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp] {
        check_cuts(format, &encoded(format, 37, 29, 3));
    }
}

#[test]
fn a_jpeg_whose_scan_ends_early_is_an_error_even_with_an_end_marker() {
    let bytes = encoded(ImageFormat::Jpeg, 64, 48, 5);
    let scan = bytes.windows(2).position(|w| w == [0xFF, 0xDA]).unwrap();
    for keep in [0.2, 0.5, 0.9] {
        let at = scan + 14 + ((bytes.len() - scan - 16) as f64 * keep) as usize;
        let mut cut = bytes[..at].to_vec();
        cut.extend([0xFF, 0xD9]);
        let why = Decode::default().rgb(&cut).unwrap_err();
        assert!(why.contains("JPEG"), "{why}");
    }
}

#[test]
fn absurd_headers_are_refused_before_anything_is_allocated() {
    let mut png = encoded(ImageFormat::Png, 8, 8, 0);
    for (width, height) in [(100_000u32, 100_000u32), (16_000, 16_000), (0, 8)] {
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(Decode::default().rgb(&png).is_err(), "{width}x{height}");
    }
    let mut jpeg = encoded(ImageFormat::Jpeg, 8, 8, 0);
    let frame = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    assert!(Decode::default().rgb(&jpeg).unwrap_err().contains("65535"));
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0u32, |crc, &b| (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 }))
}

#[test]
fn noise_never_panics() {
    let mut state = 1u64;
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        let bytes = encoded(format, 24, 24, 1);
        for _ in 0..300 {
            let mut damaged = bytes.clone();
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % damaged.len();
                damaged[at] = (state >> 20) as u8;
            }
            drop(Decode::default().rgb(&damaged));
        }
    }
}

#[test]
fn transparency_becomes_white_unless_told_otherwise() {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let rgba = image::RgbaImage::from_pixel(2, 2, image::Rgba([10, 20, 30, 0]));
    rgba.write_to(&mut bytes, ImageFormat::Png).unwrap();
    let bytes = bytes.into_inner();
    assert_eq!(Decode::default().rgb(&bytes).unwrap().pixels[..3], [255; 3]);
    let drop = Decode { alpha: Alpha::Drop, ..Decode::default() };
    assert_eq!(drop.rgb(&bytes).unwrap().pixels[..3], [10, 20, 30]);
}

#[test]
fn the_fingerprint_follows_keys_labels_and_sizes() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a/1.png"), 8, 8, 0);
    write(&dir.path().join("b/2.png"), 8, 8, 1);
    let first = open(dir.path()).unwrap().fingerprint().unwrap();
    assert_eq!(open(dir.path()).unwrap().fingerprint().unwrap(), first);
    assert_eq!(first.len(), 64);
    fs::rename(dir.path().join("b/2.png"), dir.path().join("a/2.png")).unwrap();
    assert_ne!(open(dir.path()).unwrap().fingerprint().unwrap(), first);
}
