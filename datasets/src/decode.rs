//! Bytes of a picture file to pixels. The content decides the format, never the file's name.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use serde::{Deserialize, Serialize};

use crate::jpeg::{self, Jpeg};
use crate::picture::{Alpha, RgbImage, StoredImage};

/// How pictures are decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decode {
    /// Apply the EXIF orientation.
    pub upright: bool,
    /// What becomes of transparency.
    pub alpha: Alpha,
    /// A header that claims more pixels than this is refused before anything is allocated.
    pub max_pixels: u64,
}

impl Default for Decode {
    fn default() -> Self {
        // 2^28 pixels are 16384 x 16384: above every camera, below what exhausts memory.
        Self { upright: true, alpha: Alpha::White, max_pixels: 1 << 28 }
    }
}

/// No compressed format gives more than this many bytes of pixels per byte of file, but for plain surfaces.
const MAX_EXPANSION: u64 = 2048;
/// Below this size a picture may be as plain as it likes.
const SMALL_PICTURE: u64 = 64 << 20;

impl Decode {
    /// Decodes to RGB. Errors say why the bytes are no usable picture.
    pub fn rgb(&self, bytes: &[u8]) -> Result<RgbImage, String> {
        Ok(self.finish(self.stored(bytes)?))
    }

    /// A stored picture, as RGB by these rules.
    pub fn finish(&self, image: StoredImage) -> RgbImage {
        let image = if self.upright { image.upright() } else { image };
        image.into_rgb(self.alpha)
    }

    /// Decodes with the stored channels and orientation: 16 bit is rounded to 8, palettes are looked up.
    pub fn stored(&self, bytes: &[u8]) -> Result<StoredImage, String> {
        // A decoder that panics on a damaged file must not take a worker with it.
        let caught = std::panic::catch_unwind(|| self.decode(bytes));
        caught.unwrap_or_else(|_| Err("the decoder failed on it".into()))
    }

    fn decode(&self, bytes: &[u8]) -> Result<StoredImage, String> {
        if bytes.is_empty() {
            return Err("empty file".into());
        }
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
        let format = reader.format().ok_or("not a picture in a known format")?;
        if format == ImageFormat::Jpeg {
            let jpeg = Jpeg::read(bytes)?;
            self.check_size(jpeg.dimensions(), jpeg.total_bytes(), bytes.len() as u64)?;
            jpeg::check(bytes)?;
            return jpeg.stored();
        }
        let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
        self.check_size(decoder.dimensions(), decoder.total_bytes(), bytes.len() as u64)?;
        let orientation = decoder.orientation().map_or(1, image::metadata::Orientation::to_exif);
        let image = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
        Ok(to_stored(image, orientation))
    }

    fn check_size(&self, (width, height): (u32, u32), decoded: u64, encoded: u64) -> Result<(), String> {
        if width == 0 || height == 0 {
            return Err(format!("the header says {width}x{height} pixels"));
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            return Err(format!("the header says {width}x{height} pixels, more than {} are refused", self.max_pixels));
        }
        if decoded > SMALL_PICTURE && decoded / MAX_EXPANSION > encoded {
            return Err(format!("the header says {width}x{height} pixels, which {encoded} bytes cannot hold"));
        }
        Ok(())
    }
}

/// Width and height from the header alone, as stored. Errors say why the bytes are no picture.
pub fn dimensions(bytes: &[u8]) -> Result<(usize, usize), String> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| e.to_string())?;
    let (width, height) = reader.into_dimensions().map_err(|e| e.to_string())?;
    Ok((width as usize, height as usize))
}

fn to_stored(image: DynamicImage, orientation: u8) -> StoredImage {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (channels, pixels) = match image {
        DynamicImage::ImageLuma8(i) => (1, i.into_raw()),
        DynamicImage::ImageLumaA8(i) => (2, i.into_raw()),
        DynamicImage::ImageRgb8(i) => (3, i.into_raw()),
        DynamicImage::ImageRgba8(i) => (4, i.into_raw()),
        DynamicImage::ImageLuma16(i) => (1, to_8_bits(i.as_raw())),
        DynamicImage::ImageLumaA16(i) => (2, to_8_bits(i.as_raw())),
        DynamicImage::ImageRgb16(i) => (3, to_8_bits(i.as_raw())),
        DynamicImage::ImageRgba16(i) => (4, to_8_bits(i.as_raw())),
        other if other.color().has_alpha() => (4, other.into_rgba8().into_raw()),
        other => (3, other.into_rgb8().into_raw()),
    };
    StoredImage { width, height, channels, pixels, orientation }
}

fn to_8_bits(values: &[u16]) -> Vec<u8> {
    values.iter().map(|&v| ((u32::from(v) + 128) / 257) as u8).collect()
}
