//! Norms, clipping and sanitising of gradients.

use candle_core::{DType, Tensor, backprop::GradStore};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use strata_nn::{
    params::Parameter,
    vectors::{Loop, widest},
};

use crate::{
    Error, Result,
    host::{Real, on_host, with_slice},
    sweep::{CHUNK, Replace},
};

/// The p of a norm over all elements of all tensors together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormType {
    /// (Σ |g|^p)^(1/p), p > 0.
    Power(f64),
    /// max |g|.
    Infinity,
}

impl NormType {
    /// The Euclidean norm.
    pub const L2: Self = Self::Power(2.0);
}

/// What takes the place of gradient values that are not finite; finite values stay as they are, however large.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sanitize {
    /// In place of NaN.
    pub nan: f64,
    /// In place of +infinity.
    pub posinf: f64,
    /// In place of -infinity.
    pub neginf: f64,
}

impl Sanitize {
    /// 0, 1e5, -1e5 (Karras et al. 2022, training loop).
    pub const EDM: Self = Self { nan: 0.0, posinf: 1e5, neginf: -1e5 };
    /// All zero (Karras et al. 2024, training loop).
    pub const EDM2: Self = Self { nan: 0.0, posinf: 0.0, neginf: 0.0 };

    pub(crate) fn replace<T: Real>(self) -> Replace<T> {
        Replace { nan: T::from_double(self.nan), posinf: T::from_double(self.posinf), neginf: T::from_double(self.neginf) }
    }

    /// `gradient` with its non-finite values replaced; any shape, float32 or float64.
    ///
    /// # Errors
    /// Another dtype.
    pub fn apply(&self, gradient: &Tensor) -> Result<Tensor> {
        match gradient.dtype() {
            DType::F32 => self.rebuild::<f32>(gradient),
            DType::F64 => self.rebuild::<f64>(gradient),
            other => Err(wrong_dtype(other)),
        }
    }

    fn rebuild<T: Real>(self, gradient: &Tensor) -> Result<Tensor> {
        let replace = self.replace::<T>();
        let values: Vec<T> = gradient.flatten_all()?.to_vec1()?;
        let values = values.into_iter().map(|g| replace.apply(g)).collect();
        Ok(Tensor::from_vec(values, gradient.shape(), gradient.device())?)
    }

    /// Replaces the gradients of `parameters` in the store; parameters without one are left out.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_to_store(&self, gradients: &mut GradStore, parameters: &[Parameter]) -> Result<()> {
        for p in parameters {
            if let Some(g) = gradients.get(p.var()) {
                let clean = self.apply(g)?;
                gradients.insert(p.var(), clean);
            }
        }
        Ok(())
    }
}

/// The norm of all elements of all `gradients` together, accumulated in float64 over chunks of a fixed size, so that it
/// does not depend on the number of threads. 0 for an empty list; NaN or infinite if an element is.
///
/// # Errors
/// A dtype other than float32 and float64; p not above 0.
pub fn total_norm(gradients: &[Tensor], norm: NormType) -> Result<f64> {
    match norm {
        NormType::Power(2.0) => Ok(total(gradients, |g| g * g, sum)?.sqrt()),
        NormType::Power(1.0) => total(gradients, f64::abs, sum),
        NormType::Power(p) if p > 0.0 => Ok(total(gradients, |g| g.abs().powf(p), sum)?.powf(1.0 / p)),
        NormType::Power(p) => Err(Error::Config(format!("norm of the gradients: expected p above 0, got {p}"))),
        NormType::Infinity => total(gradients, f64::abs, largest),
    }
}

/// The factor min(1, max_norm / (total + 1e-6)) that brings a gradient of norm `total` to at most `max_norm`.
pub fn clip_factor(total: f64, max_norm: f64) -> f64 {
    (max_norm / (total + 1e-6)).min(1.0)
}

/// The gradients times one factor, so that their common norm is at most `max_norm`, and the norm before.
///
/// # Errors
/// As [`total_norm`].
pub fn clip(gradients: &[Tensor], max_norm: f64, norm: NormType) -> Result<(Vec<Tensor>, f64)> {
    let total = total_norm(gradients, norm)?;
    let factor = clip_factor(total, max_norm);
    let clipped = gradients.iter().map(|g| Ok(g.affine(factor, 0.0)?)).collect::<Result<_>>()?;
    Ok((clipped, total))
}

/// The Euclidean norm of the values that [`Sanitize`] leaves.
pub(crate) fn sanitized_norm(gradients: &[Tensor], sanitize: Sanitize) -> Result<f64> {
    let replace = sanitize.replace::<f64>();
    let square = move |g: f64| {
        let g = replace.apply(g);
        g * g
    };
    Ok(total(gradients, square, sum)?.sqrt())
}

fn sum(a: f64, b: f64) -> f64 {
    a + b
}

fn largest(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

fn total(gradients: &[Tensor], map: impl Fn(f64) -> f64 + Sync, fold: impl Fn(f64, f64) -> f64 + Copy + Sync) -> Result<f64> {
    let parts = gradients.par_iter().map(|g| of_tensor(g, &map, fold)).collect::<Result<Vec<f64>>>()?;
    Ok(parts.into_iter().fold(0.0, fold))
}

fn of_tensor(g: &Tensor, map: &(impl Fn(f64) -> f64 + Sync), fold: impl Fn(f64, f64) -> f64 + Copy + Sync) -> Result<f64> {
    let g = g.contiguous()?;
    let g = if on_host(&g) { g } else { g.to_device(&candle_core::Device::Cpu)? };
    match g.dtype() {
        DType::F32 => with_slice::<f32, _>(&g, |s| of_slice(s, map, fold)),
        DType::F64 => with_slice::<f64, _>(&g, |s| of_slice(s, map, fold)),
        other => Err(wrong_dtype(other)),
    }
}

fn of_slice<T: Real>(values: &[T], map: &(impl Fn(f64) -> f64 + Sync), fold: impl Fn(f64, f64) -> f64 + Copy + Sync) -> f64 {
    let row = |values: &[T]| widest(Lanes { values, map, fold });
    if values.len() <= CHUNK {
        return row(values);
    }
    let parts: Vec<f64> = values.par_chunks(CHUNK).map(row).collect();
    parts.into_iter().fold(0.0, fold)
}

/// A fold with eight independent accumulators, so that it is not bound by the latency of one addition.
struct Lanes<'a, T, M, F> {
    values: &'a [T],
    map: &'a M,
    fold: F,
}

impl<T: Real, M: Fn(f64) -> f64, F: Fn(f64, f64) -> f64 + Copy> Loop for Lanes<'_, T, M, F> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let Self { values, map, fold } = self;
        let mut acc = [0.0; 8];
        let chunks = values.chunks_exact(8);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (a, v) in acc.iter_mut().zip(chunk) {
                *a = fold(*a, map(v.to_double()));
            }
        }
        let tail = rest.iter().fold(0.0, |a, v| fold(a, map(v.to_double())));
        fold(acc.into_iter().fold(0.0, fold), tail)
    }
}

pub(crate) fn wrong_dtype(got: DType) -> Error {
    Error::Config(format!("expected float32 or float64 values, got {got:?}"))
}
