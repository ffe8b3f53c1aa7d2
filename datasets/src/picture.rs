//! Pictures in memory: as stored in a file, and as the rest of the toolkit wants them.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A picture of 8-bit RGB, row-major: `pixels` holds `height * width * 3` bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major, interleaved.
    pub pixels: Vec<u8>,
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({}x{})", self.width, self.height)
    }
}

impl RgbImage {
    /// The picture mirrored left to right.
    #[must_use]
    pub fn flipped(&self) -> Self {
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for row in self.pixels.chunks_exact(self.width * 3) {
            pixels.extend(row.chunks_exact(3).rev().flatten());
        }
        Self { pixels, ..*self }
    }
}

/// What becomes of transparency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alpha {
    /// Composited on white: what a viewer shows, and what most sheets of cut-out pictures mean.
    #[default]
    White,
    /// Composited on this colour.
    Over([u8; 3]),
    /// Dropped, the colour below it kept: what the published loaders do.
    Drop,
}

impl std::str::FromStr for Alpha {
    type Err = Error;

    /// `white`, `drop`, or a colour as RRGGBB.
    fn from_str(text: &str) -> Result<Self> {
        let digits = text.trim_start_matches('#');
        let colour = || {
            let all = digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let number = u32::from_str_radix(digits, 16).ok().filter(|_| all)?;
            Some(Self::Over([(number >> 16) as u8, (number >> 8) as u8, number as u8]))
        };
        match text {
            "white" => Ok(Self::White),
            "drop" => Ok(Self::Drop),
            _ => colour().ok_or_else(|| Error::argument("background", "white, drop, or a colour as RRGGBB", text)),
        }
    }
}

/// A decoded picture with the channels that its file stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha (a palette counts as its colours).
    pub channels: usize,
    /// Row-major, interleaved, 8 bit.
    pub pixels: Vec<u8>,
    /// EXIF orientation, 1 to 8; 1 is upright.
    pub orientation: u8,
}

impl StoredImage {
    /// RGB: grey repeated, transparency as `alpha` says.
    pub fn rgb(&self, alpha: Alpha) -> RgbImage {
        let background = match alpha {
            Alpha::White => Some([255; 3]),
            Alpha::Over(colour) => Some(colour),
            Alpha::Drop => None,
        };
        let mut pixels = Vec::with_capacity(self.width * self.height * 3);
        for p in self.rgba().chunks_exact(4) {
            match background {
                Some(colour) if p[3] < 255 => pixels.extend((0..3).map(|c| over(p[c], colour[c], p[3]))),
                _ => pixels.extend_from_slice(&p[..3]),
            }
        }
        RgbImage { width: self.width, height: self.height, pixels }
    }

    /// The same; the pixels of a picture that is RGB already are not copied.
    pub fn into_rgb(self, alpha: Alpha) -> RgbImage {
        if self.channels == 3 {
            return RgbImage { width: self.width, height: self.height, pixels: self.pixels };
        }
        self.rgb(alpha)
    }

    /// RGBA, `height * width * 4` bytes: grey repeated, alpha 255 where the file stores none.
    pub fn rgba(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.width * self.height * 4);
        for p in self.pixels.chunks_exact(self.channels) {
            out.extend_from_slice(&match *p {
                [v] => [v, v, v, 255],
                [v, a] => [v, v, v, a],
                [r, g, b] => [r, g, b, 255],
                _ => [p[0], p[1], p[2], p[3]],
            });
        }
        out
    }

    /// The picture with its EXIF orientation applied.
    #[must_use]
    pub fn upright(self) -> Self {
        if !(2..=8).contains(&self.orientation) {
            return Self { orientation: 1, ..self };
        }
        let (w, h, c) = (self.width, self.height, self.channels);
        let transposed = self.orientation >= 5;
        let (width, height) = if transposed { (h, w) } else { (w, h) };
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (sx, sy) = source_of(self.orientation, x, y, w, h);
                let start = (sy * w + sx) * c;
                pixels.extend_from_slice(&self.pixels[start..start + c]);
            }
        }
        Self { width, height, channels: c, pixels, orientation: 1 }
    }
}

/// `value` of opacity `alpha` over `background`, rounded.
fn over(value: u8, background: u8, alpha: u8) -> u8 {
    let (v, b, a) = (u32::from(value), u32::from(background), u32::from(alpha));
    ((v * a + b * (255 - a) + 127) / 255) as u8
}

/// Where the pixel (x, y) of the upright picture lies in the stored one of `w` x `h` (EXIF 2.3, tag 0x0112).
fn source_of(orientation: u8, x: usize, y: usize, w: usize, h: usize) -> (usize, usize) {
    match orientation {
        2 => (w - 1 - x, y),
        3 => (w - 1 - x, h - 1 - y),
        4 => (x, h - 1 - y),
        5 => (y, x),
        6 => (y, h - 1 - x),
        7 => (w - 1 - y, h - 1 - x),
        8 => (w - 1 - y, x),
        _ => (x, y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(width: usize, height: usize, pixels: &[u8], orientation: u8) -> StoredImage {
        StoredImage { width, height, channels: 1, pixels: pixels.to_vec(), orientation }
    }

    #[test]
    fn orientations_turn_the_letter_upright() {
        // The upright picture is [1 2 3 / 4 5 6]; each row is how a camera stores it under that orientation.
        let cases: [(u8, usize, [u8; 6]); 8] = [
            (1, 3, [1, 2, 3, 4, 5, 6]),
            (2, 3, [3, 2, 1, 6, 5, 4]),
            (3, 3, [6, 5, 4, 3, 2, 1]),
            (4, 3, [4, 5, 6, 1, 2, 3]),
            (5, 2, [1, 4, 2, 5, 3, 6]),
            (6, 2, [3, 6, 2, 5, 1, 4]),
            (7, 2, [6, 3, 5, 2, 4, 1]),
            (8, 2, [4, 1, 5, 2, 6, 3]),
        ];
        for (orientation, width, stored) in cases {
            let up = grey(width, 6 / width, &stored, orientation).upright();
            assert_eq!((up.width, up.height, up.pixels.as_slice()), (3, 2, [1, 2, 3, 4, 5, 6].as_slice()), "{orientation}");
        }
    }

    #[test]
    fn alpha_is_composited_or_dropped() {
        let image = StoredImage { width: 1, height: 1, channels: 4, pixels: vec![10, 20, 30, 51], orientation: 1 };
        assert_eq!(image.rgb(Alpha::White).pixels, [206, 208, 210]);
        assert_eq!(image.rgb(Alpha::Over([0; 3])).pixels, [2, 4, 6]);
        assert_eq!(image.rgb(Alpha::Drop).pixels, [10, 20, 30]);
    }

    #[test]
    fn a_flip_mirrors_pixels_not_bytes() {
        let image = RgbImage { width: 2, height: 1, pixels: vec![1, 2, 3, 4, 5, 6] };
        assert_eq!(image.flipped().pixels, [4, 5, 6, 1, 2, 3]);
    }
}
