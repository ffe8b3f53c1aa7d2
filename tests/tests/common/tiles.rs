//! Two classes of tiles that a small network tells apart at once, more of the same to compare with, noise, and an extractor.

use std::path::Path;

use super::run::ok;

/// Folders `data`, `more` and `noise` of 80 tiles each, and the extractor `e.safetensors` that was trained on the first.
pub fn tiles(folder: &Path) {
    for (set, first) in [("data", 0), ("more", 1000)] {
        for i in first..first + 40 {
            tile(&folder.join(set).join("stripes"), i, |x, _, i| ((x / 2 + i) % 2 * 200) as u8);
            tile(&folder.join(set).join("checks"), i, |x, y, i| ((x / 4 + y / 4 + i) % 2 * 255) as u8);
        }
    }
    (0..80).for_each(|i| tile(&folder.join("noise"), i, |x, y, i| (hash(x, y, i) >> 13) as u8));
    let train = ["eval", "train-extractor", "--data", "data", "--size", "16", "--images", "640", "--out", "e.safetensors"];
    let (_, stderr) = ok(folder, &train, &["--held-out", "0.2"]);
    assert!(stderr.contains("training the extractor"), "{stderr}");
}

/// Numbers that look random.
pub fn hash(x: u32, y: u32, i: u32) -> u32 {
    ((x * 73_856_093) ^ (y * 19_349_663) ^ (i * 83_492_791)).wrapping_mul(2_654_435_761)
}

/// Picture `i`, 16 x 16.
pub fn tile(folder: &Path, i: u32, value: impl Fn(u32, u32, u32) -> u8) {
    std::fs::create_dir_all(folder).unwrap();
    let color = |x, y| {
        let v = value(x, y, i).saturating_add((hash(x, y, i) % 23) as u8);
        image::Rgb([v, v / 2, 255 - v])
    };
    image::RgbImage::from_fn(16, 16, color).save(folder.join(format!("{i:04}.png"))).unwrap();
}
