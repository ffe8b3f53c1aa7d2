//! The distance of two pictures' Laplacian pyramids.

use candle_core::Tensor;
use strata_nn::ops;

use crate::{Result, coder::channels_last};

/// Levels that are compared at most; the last is what remains of the picture.
const LEVELS: usize = 4;

/// `Σ_j mean |L_j(a) - L_j(b)|` over the levels of the two pictures' Laplacian pyramids, the coarse ones as heavy as the fine:
/// edges count by their scale and not by the pixels that they cover (after Bojanowski et al. 2018). Per sample, `[B]`.
/// a, b: `[B, C, H, W]`; sides that become odd end the pyramid.
///
/// # Errors
/// If the shapes differ.
pub fn laplacian_distance(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    // The pyramid is linear: that of the difference is the difference of those of the pictures.
    let mut rest = channels_last(&(a - b)?)?;
    let mean = |t: &Tensor| -> Result<Tensor> { Ok(t.abs()?.flatten_from(1)?.mean(1)?) };
    let mut sum: Option<Tensor> = None;
    for _ in 1..LEVELS {
        let (_, h, w, _) = rest.dims4()?;
        if h % 2 == 1 || w % 2 == 1 {
            break;
        }
        let coarse = ops::average_pool2x(&rest)?;
        let detail = mean(&(&rest - ops::upsample_nearest2x(&coarse)?)?)?;
        sum = Some(sum.map_or(Ok(detail.clone()), |sum| sum + detail)?);
        rest = coarse;
    }
    let last = mean(&rest)?;
    Ok(sum.map_or(Ok(last.clone()), |sum| sum + last)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_shift_of_brightness_is_seen_in_the_coarsest_level_alone() {
        let a = Tensor::zeros((1, 3, 16, 24), candle_core::DType::F32, &Device::Cpu).unwrap();
        let distance = |b: &Tensor| laplacian_distance(&a, b).unwrap().to_vec1::<f32>().unwrap()[0];
        assert!((distance(&(&a + 0.5).unwrap()) - 0.5).abs() < 1e-6);
        // A checkerboard has nothing but the finest level.
        let board: Vec<f32> = (0..16 * 24 * 3).map(|i| if (i / 24 + i % 24) % 2 == 0 { 0.5 } else { -0.5 }).collect();
        assert!((distance(&Tensor::from_vec(board, (1, 3, 16, 24), &Device::Cpu).unwrap()) - 0.5).abs() < 1e-6);
        let small = Tensor::zeros((2, 3, 3, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert_eq!(laplacian_distance(&small, &small).unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0]);
    }
}
