//! From a picture of any size to a square of a given one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::order::mix;
use crate::picture::RgbImage;
use crate::resize::{Filter, Interpolation, Pixels, resize, resize_opencv};
use crate::rules::{center_crop, smallest_side};
use crate::{Error, Result};

/// What is kept of a picture that is no square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The centre square, then resized: EDM's `center-crop`.
    #[default]
    Center,
    /// Everything, squashed into the square.
    Squash,
    /// The smaller side is resized to the size, then the centre square is cut out: LDM's rule for image folders.
    SmallestSide,
    /// The same, but a random square is cut out.
    Random,
    /// The centre 178 x 178 of CelebA's 178 x 218, then resized.
    Celeba,
}

const CROPS: [(&str, Crop); 5] = [
    ("center", Crop::Center),
    ("squash", Crop::Squash),
    ("smallest_side", Crop::SmallestSide),
    ("random", Crop::Random),
    ("celeba", Crop::Celeba),
];

impl FromStr for Crop {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = CROPS.iter().find(|(n, _)| *n == name);
        found
            .map(|&(_, c)| c)
            .ok_or_else(|| Error::argument("crop", format!("one of {}", CROPS.map(|(n, _)| n).join(", ")), name))
    }
}

/// CelebA's aligned pictures are this wide.
const CELEBA_SIDE: usize = 178;

/// How pixels are resampled: Pillow's filters by their names, OpenCV's interpolations as `cv_nearest`, `cv_bilinear`,
/// `cv_bicubic`, `cv_area`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Resampling {
    /// Antialiased, equal to Pillow's.
    Pillow(Filter),
    /// OpenCV's rules.
    OpenCv(Interpolation),
}

impl Default for Resampling {
    fn default() -> Self {
        Self::Pillow(Filter::default())
    }
}

const RESAMPLINGS: [(&str, Resampling); 10] = [
    ("nearest", Resampling::Pillow(Filter::Nearest)),
    ("box", Resampling::Pillow(Filter::Box)),
    ("bilinear", Resampling::Pillow(Filter::Bilinear)),
    ("hamming", Resampling::Pillow(Filter::Hamming)),
    ("bicubic", Resampling::Pillow(Filter::Bicubic)),
    ("lanczos", Resampling::Pillow(Filter::Lanczos)),
    ("cv_nearest", Resampling::OpenCv(Interpolation::Nearest)),
    ("cv_bilinear", Resampling::OpenCv(Interpolation::Bilinear)),
    ("cv_bicubic", Resampling::OpenCv(Interpolation::Bicubic)),
    ("cv_area", Resampling::OpenCv(Interpolation::Area)),
];

impl fmt::Display for Resampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(RESAMPLINGS.iter().find(|(_, r)| r == self).map_or("lanczos", |(name, _)| name))
    }
}

impl FromStr for Resampling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let names = || RESAMPLINGS.map(|(n, _)| n).join(", ");
        let found = RESAMPLINGS.iter().find(|(n, _)| *n == name);
        found.map(|&(_, r)| r).ok_or_else(|| Error::argument("filter", format!("one of {}", names()), name))
    }
}

impl TryFrom<String> for Resampling {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Resampling> for String {
    fn from(resampling: Resampling) -> Self {
        resampling.to_string()
    }
}

/// The preparation of every picture of a run; part of the manifest of what is made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transform {
    /// Side of the square, in pixels.
    pub size: usize,
    /// What is kept of a picture that is no square.
    pub crop: Crop,
    /// How pixels are resampled.
    pub filter: Resampling,
}

impl Default for Transform {
    fn default() -> Self {
        Self { size: 32, crop: Crop::default(), filter: Resampling::default() }
    }
}

impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let crop = match self.crop {
            Crop::Center => "centre square",
            Crop::Squash => "squashed",
            Crop::SmallestSide => "smaller side, centre square",
            Crop::Random => "smaller side, random square",
            Crop::Celeba => "centre 178x178",
        };
        write!(f, "{crop} to {0}x{0}, {1}", self.size, self.filter)
    }
}

impl Transform {
    /// The centre square, Lanczos, to `size`.
    pub fn new(size: usize) -> Self {
        Self { size, ..Self::default() }
    }

    /// The same with the centre in place of a random part: for measuring.
    #[must_use]
    pub fn centred(self) -> Self {
        Self { crop: if self.crop == Crop::Random { Crop::SmallestSide } else { self.crop }, ..self }
    }

    /// `size` x `size` pixels of `image`; of a random crop, the centre. A picture that is right already is copied.
    /// Errors if the picture is empty, or smaller than the crop.
    pub fn apply(&self, image: &RgbImage) -> Result<RgbImage> {
        self.centred().apply_drawn(image, 0)
    }

    /// The same; where a random crop lies is a function of `draw`. Errors as [`Transform::apply`].
    pub fn apply_drawn(&self, image: &RgbImage, draw: u64) -> Result<RgbImage> {
        let out = match self.crop {
            Crop::Center => self.resize(&middle(image, image.width.min(image.height))?, self.size, self.size)?,
            Crop::Squash => self.resize(&pixels(image), self.size, self.size)?,
            Crop::Celeba => self.resize(&middle(image, CELEBA_SIDE)?, self.size, self.size)?,
            Crop::SmallestSide => center_crop(&self.smaller_side(image)?, self.size)?,
            Crop::Random => {
                let scaled = self.smaller_side(image)?;
                let room = |side: usize, bits: u64| (bits % (side - self.size + 1) as u64) as usize;
                let (x, y) = (room(scaled.width, mix(draw)), room(scaled.height, mix(draw ^ 1)));
                scaled.crop(x, y, self.size, self.size)?
            }
        };
        Ok(RgbImage { width: out.width, height: out.height, pixels: out.data })
    }

    fn smaller_side(&self, image: &RgbImage) -> Result<Pixels> {
        let (width, height) = smallest_side(image.width, image.height, self.size);
        self.resize(&pixels(image), width, height)
    }

    fn resize(&self, pixels: &Pixels, width: usize, height: usize) -> Result<Pixels> {
        match self.filter {
            Resampling::Pillow(filter) => resize(pixels, width, height, filter, None),
            Resampling::OpenCv(interpolation) => resize_opencv(pixels, width, height, interpolation),
        }
    }
}

fn pixels(image: &RgbImage) -> Pixels {
    Pixels { width: image.width, height: image.height, channels: 3, data: image.pixels.clone() }
}

/// The centred square of side `size`, as [`center_crop`] but without a copy of the rest.
fn middle(image: &RgbImage, size: usize) -> Result<Pixels> {
    if size == 0 || image.width < size || image.height < size {
        let got = format!("{}x{}", image.width, image.height);
        return Err(Error::argument("picture", format!("at least {size}x{size} to crop from"), got));
    }
    let (left, top) = ((image.width - size) / 2, (image.height - size) / 2);
    let mut data = Vec::with_capacity(size * size * 3);
    for row in image.pixels.chunks_exact(image.width * 3).skip(top).take(size) {
        data.extend_from_slice(&row[left * 3..(left + size) * 3]);
    }
    Ok(Pixels { width: size, height: size, channels: 3, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: usize, height: usize) -> RgbImage {
        RgbImage { width, height, pixels: (0..width * height * 3).map(|i| (i % 251) as u8).collect() }
    }

    #[test]
    fn every_crop_answers_the_square() -> Result<()> {
        for (w, h) in [(200, 300), (300, 200), (178, 218), (178, 178)] {
            for (_, crop) in CROPS {
                for (_, filter) in RESAMPLINGS {
                    let out = Transform { size: 24, crop, filter }.apply(&picture(w, h))?;
                    assert_eq!((out.width, out.height, out.pixels.len()), (24, 24, 24 * 24 * 3));
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_random_crop_is_a_function_of_its_draw_and_reaches_both_ends() -> Result<()> {
        let random = Transform { crop: Crop::Random, ..Transform::new(10) };
        let image = picture(13, 10);
        let windows: Vec<RgbImage> = (0..4).map(|x| window(&image, x)).collect::<Result<_>>()?;
        let mut seen = [0; 4];
        for draw in 0..200 {
            let out = random.apply_drawn(&image, draw)?;
            assert_eq!(out, random.apply_drawn(&image, draw)?);
            for (count, window) in seen.iter_mut().zip(&windows) {
                *count += usize::from(out == *window);
            }
        }
        assert!(seen.iter().sum::<usize>() == 200 && seen.iter().all(|&n| n > 25), "{seen:?}");
        assert_eq!(random.apply(&image)?, window(&image, 1)?);
        Ok(())
    }

    fn window(image: &RgbImage, x: usize) -> Result<RgbImage> {
        let out = pixels(image).crop(x, 0, image.height, image.height)?;
        Ok(RgbImage { width: out.width, height: out.height, pixels: out.data })
    }

    #[test]
    fn the_right_size_is_a_copy() -> Result<()> {
        let image = picture(20, 20);
        assert_eq!(Transform::new(20).apply(&image)?, image);
        Ok(())
    }

    #[test]
    fn too_small_for_the_crop_is_an_error() {
        let celeba = Transform { crop: Crop::Celeba, ..Transform::new(8) };
        assert!(celeba.apply(&picture(177, 300)).is_err());
        assert!(Transform::new(0).apply(&picture(4, 4)).is_err());
    }

    #[test]
    fn names_survive_a_manifest() -> std::result::Result<(), serde_json::Error> {
        let transform = Transform { size: 64, crop: Crop::SmallestSide, filter: Resampling::OpenCv(Interpolation::Area) };
        let text = serde_json::to_string(&transform)?;
        assert_eq!(text, r#"{"size":64,"crop":"smallest_side","filter":"cv_area"}"#);
        assert_eq!(serde_json::from_str::<Transform>(&text)?, transform);
        assert!(serde_json::from_str::<Transform>(r#"{"filter":"lancsos"}"#).is_err());
        Ok(())
    }
}
