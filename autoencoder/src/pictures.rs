//! Pictures as tensors and back, how near two pictures are, and grids of them.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::{ImageFormat, RgbImage as Canvas};
use strata_datasets::RgbImage;

use crate::{Error, Result, model::check_finite};

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
/// If the shape is another, or a number is not finite.
pub fn from_tensor(x: &Tensor) -> Result<Vec<RgbImage>> {
    let (_, c, height, width) = x.dims4()?;
    if c != 3 {
        return Err(Error::input("images", "[B, 3, H, W]", x.dims()));
    }
    check_finite("images", x)?;
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

/// Pixels between cells of a grid and around them.
const MARGIN: usize = 4;
/// Cells smaller than this are enlarged by a whole number, so that one can see something.
const MIN_CELL: usize = 64;
/// Behind the cells of a grid: told apart from white pictures and from black ones.
pub const BACKGROUND: [u8; 3] = [224, 226, 230];

/// Where the pictures of a grid lie: cells of one size with a margin around them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cells {
    /// Width of a cell in pixels.
    pub width: usize,
    /// Height of a cell in pixels.
    pub height: usize,
    /// How many times a picture is enlarged.
    pub factor: usize,
}

impl Cells {
    /// Cells that every one of `pictures` fits in.
    pub fn of<'a>(pictures: impl Iterator<Item = &'a RgbImage>) -> Self {
        let (width, height) = pictures.fold((1, 1), |(w, h), picture| (w.max(picture.width), h.max(picture.height)));
        let factor = MIN_CELL.div_ceil(width.max(height)).max(1);
        Self { width: width * factor, height: height * factor, factor }
    }

    /// The upper left corner of a cell; that of the cell behind the last one is the size of the grid.
    pub fn corner(&self, column: usize, row: usize) -> (usize, usize) {
        (MARGIN + column * (self.width + MARGIN), MARGIN + row * (self.height + MARGIN))
    }

    /// Where a picture begins that lies in the middle of a cell.
    pub fn place(&self, picture: &RgbImage, column: usize, row: usize) -> (usize, usize) {
        let (x, y) = self.corner(column, row);
        let middle = |cell: usize, side: usize| (cell - (side * self.factor).min(cell)) / 2;
        (x + middle(self.width, picture.width), y + middle(self.height, picture.height))
    }
}

/// Pictures side by side, `columns` in a row; small ones enlarged, each in the middle of its cell.
///
/// # Errors
/// If there is no picture.
pub fn grid(pictures: &[&RgbImage], columns: usize) -> Result<RgbImage> {
    if pictures.is_empty() {
        return Err(Error::input("grid", "at least one picture", 0));
    }
    let (cells, columns) = (Cells::of(pictures.iter().copied()), columns.clamp(1, pictures.len()));
    let (width, height) = cells.corner(columns, pictures.len().div_ceil(columns));
    let mut grid = RgbImage { width, height, pixels: BACKGROUND.repeat(width * height) };
    for (i, picture) in pictures.iter().enumerate() {
        paste(&mut grid, picture, cells.place(picture, i % columns, i / columns), cells.factor);
    }
    Ok(grid)
}

fn paste(grid: &mut RgbImage, picture: &RgbImage, (x, y): (usize, usize), factor: usize) {
    for (i, row) in picture.pixels.chunks_exact((3 * picture.width).max(3)).enumerate() {
        let enlarged: Vec<u8> = row.chunks_exact(3).flat_map(|pixel| pixel.repeat(factor)).collect();
        for line in i * factor..(i + 1) * factor {
            let at = 3 * ((y + line) * grid.width + x);
            grid.pixels[at..at + enlarged.len()].copy_from_slice(&enlarged);
        }
    }
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
        let broken = (&x * f64::NAN).unwrap();
        assert!(from_tensor(&broken).unwrap_err().to_string().contains("images: expected finite numbers, got 1536 of 1536"));
        let back: Vec<u8> = from_tensor(&x).unwrap().into_iter().flat_map(|p| p.pixels).collect();
        assert_eq!(back, pixels);
    }

    #[test]
    fn psnr_of_one_step_in_each_value() {
        let (a, b) = (vec![10u8; 300], vec![11u8; 300]);
        assert!((psnr(mean_squared_error(&a, &b)) - 48.1308).abs() < 1e-4);
        assert_eq!(psnr(mean_squared_error(&a, &a)), 100.0);
    }

    fn plain(width: usize, height: usize, color: [u8; 3]) -> RgbImage {
        RgbImage { width, height, pixels: color.repeat(width * height) }
    }

    fn pixel(image: &RgbImage, x: usize, y: usize) -> &[u8] {
        &image.pixels[(y * image.width + x) * 3..][..3]
    }

    #[test]
    fn cells_lie_row_by_row_with_a_margin() {
        let colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
        let pictures = colors.map(|c| plain(64, 64, c));
        let image = grid(&pictures.each_ref(), 2).unwrap();
        assert_eq!((image.width, image.height), (2 * 68 + 4, 2 * 68 + 4));
        assert_eq!(pixel(&image, 3, 3), BACKGROUND);
        assert_eq!(pixel(&image, 4, 4), colors[0]);
        assert_eq!(pixel(&image, 72, 67), colors[1]);
        assert_eq!(pixel(&image, 67, 72), colors[2]);
        assert_eq!(pixel(&image, 72, 72), BACKGROUND, "the empty cell");
        assert!(grid(&[], 2).is_err());
    }

    #[test]
    fn small_pictures_are_enlarged_by_a_whole_number_and_centred() {
        let image = grid(&[&plain(32, 16, [1, 2, 3]), &plain(16, 16, [4, 5, 6])], 9).unwrap();
        assert_eq!((image.width, image.height), (2 * 68 + 4, 32 + 8));
        assert_eq!(pixel(&image, 72 + 15, 20), BACKGROUND);
        assert_eq!(pixel(&image, 72 + 16, 20), [4, 5, 6]);
    }
}
