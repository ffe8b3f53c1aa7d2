//! Pictures in files: one by one, tiled, and tiled in rows with captions.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use strata_datasets::RgbImage;

use crate::plot::canvas::{Align, Canvas, INK, Rgb};

/// Pixels between cells and around them.
const MARGIN: usize = 4;
/// Cells smaller than this are enlarged by a whole number, so that one can see something.
const MIN_CELL: usize = 64;
/// Behind the cells: told apart from white pictures and from black ones.
const BACKGROUND: Rgb = [224, 226, 230];
/// Height of the captions' letters.
const CAPTION: f64 = 14.0;

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
/// If there is no picture or no column, or the file cannot be written.
pub fn write_grid(images: &[RgbImage], columns: usize, path: &Path) -> Result<()> {
    ensure!(!images.is_empty() && columns > 0, "{}: a grid needs pictures and columns", path.display());
    write_png(&tile(images, columns), path)
}

/// Tiles rows of pictures with captions at the left and writes them as one.
///
/// # Errors
/// If there is no picture, or the file cannot be written.
pub fn write_rows(rows: &[Row], path: &Path) -> Result<()> {
    ensure!(rows.iter().any(|row| !row.images.is_empty()), "{}: a grid needs pictures", path.display());
    write_png(&captioned(rows), path)
}

/// The picture of [`write_grid`].
pub fn tile(images: &[RgbImage], columns: usize) -> RgbImage {
    let cells = Cells::of(images.iter(), 0);
    let columns = columns.clamp(1, images.len().max(1));
    let mut canvas = cells.canvas(columns, images.len().div_ceil(columns));
    for (i, image) in images.iter().enumerate() {
        cells.paste(&mut canvas, image, i % columns, i / columns);
    }
    canvas.finish()
}

/// The picture of [`write_rows`].
pub fn captioned(rows: &[Row]) -> RgbImage {
    let widest = rows.iter().map(|row| Canvas::text_width(&row.caption, CAPTION)).max().unwrap_or(0);
    let cells = Cells::of(rows.iter().flat_map(|row| &row.images), widest + 2 * MARGIN);
    let columns = rows.iter().map(|row| row.images.len()).max().unwrap_or(0);
    let mut canvas = cells.canvas(columns, rows.len());
    for (y, row) in rows.iter().enumerate() {
        let (right, top) = cells.corner(0, y);
        let middle = (top + cells.height / 2) as f64;
        canvas.text(&row.caption, (right - 2 * MARGIN) as f64, middle, Align::Right, CAPTION, INK);
        for (x, image) in row.images.iter().enumerate() {
            cells.paste(&mut canvas, image, x, y);
        }
    }
    canvas.finish()
}

/// Cells of one size, with room for captions at the left.
struct Cells {
    width: usize,
    height: usize,
    left: usize,
    factor: usize,
}

impl Cells {
    fn of<'a>(images: impl Iterator<Item = &'a RgbImage>, left: usize) -> Self {
        let (width, height) = images.fold((1, 1), |(w, h), image| (w.max(image.width), h.max(image.height)));
        let factor = MIN_CELL.div_ceil(width.max(height)).max(1);
        Self { width: width * factor, height: height * factor, left, factor }
    }

    fn canvas(&self, columns: usize, rows: usize) -> Canvas {
        let (x, y) = self.corner(columns, rows);
        Canvas::new(x, y, BACKGROUND)
    }

    fn corner(&self, column: usize, row: usize) -> (usize, usize) {
        (self.left + MARGIN + column * (self.width + MARGIN), MARGIN + row * (self.height + MARGIN))
    }

    fn paste(&self, canvas: &mut Canvas, image: &RgbImage, column: usize, row: usize) {
        let (x, y) = self.corner(column, row);
        let (dx, dy) = (self.width - image.width * self.factor, self.height - image.height * self.factor);
        canvas.paste(image, x + dx / 2, y + dy / 2, self.factor);
    }
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

    fn plain(width: usize, height: usize, color: Rgb) -> RgbImage {
        RgbImage { width, height, pixels: color.repeat(width * height) }
    }

    fn pixel(image: &RgbImage, x: usize, y: usize) -> &[u8] {
        &image.pixels[(y * image.width + x) * 3..][..3]
    }

    #[test]
    fn cells_lie_row_by_row_with_a_margin() {
        let colors = [[255, 0, 0], [0, 255, 0], [0, 0, 255]];
        let image = tile(&colors.map(|c| plain(64, 64, c)), 2);
        assert_eq!((image.width, image.height), (2 * 68 + 4, 2 * 68 + 4));
        assert_eq!(pixel(&image, 3, 3), BACKGROUND);
        assert_eq!(pixel(&image, 4, 4), colors[0]);
        assert_eq!(pixel(&image, 72, 67), colors[1]);
        assert_eq!(pixel(&image, 67, 72), colors[2]);
        assert_eq!(pixel(&image, 72, 72), BACKGROUND, "the empty cell");
    }

    #[test]
    fn small_pictures_are_enlarged_by_a_whole_number_and_centred() {
        let image = tile(&[plain(32, 16, [1, 2, 3]), plain(16, 16, [4, 5, 6])], 9);
        assert_eq!((image.width, image.height), (2 * 68 + 4, 32 + 8));
        assert_eq!(pixel(&image, 72 + 15, 20), BACKGROUND);
        assert_eq!(pixel(&image, 72 + 16, 20), [4, 5, 6]);
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
