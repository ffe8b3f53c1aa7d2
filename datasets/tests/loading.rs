//! The loader: what a batch holds depends on nothing but its position.
#![allow(clippy::unwrap_used)]

mod common;

use common::write;
use strata_datasets::{Dataset, DatasetOptions, ImageBatch, ImageLoader, LoaderOptions, Transform};

fn set(n: u32, broken: &[u32]) -> (tempfile::TempDir, Dataset) {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..n {
        let path = dir.path().join(format!("{i:03}.png"));
        if broken.contains(&i) { std::fs::write(&path, "broken").unwrap() } else { write(&path, 12, 12, i) }
    }
    let set = Dataset::open(dir.path().to_str().unwrap(), &DatasetOptions::default()).unwrap();
    (dir, set)
}

fn batches(set: &Dataset, options: LoaderOptions, n: usize) -> Vec<ImageBatch> {
    let mut loader = ImageLoader::new(set, (0..set.len()).collect(), Transform::new(8), options).unwrap();
    (0..n).map(|_| loader.next().unwrap()).collect()
}

fn options() -> LoaderOptions {
    LoaderOptions { batch: 4, seed: 9, workers: 2, prefetch: 3, flip: true, ..LoaderOptions::default() }
}

#[test]
fn batches_do_not_depend_on_the_workers() {
    let (_dir, set) = set(13, &[]);
    let one = batches(&set, LoaderOptions { workers: 1, prefetch: 1, ..options() }, 9);
    let many = batches(&set, LoaderOptions { workers: 5, prefetch: 8, ..options() }, 9);
    assert_eq!(one, many);
    let mut first_epoch: Vec<usize> = one.iter().flat_map(|b| b.indices.clone()).take(13).collect();
    first_epoch.sort_unstable();
    assert!(first_epoch.into_iter().eq(0..13));
}

#[test]
fn a_resumed_loader_goes_on_where_the_other_stood() {
    let (_dir, set) = set(13, &[]);
    let all = batches(&set, options(), 8);
    assert_eq!(batches(&set, LoaderOptions { start: 5 * 4, ..options() }, 3), all[5..]);
}

#[test]
fn ranks_share_an_epoch_without_overlap() {
    let (_dir, set) = set(24, &[]);
    let rank = |rank| batches(&set, LoaderOptions { rank, ranks: 2, ..options() }, 3);
    let mut seen: Vec<usize> = [rank(0), rank(1)].iter().flatten().flat_map(|b| b.indices.clone()).collect();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..24));
}

#[test]
fn both_flips_occur() {
    let (_dir, set) = set(4, &[]);
    let still = batches(&set, LoaderOptions { flip: false, ..options() }, 8);
    let flipped = batches(&set, options(), 8);
    let same = still.iter().zip(&flipped).flat_map(|(a, b)| a.pixels.chunks(192).zip(b.pixels.chunks(192)));
    let same = same.filter(|(a, b)| a == b).count();
    assert!((4..28).contains(&same), "{same} of 32 not flipped");
}

#[test]
fn a_broken_picture_is_replaced_and_named_and_many_stop_the_run() {
    let (_dir, few) = set(12, &[5]);
    let mut loader = ImageLoader::new(&few, (0..12).collect(), Transform::new(8), options()).unwrap();
    for _ in 0..6 {
        assert!(!loader.next().unwrap().indices.contains(&5));
    }
    assert_eq!(loader.bad().len(), 1);
    assert_eq!(loader.bad()[0].0, "005.png");
    let (_dir, many) = set(12, &[1, 2, 3]);
    let mut loader = ImageLoader::new(&many, (0..12).collect(), Transform::new(8), options()).unwrap();
    let error = (0..6).find_map(|_| loader.next().err()).unwrap().to_string();
    assert!(error.contains("tolerated"), "{error}");
}

#[test]
fn nothing_to_load_is_an_error() {
    let (_dir, set) = set(2, &[]);
    assert!(ImageLoader::new(&set, vec![], Transform::new(8), options()).is_err());
    assert!(ImageLoader::new(&set, vec![0], Transform::new(8), LoaderOptions { batch: 0, ..options() }).is_err());
}
