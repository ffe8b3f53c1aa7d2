//! Resampling with Pillow's results, bit for bit: always antialiased, rounded to 8 bits between the two passes.
//!
//! One axis, source range [a, b), m outputs: scale = (b - a) / m, widened filter support S max(scale, 1); weights
//! normalised in float64, then quantised to 22 fractional bits. Pillow 10's order: horizontal, then vertical.

mod float;
mod opencv;
mod taps;

pub use float::resize_float;
pub use opencv::{Interpolation, resize_opencv};
use taps::Taps;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Pillow's resampling filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The nearest pixel; the one filter that is not antialiased.
    Nearest,
    /// The mean over the area: exact for whole factors.
    Box,
    /// A triangle.
    Bilinear,
    /// A windowed sinc of support 1: sharper than bilinear, without rings.
    Hamming,
    /// Keys' cubic with a = -0.5.
    Bicubic,
    /// sinc(x) sinc(x / 3): the sharpest, and what published data sets were made with.
    #[default]
    Lanczos,
}

/// 8-bit pixels of 1 to 4 interleaved channels, row-major: `height * width * channels` bytes. 4 channels are RGBA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Channels.
    pub channels: usize,
    /// Row-major, interleaved.
    pub data: Vec<u8>,
}

impl Pixels {
    /// The rectangle of `width` x `height` at (`x`, `y`). Errors if it does not lie inside.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<Self> {
        if x + width > self.width || y + height > self.height {
            let got = format!("{width}x{height} at {x},{y}");
            return Err(Error::argument("crop", format!("a rectangle inside {}x{}", self.width, self.height), got));
        }
        let mut data = Vec::with_capacity(width * height * self.channels);
        for row in y..y + height {
            let start = (row * self.width + x) * self.channels;
            data.extend_from_slice(&self.data[start..start + width * self.channels]);
        }
        Ok(Self { width, height, channels: self.channels, data })
    }

    fn check(&self) -> Result<()> {
        let wanted = self.width * self.height * self.channels;
        if !(1..=4).contains(&self.channels) || wanted == 0 || self.data.len() != wanted {
            let got = format!("{} bytes for {}x{}x{}", self.data.len(), self.height, self.width, self.channels);
            return Err(Error::argument("pixels", "height * width * channels bytes, 1 to 4 channels", got));
        }
        Ok(())
    }
}

/// A rectangle of the source in fractional pixels: left, top, right, bottom.
pub type SourceBox = [f64; 4];

/// Resizes to `width` x `height`, from the whole picture or from `source`.
/// Errors if a side is zero, the buffer's length does not fit or the box is empty or leaves the picture.
pub fn resize(image: &Pixels, width: usize, height: usize, filter: Filter, source: Option<SourceBox>) -> Result<Pixels> {
    image.check()?;
    let whole = [0.0, 0.0, image.width as f64, image.height as f64];
    let area = source.unwrap_or(whole);
    check_target(image, width, height, area)?;
    if (width, height) == (image.width, image.height) && area == whole {
        return Ok(image.clone());
    }
    if filter == Filter::Nearest {
        return Ok(nearest(image, width, height, area));
    }
    if image.channels == 4 {
        let mut premultiplied = image.clone();
        premultiply(&mut premultiplied.data);
        let mut out = two_passes(&premultiplied, width, height, filter, area);
        divide_back(&mut out.data);
        return Ok(out);
    }
    Ok(two_passes(image, width, height, filter, area))
}

fn check_target(image: &Pixels, width: usize, height: usize, [x0, y0, x1, y1]: SourceBox) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::argument("target size", "at least 1x1", format!("{width}x{height}")));
    }
    let inside = x0 >= 0.0 && y0 >= 0.0 && x1 <= image.width as f64 && y1 <= image.height as f64;
    if !(inside && x1 > x0 && y1 > y0) {
        let expected = format!("a box inside {}x{}", image.width, image.height);
        return Err(Error::argument("source box", expected, format!("{x0},{y0} to {x1},{y1}")));
    }
    Ok(())
}

fn nearest(image: &Pixels, width: usize, height: usize, [x0, y0, x1, y1]: SourceBox) -> Pixels {
    let columns = nearest_indices(x0, x1, width, image.width);
    let rows = nearest_indices(y0, y1, height, image.height);
    let c = image.channels;
    let mut data = Vec::with_capacity(width * height * c);
    for y in rows {
        for &x in &columns {
            let start = (y * image.width + x) * c;
            data.extend_from_slice(&image.data[start..start + c]);
        }
    }
    Pixels { width, height, channels: c, data }
}

/// Pillow adds the step again and again in float64, so exact halves can fall one lower than by multiplication.
fn nearest_indices(a: f64, b: f64, outputs: usize, inputs: usize) -> Vec<usize> {
    let step = (b - a) / outputs as f64;
    let mut at = a + step * 0.5;
    let mut indices = Vec::with_capacity(outputs);
    for _ in 0..outputs {
        indices.push((at as usize).min(inputs - 1));
        at += step;
    }
    indices
}

fn two_passes(image: &Pixels, width: usize, height: usize, filter: Filter, [x0, y0, x1, y1]: SourceBox) -> Pixels {
    let across = (width != image.width || x0 != 0.0 || x1 != width as f64).then(|| Taps::new(filter, x0, x1, width, image.width));
    let down =
        (height != image.height || y0 != 0.0 || y1 != height as f64).then(|| Taps::new(filter, y0, y1, height, image.height));
    let narrow = across.map(|taps| horizontal(image, &taps));
    let image = narrow.as_ref().unwrap_or(image);
    match down {
        Some(taps) => vertical(image, &taps),
        None => image.clone(),
    }
}

fn horizontal(image: &Pixels, taps: &Taps) -> Pixels {
    let arch = pulp::Arch::new();
    let data = match image.channels {
        1 => arch.dispatch(Across::<1> { image, taps }),
        2 => arch.dispatch(Across::<2> { image, taps }),
        3 => arch.dispatch(Across::<3> { image, taps }),
        _ => arch.dispatch(Across::<4> { image, taps }),
    };
    Pixels { width: taps.outputs(), data, ..*image }
}

fn vertical(image: &Pixels, taps: &Taps) -> Pixels {
    Pixels { height: taps.outputs(), data: pulp::Arch::new().dispatch(Down { image, taps }), ..*image }
}

/// The horizontal pass over rows of C channels, compiled for the vectors that the processor has. A pixel is widened to four
/// numbers, a vector, whatever its channels.
struct Across<'a, const C: usize> {
    image: &'a Pixels,
    taps: &'a Taps,
}

impl<const C: usize> pulp::WithSimd for Across<'_, C> {
    type Output = Vec<u8>;

    #[inline(always)] // else it is compiled for the oldest processor
    fn with_simd<S: pulp::Simd>(self, _: S) -> Vec<u8> {
        let Self { image, taps } = self;
        let mut data = vec![0; image.height * taps.outputs() * C];
        let mut wide = vec![[0i32; 4]; image.width];
        let mut narrow = vec![[0u8; 4]; taps.outputs()];
        let rows = image.data.chunks_exact(image.width * C).zip(data.chunks_exact_mut(taps.outputs() * C));
        for (row, out) in rows {
            for (wide, pixel) in wide.iter_mut().zip(row.chunks_exact(C)) {
                for c in 0..C {
                    wide[c] = i32::from(pixel[c]);
                }
            }
            for (o, narrow) in narrow.iter_mut().enumerate() {
                let (first, weights) = taps.quantised(o);
                let mut sums = [taps::HALF; 4];
                for (pixel, &k) in wide[first..].iter().zip(weights) {
                    for c in 0..4 {
                        sums[c] += pixel[c] * k;
                    }
                }
                for c in 0..4 {
                    narrow[c] = taps::to_8_bits(sums[c]);
                }
            }
            for (out, narrow) in out.chunks_exact_mut(C).zip(&narrow) {
                out.copy_from_slice(&narrow[..C]);
            }
        }
        data
    }
}

/// The vertical pass, likewise.
struct Down<'a> {
    image: &'a Pixels,
    taps: &'a Taps,
}

impl pulp::WithSimd for Down<'_> {
    type Output = Vec<u8>;

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) -> Vec<u8> {
        let Self { image, taps } = self;
        let row_bytes = image.width * image.channels;
        let mut data = vec![0; taps.outputs() * row_bytes];
        let mut sums = vec![0i32; row_bytes];
        for (o, out) in data.chunks_exact_mut(row_bytes).enumerate() {
            let (first, weights) = taps.quantised(o);
            sums.fill(taps::HALF);
            for (row, &k) in image.data[first * row_bytes..].chunks_exact(row_bytes).zip(weights) {
                for (sum, &v) in sums.iter_mut().zip(row) {
                    *sum += i32::from(v) * k;
                }
            }
            for (out, &sum) in out.iter_mut().zip(&sums) {
                *out = taps::to_8_bits(sum);
            }
        }
        data
    }
}

fn premultiply(rgba: &mut [u8]) {
    for p in rgba.chunks_exact_mut(4) {
        let a = u32::from(p[3]);
        for c in &mut p[..3] {
            let t = u32::from(*c) * a + 128;
            *c = ((t + (t >> 8)) >> 8) as u8;
        }
    }
}

fn divide_back(rgba: &mut [u8]) {
    for p in rgba.chunks_exact_mut(4) {
        let a = u32::from(p[3]);
        if a != 0 && a != 255 {
            for c in &mut p[..3] {
                *c = (255 * u32::from(*c) / a).min(255) as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: usize, height: usize, channels: usize) -> Pixels {
        let data = (0..width * height * channels).map(|i| (i * 37 % 256) as u8).collect();
        Pixels { width, height, channels, data }
    }

    #[test]
    fn box_by_two_is_the_mean_of_four_rounded_twice() -> Result<()> {
        let image = Pixels { width: 2, height: 2, channels: 1, data: vec![0, 1, 0, 0] };
        // (0 + 1) / 2 rounds up to 1 in the first pass, and (1 + 0) / 2 to 1 in the second.
        assert_eq!(resize(&image, 1, 1, Filter::Box, None)?.data, [1]);
        Ok(())
    }

    #[test]
    fn a_plain_surface_stays_plain() -> Result<()> {
        let image = Pixels { width: 13, height: 7, channels: 3, data: vec![201; 13 * 7 * 3] };
        for filter in [Filter::Nearest, Filter::Box, Filter::Bilinear, Filter::Hamming, Filter::Bicubic, Filter::Lanczos] {
            for (w, h) in [(5, 3), (26, 7), (13, 21), (1, 1)] {
                let out = resize(&image, w, h, filter, None)?;
                assert!(out.data.iter().all(|&v| v == 201), "{filter:?} {w}x{h}");
                assert_eq!(out.data.len(), w * h * 3);
            }
        }
        Ok(())
    }

    #[test]
    fn channels_do_not_mix() -> Result<()> {
        let rgb = ramp(11, 9, 3);
        let red = Pixels { channels: 1, data: rgb.data.iter().step_by(3).copied().collect(), ..rgb };
        let all = resize(&rgb, 6, 14, Filter::Lanczos, None)?;
        let one = resize(&red, 6, 14, Filter::Lanczos, None)?;
        assert_eq!(all.data.iter().step_by(3).copied().collect::<Vec<_>>(), one.data);
        Ok(())
    }

    #[test]
    fn impossible_requests_are_errors() {
        let image = ramp(4, 4, 3);
        assert!(resize(&image, 0, 4, Filter::Box, None).is_err());
        assert!(resize(&image, 2, 2, Filter::Box, Some([0.0, 0.0, 5.0, 4.0])).is_err());
        assert!(resize(&image, 2, 2, Filter::Box, Some([2.0, 0.0, 2.0, 4.0])).is_err());
        assert!(resize(&Pixels { data: vec![0; 5], ..image }, 2, 2, Filter::Box, None).is_err());
    }
}
