//! A picture to draw on: plotters' bitmap and a font of our own, so that no font has to be installed.

use std::sync::Once;

use plotters::{
    prelude::*,
    style::{
        FontStyle, FontTransform, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};
use strata_datasets::RgbImage;

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// Text and axes.
pub const INK: Rgb = [40, 44, 52];

/// Where a text lies about its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// To the right of the point, centred vertically.
    Left,
    /// Centred on the point.
    Center,
    /// To the left of the point, centred vertically.
    Right,
    /// Centred on the point and read from below.
    Upward,
}

/// An RGB picture with lines, boxes and text; coordinates in pixels from the upper left corner.
pub struct Canvas {
    image: RgbImage,
}

impl Canvas {
    /// All of one colour.
    pub fn new(width: usize, height: usize, background: Rgb) -> Self {
        Self { image: RgbImage { width, height, pixels: background.repeat(width * height) } }
    }

    /// The picture.
    pub fn finish(self) -> RgbImage {
        self.image
    }

    /// The picture at half the size, 2×2 pixels averaged: smooth lines.
    pub fn finish_halved(self) -> RgbImage {
        let (width, height) = (self.image.width / 2, self.image.height / 2);
        let row = self.image.width * 3;
        let mut pixels = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            for x in 0..width {
                for c in 0..3 {
                    let at = 2 * y * row + 6 * x + c;
                    let sum: u16 = [at, at + 3, at + row, at + row + 3].iter().map(|&i| u16::from(self.image.pixels[i])).sum();
                    pixels.push(((sum + 2) / 4) as u8);
                }
            }
        }
        RgbImage { width, height, pixels }
    }

    /// Copies `image`, each pixel `factor` times in both directions, to (`x`, `y`); what lies outside is cut.
    pub fn paste(&mut self, image: &RgbImage, x: usize, y: usize, factor: usize) {
        for dy in 0..image.height * factor {
            for dx in 0..image.width * factor {
                let from = (dy / factor * image.width + dx / factor) * 3;
                let Ok(pixel) = <[u8; 3]>::try_from(&image.pixels[from..from + 3]) else { continue };
                self.set(x + dx, y + dy, pixel);
            }
        }
    }

    fn set(&mut self, x: usize, y: usize, color: Rgb) {
        if x < self.image.width && y < self.image.height {
            let at = (y * self.image.width + x) * 3;
            self.image.pixels[at..at + 3].copy_from_slice(&color);
        }
    }

    /// Fills the box from (`x0`, `y0`) to before (`x1`, `y1`).
    pub fn fill(&mut self, (x0, y0): (f64, f64), (x1, y1): (f64, f64), color: Rgb) {
        let range = |a: f64, b: f64| a.round().max(0.0) as usize..b.round().max(0.0) as usize;
        for y in range(y0, y1) {
            for x in range(x0, x1) {
                self.set(x, y, color);
            }
        }
    }

    /// Joins `points` by straight lines of `width` pixels.
    pub fn line(&mut self, points: &[(f64, f64)], width: u32, color: Rgb) {
        let points: Vec<(i32, i32)> = points.iter().map(|&(x, y)| (x.round() as i32, y.round() as i32)).collect();
        let style = RGBColor(color[0], color[1], color[2]).stroke_width(width);
        // A drawing into memory has nothing that can fail.
        let _ = self.area().draw(&PathElement::new(points, style));
    }

    /// A line of dashes.
    pub fn dashes(&mut self, (x0, y0): (f64, f64), (x1, y1): (f64, f64), width: u32, color: Rgb) {
        const DASH: f64 = 12.0;
        let n = (((x1 - x0).hypot(y1 - y0) / DASH).ceil() as usize).max(1);
        let at = |k: f64| (x0 + (x1 - x0) * k / n as f64, y0 + (y1 - y0) * k / n as f64);
        for k in 0..n {
            self.line(&[at(k as f64), at(k as f64 + 0.6)], width, color);
        }
    }

    /// Writes `text` about (`x`, `y`), `size` pixels high.
    pub fn text(&mut self, text: &str, x: f64, y: f64, align: Align, size: f64, color: Rgb) {
        let (h, transform) = match align {
            Align::Left => (HPos::Left, FontTransform::None),
            Align::Center => (HPos::Center, FontTransform::None),
            Align::Right => (HPos::Right, FontTransform::None),
            Align::Upward => (HPos::Center, FontTransform::Rotate270),
        };
        let style = font(size).transform(transform).color(&RGBColor(color[0], color[1], color[2])).pos(Pos::new(h, VPos::Center));
        let _ = self.area().draw(&Text::new(text.to_string(), (x.round() as i32, y.round() as i32), style));
    }

    /// How wide `text` is at `size`, in pixels.
    pub fn text_width(text: &str, size: f64) -> usize {
        font(size).box_size(text).map_or(0, |(width, _)| width as usize)
    }

    fn area(&mut self) -> DrawingArea<BitMapBackend<'_>, plotters::coord::Shift> {
        let size = (self.image.width as u32, self.image.height as u32);
        BitMapBackend::with_buffer(&mut self.image.pixels, size).into_drawing_area()
    }
}

/// The one font, registered when it is first wanted.
fn font(size: f64) -> FontDesc<'static> {
    const SANS: &[u8] = include_bytes!("../../assets/sans.ttf");
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // The file is part of the binary and a test draws with it.
        let _ = register_font("sans-serif", FontStyle::Normal, SANS);
    });
    ("sans-serif", size).into_font()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_can_be_drawn_and_measured_without_installed_fonts() {
        let (narrow, wide) = (Canvas::text_width("i", 20.0), Canvas::text_width("σ over images", 20.0));
        assert!(narrow > 0 && wide > 5 * narrow, "{narrow} {wide}");
        for align in [Align::Left, Align::Center, Align::Right, Align::Upward] {
            let mut canvas = Canvas::new(100, 100, [255; 3]);
            canvas.text("abc", 50.0, 50.0, align, 20.0, INK);
            let dark: Vec<usize> =
                canvas.finish().pixels.chunks(3).enumerate().filter(|(_, p)| p[0] < 128).map(|(i, _)| i).collect();
            assert!(!dark.is_empty(), "{align:?}");
            let right = dark.iter().filter(|i| *i % 100 >= 50).count();
            match align {
                Align::Left => assert_eq!(right, dark.len()),
                Align::Right => assert_eq!(right, 0),
                _ => assert!(right > 0 && right < dark.len()),
            }
        }
    }

    #[test]
    fn halving_averages() {
        let mut canvas = Canvas::new(4, 2, [0; 3]);
        canvas.fill((0.0, 0.0), (1.0, 2.0), [255, 100, 0]);
        assert_eq!(canvas.finish_halved().pixels, [128, 50, 0, 0, 0, 0]);
    }

    #[test]
    fn what_lies_outside_is_cut() {
        let mut canvas = Canvas::new(4, 4, [0; 3]);
        canvas.fill((2.0, 2.0), (9.0, 9.0), [255; 3]);
        canvas.line(&[(-5.0, -5.0), (20.0, 1.0)], 2, INK);
        canvas.paste(&RgbImage { width: 2, height: 2, pixels: vec![255; 12] }, 3, 3, 2);
        assert_eq!(canvas.finish().pixels.len(), 48);
    }
}
