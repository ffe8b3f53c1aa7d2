//! Losses, elementwise then averaged per sample, accumulated in float32 (float64 for float64 arguments).

use candle_core::Tensor;

#[cfg(any(feature = "cuda", feature = "emulate"))]
use super::cuda;
use super::{
    composed,
    cpu::{
        self,
        kernel::apply2,
        loss::{Distance, Loss},
    },
    not_empty,
    precision::{is_narrow, widened},
};
use crate::{Error, Result};

/// Mean squared error per sample. a, b: `[B, ...]`; answers `[B]`.
///
/// # Errors
/// If the shapes differ.
pub fn mse_loss(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    per_sample("mse_loss", a, b, Distance::Squared)
}

/// Mean absolute error per sample. a, b: `[B, ...]`; answers `[B]`.
///
/// # Errors
/// If the shapes differ.
pub fn l1_loss(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    per_sample("l1_loss", a, b, Distance::Absolute)
}

/// Huber loss per sample: `d²/2` where `|d| <= delta`, else `delta (|d| - delta/2)`. a, b: `[B, ...]`; answers `[B]`.
///
/// # Errors
/// If the shapes differ or `delta` is not positive.
pub fn huber_loss(a: &Tensor, b: &Tensor, delta: f64) -> Result<Tensor> {
    if delta.is_nan() || delta <= 0.0 {
        return Err(Error::argument("huber_loss", "delta", "a positive number", delta));
    }
    per_sample("huber_loss", a, b, Distance::Huber(delta as f32))
}

fn per_sample(op: &'static str, a: &Tensor, b: &Tensor, distance: Distance) -> Result<Tensor> {
    let (samples, true) = (a.dims().first().copied().unwrap_or(0), a.rank() >= 2) else {
        return Err(Error::argument(op, "a", "[B, ...]", a.dims()));
    };
    if a.dims() != b.dims() {
        return Err(Error::argument(op, "b", format!("{:?}", a.dims()), b.dims()));
    }
    not_empty(op, "a", a)?;
    if is_narrow(a) != is_narrow(b) {
        return per_sample(op, &widened(a)?, &widened(b)?, distance);
    }
    on_card!([a, b] => cuda::loss(a, b, samples, distance));
    if cpu::applies(&[a, b]) { apply2(Loss { samples, distance }, a, b) } else { composed::loss::loss(a, b, distance) }
}
