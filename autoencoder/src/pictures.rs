//! Pictures as tensors and back, how near two pictures are, and grids of them.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::{ImageFormat, RgbImage as Canvas};
use strata_datasets::RgbImage;

use crate::{Error, Result};

/// `count` square pictures of `size` pixels, packed as 8-bit RGB rows, to `[count, 3, size, size]` float32 in [-1, 1].
///
/// # Errors
/// If there are not that many bytes.
pub fn to_tensor(pixels: &[u8], count: usize, size: usize, device: &Device) -> Result<Tensor> {
    if pixels.len() != count * size * size * 3 {
        return Err(Error::input("pixels", format!("{count} pictures of {size}x{size}x3 bytes"), pixels.len()));
    }
    let values: Vec<f32> = pixels.iter().map(|&v| f32::from(v) / 127.5 - 1.0).collect();
    let x = Tensor::from_vec(values, (count, size, size, 3), device)?;
    Ok(x.permute((0, 3, 1, 2))?.contiguous()?)
}

/// Images `[B, 3, H, W]`, nominally in [-1, 1], to pictures; rounded and clamped.
///
/// # Errors
/// If the shape is another.
pub fn from_tensor(x: &Tensor) -> Result<Vec<RgbImage>> {
    let (_, c, height, width) = x.dims4()?;
    if c != 3 {
        return Err(Error::input("images", "[B, 3, H, W]", x.dims()));
    }
    let byte = |v: f32| (v * 127.5 + 127.5).round().clamp(0.0, 255.0) as u8;
    let values = x.permute((0, 2, 3, 1))?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let picture = |rows: &[f32]| RgbImage { width, height, pixels: rows.iter().map(|&v| byte(v)).collect() };
    Ok(values.chunks_exact(height * width * 3).map(picture).collect())
}

/// Mean squared difference of 8-bit values.
pub fn mean_squared_error(a: &[u8], b: &[u8]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    sum / a.len().max(1) as f64
}

/// Peak signal-to-noise ratio in dB of a mean squared error of 8-bit values; at most 100, which stands for equal pictures.
pub fn psnr(mean_squared_error: f64) -> f64 {
    (10.0 * (255.0f64.powi(2) / mean_squared_error.max(1e-12)).log10()).min(100.0)
}

/// Pictures of one size side by side, `columns` in a row, 2 white pixels apart.
///
/// # Errors
/// If there is no picture, or they differ in size.
pub fn grid(pictures: &[&RgbImage], columns: usize) -> Result<RgbImage> {
    const GAP: usize = 2;
    let Some(first) = pictures.first() else {
        return Err(Error::input("grid", "at least one picture", 0));
    };
    let (w, h, columns) = (first.width, first.height, columns.clamp(1, pictures.len()));
    let rows = pictures.len().div_ceil(columns);
    let (width, height) = (columns * (w + GAP) + GAP, rows * (h + GAP) + GAP);
    let mut pixels = vec![255u8; width * height * 3];
    for (i, picture) in pictures.iter().enumerate() {
        if (picture.width, picture.height) != (w, h) {
            return Err(Error::input("grid", format!("pictures of {w}x{h}"), (picture.width, picture.height)));
        }
        let (x, y) = (GAP + (i % columns) * (w + GAP), GAP + (i / columns) * (h + GAP));
        for (line, row) in picture.pixels.chunks_exact(3 * w).enumerate() {
            let at = 3 * ((y + line) * width + x);
            pixels[at..at + 3 * w].copy_from_slice(row);
        }
    }
    Ok(RgbImage { width, height, pixels })
}

/// Writes a PNG beside its place and renames it.
///
/// # Errors
/// If the file cannot be written.
pub fn write_png(path: &Path, picture: &RgbImage) -> Result<()> {
    let canvas = Canvas::from_raw(picture.width as u32, picture.height as u32, picture.pixels.clone())
        .ok_or_else(|| Error::input("picture", "width x height x 3 bytes", picture.pixels.len()))?;
    let mut bytes = std::io::Cursor::new(Vec::new());
    canvas.write_to(&mut bytes, ImageFormat::Png).map_err(|e| Error::file(path, e))?;
    Ok(strata_nn::weights::write_atomic(path, bytes.get_ref())?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pixels_survive_the_way_through_a_tensor() {
        let pixels: Vec<u8> = (0..2 * 16 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let x = to_tensor(&pixels, 2, 16, &Device::Cpu).unwrap();
        assert_eq!(x.dims(), [2, 3, 16, 16]);
        let back: Vec<u8> = from_tensor(&x).unwrap().into_iter().flat_map(|p| p.pixels).collect();
        assert_eq!(back, pixels);
    }

    #[test]
    fn psnr_of_one_step_in_each_value() {
        let (a, b) = (vec![10u8; 300], vec![11u8; 300]);
        assert!((psnr(mean_squared_error(&a, &b)) - 48.1308).abs() < 1e-4);
        assert_eq!(psnr(mean_squared_error(&a, &a)), 100.0);
    }

    #[test]
    fn a_grid_puts_pictures_in_rows() {
        let flat = |v: u8| RgbImage { width: 3, height: 1, pixels: vec![v; 9] };
        let (a, b, c) = (flat(1), flat(2), flat(3));
        let grid = grid(&[&a, &b, &c], 2).unwrap();
        assert_eq!((grid.width, grid.height), (12, 8));
        let at = |x: usize, y: usize| grid.pixels[3 * (y * grid.width + x)];
        assert_eq!([at(2, 2), at(7, 2), at(2, 5), at(7, 5), at(0, 0)], [1, 2, 3, 255, 255]);
    }
}
