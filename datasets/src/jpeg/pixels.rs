//! Pixels of a JPEG file. The headers are read once, and nothing is copied.

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::picture::StoredImage;

/// A JPEG file whose headers have been read.
pub(crate) struct Jpeg<'a> {
    decoder: JpegDecoder<ZCursor<&'a [u8]>>,
    width: usize,
    height: usize,
    channels: usize,
}

impl<'a> Jpeg<'a> {
    /// Reads the headers. Errors say why they cannot be used.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(|e| e.to_string())?;
        let (width, height) = decoder.dimensions().ok_or("JPEG without a frame")?;
        let (channels, colours) = match decoder.input_colorspace() {
            Some(ColorSpace::Luma) => (1, ColorSpace::Luma),
            _ => (3, ColorSpace::RGB),
        };
        let options = decoder.options().jpeg_set_out_colorspace(colours);
        decoder.set_options(options);
        Ok(Self { decoder, width, height, channels })
    }

    /// Columns and rows.
    pub(crate) fn dimensions(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// Bytes of the pixels.
    pub(crate) fn total_bytes(&self) -> u64 {
        (self.width * self.height * self.channels) as u64
    }

    /// The pixels; those that the data do not give are grey.
    pub(crate) fn stored(mut self) -> Result<StoredImage, String> {
        let orientation = self.decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)).map_or(1, Orientation::to_exif);
        let pixels = self.decoder.decode().map_err(|e| e.to_string())?;
        let Self { width, height, channels, .. } = self;
        if pixels.len() != width * height * channels {
            return Err(format!("{} bytes of pixels for {width}x{height} of {channels} channels", pixels.len()));
        }
        Ok(StoredImage { width, height, channels, pixels, orientation })
    }
}
