//! What the tests share: pictures written to a temporary folder.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::Path;

use image::{ImageFormat, RgbImage};

/// A picture with structure, different for each `seed`.
pub fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 7 + seed * 31) as u8, (y * 5 + seed * 17) as u8, ((x + y) * 3 + seed) as u8])
    })
}

/// Writes it; the format follows the name.
pub fn write(path: &Path, width: u32, height: u32, seed: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture(width, height, seed).save(path).unwrap();
}

/// The bytes of a picture file.
pub fn encoded(format: ImageFormat, width: u32, height: u32, seed: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture(width, height, seed).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}
