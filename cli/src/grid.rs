//! Pictures in files: one by one, tiled, and tiled in rows with captions.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use strata_autoencoder::pictures::{self, Cells};
use strata_datasets::RgbImage;

use crate::plot::canvas::{Align, Canvas, INK};

/// Height of the captions' letters.
const CAPTION: f64 = 14.0;
/// Pixels between a caption and what is beside it.
const MARGIN: usize = 4;

/// One row of pictures and what is written at its left.
pub struct Row {
    /// A few words.
    pub caption: String,
    /// The pictures, left to right.
    pub images: Vec<RgbImage>,
}

/// Columns of a grid of `n` pictures that is about as wide as high.
pub fn square(n: usize) -> usize {
    ((n as f64).sqrt().ceil() as usize).max(1)
}

/// Writes one picture as it is, beside its place first.
///
/// # Errors
/// If the file cannot be written.
pub fn write_png(image: &RgbImage, path: &Path) -> Result<()> {
    Ok(strata_nn::weights::write_atomic(path, &png(image).with_context(|| path.display().to_string())?)?)
}

/// Reads a picture of any format that the toolkit reads, as RGB.
///
/// # Errors
/// If the file cannot be read or is damaged.
pub fn read_png(path: &Path) -> Result<RgbImage> {
    let context = || path.display().to_string();
    let image = image::load_from_memory(&std::fs::read(path).with_context(context)?).with_context(context)?.into_rgb8();
    Ok(RgbImage { width: image.width() as usize, height: image.height() as usize, pixels: image.into_raw() })
}

/// Tiles pictures, row by row, and writes them as one. Sizes may differ; each is centred in its cell.
///
/// # Errors
/// If there is no picture, or the file cannot be written.
pub fn write_grid(images: &[RgbImage], columns: usize, path: &Path) -> Result<()> {
    let images: Vec<&RgbImage> = images.iter().collect();
    write_png(&pictures::grid(&images, columns).with_context(|| path.display().to_string())?, path)
}

/// Tiles rows of pictures with captions at the left and writes them as one.
///
/// # Errors
/// If there is no picture, or the file cannot be written.
pub fn write_rows(rows: &[Row], path: &Path) -> Result<()> {
    ensure!(rows.iter().any(|row| !row.images.is_empty()), "{}: a grid needs pictures", path.display());
    write_png(&captioned(rows), path)
}

/// The picture of [`write_rows`].
pub fn captioned(rows: &[Row]) -> RgbImage {
    let left = rows.iter().map(|row| Canvas::text_width(&row.caption, CAPTION)).max().unwrap_or(0) + 2 * MARGIN;
    let cells = Cells::of(rows.iter().flat_map(|row| &row.images));
    let columns = rows.iter().map(|row| row.images.len()).max().unwrap_or(0);
    let (width, height) = cells.corner(columns, rows.len());
    let mut canvas = Canvas::new(left + width, height, pictures::BACKGROUND);
    for (y, row) in rows.iter().enumerate() {
        let middle = (cells.corner(0, y).1 + cells.height / 2) as f64;
        canvas.text(&row.caption, (left - MARGIN) as f64, middle, Align::Right, CAPTION, INK);
        for (x, image) in row.images.iter().enumerate() {
            let (from_left, top) = cells.place(image, x, y);
            canvas.paste(image, left + from_left, top, cells.factor);
        }
    }
    canvas.finish()
}

/// The picture as the bytes of a PNG file.
fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (width, height) = (u32::try_from(image.width)?, u32::try_from(image.height)?);
    PngEncoder::new(&mut bytes).write_image(&image.pixels, width, height, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plot::canvas::Rgb;

    const BACKGROUND: Rgb = pictures::BACKGROUND;

    fn plain(width: usize, height: usize, color: Rgb) -> RgbImage {
        RgbImage { width, height, pixels: color.repeat(width * height) }
    }

    fn pixel(image: &RgbImage, x: usize, y: usize) -> &[u8] {
        &image.pixels[(y * image.width + x) * 3..][..3]
    }

    #[test]
    fn captions_leave_the_pictures_alone() {
        let row = |caption: &str, n: usize| Row { caption: caption.to_string(), images: vec![plain(64, 64, [9, 9, 9]); n] };
        let image = captioned(&[row("Smileys & Emotion", 2), row("Flags", 3)]);
        let left = image.width - (3 * 68 + 4);
        assert!(left > 80 && left < 250, "{left}");
        assert_eq!(pixel(&image, left + 4, 4), [9, 9, 9]);
        assert!((0..left).any(|x| pixel(&image, x, 36) != BACKGROUND), "something is written");
    }

    #[test]
    fn files_go_there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let image = plain(3, 2, [7, 8, 9]);
        write_png(&image, &path).unwrap();
        assert!(read_png(&path).unwrap() == image);
        assert!(write_grid(&[], 2, &path).is_err());
        assert!(read_png(&path).unwrap() == image, "nothing overwritten");
        let message = write_png(&image, &folder.path().join("none/a.png")).unwrap_err().to_string();
        assert!(message.contains("none/a.png"), "{message}");
    }

    #[test]
    fn a_square_grid() {
        assert_eq!([0, 1, 2, 4, 5, 64, 65].map(square), [1, 1, 2, 2, 3, 8, 9]);
    }
}
