//! The same resampling without quantisation, for metrics whose reference resizes in float32.

use super::taps::Taps;
use super::{Filter, Pixels};
use crate::{Error, Result};

/// Resizes in float32: weights not quantised, float32 between the passes, nothing rounded.
/// Answers `height * width * channels` values on the scale of [0, 255], limited to it if `clip`.
/// Errors if a side is zero or the filter is nearest.
pub fn resize_float(image: &Pixels, width: usize, height: usize, filter: Filter, clip: bool) -> Result<Vec<f32>> {
    image.check()?;
    if width == 0 || height == 0 || filter == Filter::Nearest {
        let got = format!("{width}x{height}, {filter:?}");
        return Err(Error::argument("resize_float", "at least 1x1 and an antialiased filter", got));
    }
    let c = image.channels;
    let mut data: Vec<f32> = image.data.iter().map(|&v| f32::from(v)).collect();
    if width != image.width {
        let taps = Taps::new(filter, 0.0, image.width as f64, width, image.width);
        data = data.chunks_exact(image.width * c).flat_map(|row| pass(row, &taps, c)).collect();
    }
    if height != image.height {
        let taps = Taps::new(filter, 0.0, image.height as f64, height, image.height);
        data = pass(&data, &taps, width * c);
    }
    if clip {
        data.iter_mut().for_each(|v| *v = v.clamp(0.0, 255.0));
    }
    Ok(data)
}

/// Resamples along an axis whose elements are runs of `run` values.
fn pass(data: &[f32], taps: &Taps, run: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(taps.outputs() * run);
    let mut sums = vec![0f64; run];
    for o in 0..taps.outputs() {
        let (first, weights) = taps.exact(o);
        sums.fill(0.0);
        for (values, &w) in data[first * run..].chunks_exact(run).zip(weights) {
            sums.iter_mut().zip(values).for_each(|(sum, &v)| *sum += f64::from(v) * w);
        }
        out.extend(sums.iter().map(|&s| s as f32));
    }
    out
}
