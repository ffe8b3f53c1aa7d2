//! The preparation rules of published data sets, by the names they are known under.

use crate::resize::{Filter, Interpolation, Pixels, resize, resize_opencv};
use crate::{Error, Result};

/// EDM's `center-crop`: the centre square, grey repeated to three channels, Lanczos to `width` x `height`
/// (Karras et al. 2022, `dataset_tool`).
pub fn edm_center_crop(image: &Pixels, width: usize, height: usize) -> Result<Pixels> {
    resize(&rgb(&center_square(image)?), width, height, Filter::Lanczos, None)
}

/// EDM's `center-crop-wide`: a centre crop of the wanted shape, Lanczos, centred on a black `width` x `width` canvas.
/// None where the picture is too small.
pub fn edm_center_crop_wide(image: &Pixels, width: usize, height: usize) -> Result<Option<Pixels>> {
    let (w, h) = (image.width, image.height);
    let rows = (width as f64 * h as f64 / w as f64).round_ties_even() as usize;
    if w < width || rows < height {
        return Ok(None);
    }
    let (top, bottom) = ((h.saturating_sub(rows)) / 2, ((h + rows) / 2).min(h));
    let strip = rgb(&image.crop(0, top, w, bottom - top)?);
    let strip = resize(&strip, width, height, Filter::Lanczos, None)?;
    let mut data = vec![0; width * width * 3];
    let start = (width - height.min(width)) / 2 * width * 3;
    let room = data.len() - start;
    let len = strip.data.len().min(room);
    data[start..start + len].copy_from_slice(&strip.data[..len]);
    Ok(Some(Pixels { width, height: width, channels: 3, data }))
}

/// EDM without a crop: Lanczos to `width` x `height`, channels kept, a copy where the size is right already.
pub fn edm_scale(image: &Pixels, width: usize, height: usize) -> Result<Pixels> {
    resize(image, width, height, Filter::Lanczos, None)
}

/// LDM's LSUN rule: the centre square, then Pillow's `filter` to `size`.
pub fn ldm_lsun(image: &Pixels, size: usize, filter: Filter) -> Result<Pixels> {
    resize(&center_square(image)?, size, size, filter, None)
}

/// LDM's rule for image folders: the smaller side to `size` with OpenCV's `interpolation`, then the centre square.
pub fn smallest_max_size_center_crop(image: &Pixels, size: usize, interpolation: Interpolation) -> Result<Pixels> {
    let (width, height) = smallest_side(image.width, image.height, size);
    center_crop(&resize_opencv(image, width, height, interpolation)?, size)
}

/// LDM's super-resolution rule: the centre square of side `crop`, then OpenCV's `interpolation` to `size`.
pub fn center_crop_frac_area(image: &Pixels, crop: usize, size: usize, interpolation: Interpolation) -> Result<Pixels> {
    resize_opencv(&center_crop(image, crop)?, size, size, interpolation)
}

/// Width and height after the smaller side became `size`; halves are rounded to even.
pub(crate) fn smallest_side(width: usize, height: usize, size: usize) -> (usize, usize) {
    let scale = size as f64 / width.min(height) as f64;
    let scaled = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    (scaled(width), scaled(height))
}

/// The largest centred square.
pub(crate) fn center_square(image: &Pixels) -> Result<Pixels> {
    center_crop(image, image.width.min(image.height))
}

/// The centred square of side `size`. Errors if a side is smaller.
pub(crate) fn center_crop(image: &Pixels, size: usize) -> Result<Pixels> {
    if size == 0 || image.width < size || image.height < size {
        let got = format!("{}x{}", image.width, image.height);
        return Err(Error::argument("picture", format!("at least {size}x{size} to crop from"), got));
    }
    image.crop((image.width - size) / 2, (image.height - size) / 2, size, size)
}

fn rgb(image: &Pixels) -> Pixels {
    if image.channels != 1 {
        return image.clone();
    }
    let data = image.data.iter().flat_map(|&v| [v; 3]).collect();
    Pixels { channels: 3, data, ..*image }
}
