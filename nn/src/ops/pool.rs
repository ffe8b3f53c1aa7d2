//! Largest values of windows.

use candle_core::Tensor;

use super::{
    composed,
    cpu::{self, kernel::apply1, pool::MaxPool},
    not_empty,
};
use crate::{Error, Result};

/// Windows of a [`max_pool2d`]: squares that lie inside the padded image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Side of a window, 1 or more.
    pub kernel: usize,
    /// Step in both directions, 1 or more.
    pub stride: usize,
    /// Pixels around the image that no window takes its value from; at most half the kernel.
    pub padding: usize,
    /// The last windows may reach beyond the image, so that no pixel is left out.
    pub ceil: bool,
}

impl PoolConfig {
    /// No padding, and whole windows only.
    pub const fn new(kernel: usize, stride: usize) -> Self {
        Self { kernel, stride, padding: 0, ceil: false }
    }

    /// Windows along a side of `n` pixels, as PyTorch counts them; `None` where not one fits.
    pub(super) fn windows(&self, n: usize) -> Option<usize> {
        let span = (n + 2 * self.padding).checked_sub(self.kernel)?;
        if !self.ceil {
            return Some(span / self.stride + 1);
        }
        let count = span.div_ceil(self.stride) + 1;
        // A window must begin inside the image or its padding at the left.
        Some(if (count - 1) * self.stride >= n + self.padding { count - 1 } else { count })
    }
}

/// The largest value of each window. x: `[B, H, W, C]` -> `[B, H', W', C]`. On the CPU the gradient goes to the first
/// of equal values.
///
/// # Errors
/// If no window fits in the image, or the configuration has no meaning.
pub fn max_pool2d(x: &Tensor, config: PoolConfig) -> Result<Tensor> {
    let &[b, h, w, c] = x.dims() else {
        return Err(Error::argument("max_pool2d", "x", "[B, H, W, C]", x.dims()));
    };
    not_empty("max_pool2d", "x", x)?;
    let PoolConfig { kernel, stride, padding, .. } = config;
    if kernel == 0 || stride == 0 || 2 * padding > kernel {
        return Err(Error::argument("max_pool2d", "config", "kernel and stride of 1 or more, padding of at most half", config));
    }
    let (Some(rows), Some(columns)) = (config.windows(h), config.windows(w)) else {
        return Err(Error::argument("max_pool2d", "x", format!("sides of at least {}", kernel - 2 * padding), x.dims()));
    };
    let pool = MaxPool { input: [b, h, w, c], output: [rows, columns], kernel, stride, padding };
    if cpu::applies(&[x]) { apply1(pool, x) } else { composed::pool::max_pool2d(x, &pool) }
}
