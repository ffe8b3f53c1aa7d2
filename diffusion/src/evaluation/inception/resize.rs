//! From pictures of any size to the network's input, by the rules of the published programs.

use serde::{Deserialize, Serialize};
use strata_datasets::{
    RgbImage,
    resize::{Filter, Pixels, resize_float},
};

use super::SIDE;
use crate::Result;

/// Which program's rule. They differ enough to move a FID by whole points, so that it is named with every result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// pytorch-fid: bilinear between pixel centres, not antialiased, in float32; then `2 v / 255 - 1`.
    #[default]
    PytorchFid,
    /// torch-fidelity, and the network that EDM and StyleGAN measure with: the bilinear rule of TensorFlow 1, whose grid begins at
    /// the first pixel's corner, not antialiased; then `(v - 128) / 128`.
    TorchFidelity,
    /// clean-fid: antialiased bicubic as Pillow has it, in float32; then `(v - 128) / 128`.
    CleanFid,
}

impl Resize {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::PytorchFid => "pytorch-fid",
            Self::TorchFidelity => "torch-fidelity",
            Self::CleanFid => "clean-fid",
        }
    }
}

/// The picture at 299 × 299 on the network's scale, row-major RGB.
///
/// # Errors
/// If it is empty.
pub fn resize(image: &RgbImage, rule: Resize) -> Result<Vec<f32>> {
    match rule {
        Resize::PytorchFid => {
            let x: Vec<f32> = image.pixels.iter().map(|v| f32::from(*v) / 255.0).collect();
            let taps = [image.width, image.height].map(centred_taps);
            Ok(bilinear(&x, image.width, &taps).into_iter().map(|v| 2.0 * v - 1.0).collect())
        }
        Resize::TorchFidelity => {
            let x: Vec<f32> = image.pixels.iter().map(|v| f32::from(*v)).collect();
            let taps = [image.width, image.height].map(cornered_taps);
            Ok(bilinear(&x, image.width, &taps).into_iter().map(|v| (v - 128.0) / 128.0).collect())
        }
        Resize::CleanFid => {
            let pixels = Pixels { width: image.width, height: image.height, channels: 3, data: image.pixels.clone() };
            let values = resize_float(&pixels, SIDE, SIDE, Filter::Bicubic, true)?;
            Ok(values.into_iter().map(|v| (v - 128.0) / 128.0).collect())
        }
    }
}

/// Where a value is from: two positions and the share of the second.
type Tap = (usize, usize, f32);

/// Source coordinate `max(0, (o + 1/2) n / 299 - 1/2)`.
fn centred_taps(n: usize) -> Vec<Tap> {
    taps(n, |o, scale| ((o + 0.5) * scale - 0.5).max(0.0))
}

/// Source coordinate `o n / 299`.
fn cornered_taps(n: usize) -> Vec<Tap> {
    taps(n, |o, scale| o * scale)
}

fn taps(n: usize, source: impl Fn(f32, f32) -> f32) -> Vec<Tap> {
    // float32 on purpose: the programs compute it so.
    let scale = n as f32 / SIDE as f32;
    let tap = |o: usize| {
        let at = source(o as f32, scale);
        let first = (at as usize).min(n - 1);
        (first, (first + 1).min(n - 1), at - first as f32)
    };
    (0..SIDE).map(tap).collect()
}

/// x: rows of `width` RGB pixels.
fn bilinear(x: &[f32], width: usize, [columns, rows]: &[Vec<Tap>; 2]) -> Vec<f32> {
    let mut y = Vec::with_capacity(SIDE * SIDE * 3);
    for (top, bottom, fy) in rows {
        let (top, bottom) = (&x[top * width * 3..][..width * 3], &x[bottom * width * 3..][..width * 3]);
        for (left, right, fx) in columns {
            for c in 0..3 {
                let (l, r) = (left * 3 + c, right * 3 + c);
                let upper = (1.0 - fx) * top[l] + fx * top[r];
                let lower = (1.0 - fx) * bottom[l] + fx * bottom[r];
                y.push((1.0 - fy) * upper + fy * lower);
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_keeps_a_flat_picture_and_the_grids_differ() -> Result<()> {
        let flat = RgbImage { width: 5, height: 3, pixels: vec![255; 45] };
        let expected = [1.0, 127.0 / 128.0, 127.0 / 128.0];
        for (rule, value) in [Resize::PytorchFid, Resize::TorchFidelity, Resize::CleanFid].into_iter().zip(expected) {
            let out = resize(&flat, rule)?;
            assert_eq!(out.len(), SIDE * SIDE * 3);
            assert!(out.iter().all(|v| (v - value).abs() < 1e-5), "{rule:?}");
        }
        let ramp = RgbImage { width: 2, height: 1, pixels: vec![0, 0, 0, 255, 255, 255] };
        // Half way: the middle of the picture, and a quarter further for the grid that begins at the corner.
        let middle = |rule| -> Result<f32> { Ok(resize(&ramp, rule)?[(149 * SIDE + 149) * 3]) };
        assert!((middle(Resize::PytorchFid)?).abs() < 1e-5);
        assert!(middle(Resize::TorchFidelity)? > 0.9);
        Ok(())
    }
}
