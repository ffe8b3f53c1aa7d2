//! Halving and doubling of images by the filter of a configuration.

use candle_core::Tensor;
use strata_nn::ops::{self, FirConfig};

use super::{config::UNetConfig, family::Family, plan::Direction};
use crate::Result;

/// The filter. Two equal taps are the mean of 2×2 pixels down and the nearest neighbour up.
#[derive(Clone, Debug)]
pub(super) enum Resampling {
    Blocks,
    Filter { down: Vec<f32>, up: Vec<f32> },
}

impl Resampling {
    pub(super) fn new(config: &UNetConfig) -> Self {
        if config.filter == [1.0, 1.0] {
            return Self::Blocks;
        }
        let sum: f64 = config.filter.iter().sum();
        let forwards: Vec<f32> = config.filter.iter().map(|f| (f / sum) as f32).collect();
        let backwards: Vec<f32> = forwards.iter().rev().copied().collect();
        // Score-SDE convolves in both directions; EDM correlates down, and up is its transpose.
        let down = if config.family == Family::Ncsnpp { backwards.clone() } else { forwards };
        // Each of the zeros in between takes half the sum away, per direction.
        let up = backwards.iter().map(|f| 2.0 * f).collect();
        Self::Filter { down, up }
    }

    /// x: `[B, H, W, C]` with even sides, halved or doubled.
    pub(super) fn apply(&self, x: &Tensor, direction: Direction) -> Result<Tensor> {
        Ok(match (self, direction) {
            (Self::Blocks, Direction::Down) => ops::average_pool2x(x)?,
            (Self::Blocks, Direction::Up) => ops::upsample_nearest2x(x)?,
            (Self::Filter { down, .. }, Direction::Down) => {
                let n = down.len();
                ops::fir_resample(x, down, FirConfig { up: 1, down: 2, before: (n - 1) / 2, after: (n - 2) / 2 })?
            }
            (Self::Filter { up, .. }, Direction::Up) => {
                let n = up.len();
                let before = n.div_ceil(2);
                ops::fir_resample(x, up, FirConfig { up: 2, down: 1, before, after: n - 1 - before })?
            }
        })
    }

    /// x: `[B, H, W, C]` filtered for a 3×3 convolution of stride 2 without padding: `[B, H + 1, W + 1, C]`.
    pub(super) fn before_strided(&self, x: &Tensor) -> Result<Tensor> {
        let taps: &[f32] = match self {
            Self::Blocks => &[0.5, 0.5],
            Self::Filter { down, .. } => down,
        };
        let n = taps.len();
        Ok(ops::fir_resample(x, taps, FirConfig { up: 1, down: 1, before: n.div_ceil(2), after: n / 2 })?)
    }
}
