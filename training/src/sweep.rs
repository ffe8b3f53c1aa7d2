//! The optimizer's and the average's arithmetic over slices: one pass, in place, parallel for large tensors.
//!
//! Every element is computed on its own, so the result does not depend on the number of threads.

use std::{
    marker::PhantomData,
    sync::{Mutex, PoisonError},
};

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout};
use rayon::prelude::*;
use strata_nn::vectors::{Loop, widest};

use crate::host::{Real, window, window_mut};

/// Elements that one task works on; smaller tensors stay on the calling thread.
pub(crate) const CHUNK: usize = 1 << 15;

/// The coefficients of one Adam step of one tensor, in the tensor's precision.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coefficients<T> {
    pub beta1: T,
    pub one_minus_beta1: T,
    pub beta2: T,
    pub one_minus_beta2: T,
    pub eps: T,
    /// lr / (1 - beta1^k)
    pub step_size: T,
    /// sqrt(1 - beta2^k)
    pub root_correction2: T,
    /// 1 - lr weight_decay when decoupled, else 1
    pub shrink: T,
    /// weight decay added to the gradient, when it is not decoupled
    pub l2: T,
    /// factor of the global clip
    pub clip: T,
}

/// The running moments of one tensor; `peak` is empty without AMSGrad.
#[derive(Debug)]
pub(crate) struct Moments<T> {
    pub mean: Vec<T>,
    pub square: Vec<T>,
    pub peak: Vec<T>,
    pub amsgrad: bool,
}

/// One Adam step: `p.inplace_op2(&gradient, &AdamStep)`, and with it the average of p.
pub(crate) struct AdamStep<'a, T> {
    pub coefficients: Coefficients<T>,
    pub moments: Mutex<&'a mut Moments<T>>,
    pub replace: Option<Replace<T>>,
    pub average: Option<(Mutex<&'a mut [T]>, Blend<T>)>,
}

/// Hands the elements of a tensor to a function: `average.inplace_op1(&Borrow::new(f))`.
pub(crate) struct Borrow<F, T>(F, PhantomData<T>);

impl<T: Real, F: Fn(&mut [T]) -> candle_core::Result<()>> Borrow<F, T> {
    pub fn new(f: F) -> Self {
        Self(f, PhantomData)
    }
}

impl<T: Real, F: Fn(&mut [T]) -> candle_core::Result<()>> InplaceOp1 for Borrow<F, T> {
    fn name(&self) -> &'static str {
        "ema"
    }

    fn cpu_fwd(&self, e: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        (self.0)(window_mut(T::slice_mut(e)?, layout)?)
    }
}

/// What takes the place of values that are not finite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replace<T> {
    pub nan: T,
    pub posinf: T,
    pub neginf: T,
}

impl<T: Real> Replace<T> {
    pub fn apply(&self, g: T) -> T {
        let v = g.to_double();
        match () {
            () if v.is_finite() => g,
            () if v.is_nan() => self.nan,
            () if v > 0.0 => self.posinf,
            () => self.neginf,
        }
    }
}

impl<T: Real> InplaceOp2 for AdamStep<'_, T> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(&self, p: &mut CpuStorage, pl: &Layout, g: &CpuStorage, gl: &Layout) -> candle_core::Result<()> {
        let p = window_mut(T::slice_mut(p)?, pl)?;
        let g = window(g.as_slice::<T>()?, gl)?;
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let Moments { mean, square, peak, .. } = &mut **moments;
        if p.len() != g.len() || p.len() != mean.len() {
            candle_core::bail!("adam: expected {} gradients, got {}", p.len(), g.len());
        }
        let c = self.coefficients;
        let mut average = self.average.as_ref().map(|(e, blend)| (e.lock().unwrap_or_else(PoisonError::into_inner), blend));
        let (e, blend) = average.as_mut().map_or((&mut [][..], None), |(e, blend)| (&mut ***e, Some(*blend)));
        if !e.is_empty() && e.len() != p.len() {
            candle_core::bail!("ema: expected {} elements, got {}", p.len(), e.len());
        }
        let row = Row { p, g, m: mean, v: square, peak, e };
        match self.replace {
            Some(replace) => row.each_parallel(|p, g, m, v, peak| adam(c, p, replace.apply(g), m, v, peak), blend),
            None => row.each_parallel(|p, g, m, v, peak| adam(c, p, g, m, v, peak), blend),
        }
        Ok(())
    }
}

/// p ← shrink p; m ← β1 m + (1-β1) g; v ← β2 v + (1-β2) g²; p ← p - step_size m / (sqrt(v̂) / root_correction2 + eps)
/// (Kingma & Ba 2015, Algorithm 1; Loshchilov & Hutter 2019, Algorithm 2; v̂ = peak of v with AMSGrad, Reddi et al. 2018).
#[inline(always)]
fn adam<T: Real>(c: Coefficients<T>, p: &mut T, g: T, m: &mut T, v: &mut T, peak: Option<&mut T>) {
    let g = g * c.clip + c.l2 * *p;
    *m = c.beta1 * *m + c.one_minus_beta1 * g;
    *v = c.beta2 * *v + c.one_minus_beta2 * (g * g);
    let v_hat = match peak {
        Some(peak) => {
            *peak = peak.larger(*v);
            *peak
        }
        None => *v,
    };
    *p = *p * c.shrink - c.step_size * (*m / (v_hat.root() / c.root_correction2 + c.eps));
}

/// The same stretch of all the slices that a step works on.
struct Row<'a, T> {
    p: &'a mut [T],
    g: &'a [T],
    m: &'a mut [T],
    v: &'a mut [T],
    /// Empty without AMSGrad.
    peak: &'a mut [T],
    /// Empty without an average.
    e: &'a mut [T],
}

/// A step of every element of a row and of its average, in one pass: memory is what it waits for.
struct Each<'a, 'b, T, F> {
    row: Row<'a, T>,
    f: &'b F,
    blend: Option<&'b Blend<T>>,
}

impl<T: Real, F: Fn(&mut T, T, &mut T, &mut T, Option<&mut T>)> Loop for Each<'_, '_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (Row { p, g, m, v, peak, e }, f) = (self.row, self.f);
        let elements = p.iter_mut().zip(g).zip(m).zip(v);
        match (self.blend, peak.is_empty()) {
            (None, true) => elements.for_each(|(((p, g), m), v)| f(p, *g, m, v, None)),
            (None, false) => elements.zip(peak).for_each(|((((p, g), m), v), peak)| f(p, *g, m, v, Some(peak))),
            (Some(blend), true) => elements.zip(e).for_each(|((((p, g), m), v), e)| {
                f(p, *g, m, v, None);
                blend.one(e, *p);
            }),
            (Some(blend), false) => elements.zip(peak).zip(e).for_each(|(((((p, g), m), v), peak), e)| {
                f(p, *g, m, v, Some(peak));
                blend.one(e, *p);
            }),
        }
    }
}

impl<'a, T: Real> Row<'a, T> {
    fn each_parallel(self, f: impl Fn(&mut T, T, &mut T, &mut T, Option<&mut T>) + Sync, blend: Option<&Blend<T>>) {
        let mut rows: Vec<_> = self.rows().into_iter().map(|row| Each { row, f: &f, blend }).collect();
        match rows.len() {
            1 => rows.drain(..).for_each(widest),
            _ => rows.into_par_iter().for_each(widest),
        }
    }

    fn rows(self) -> Vec<Self> {
        // An empty slice has no chunks: as many empty ones take their place.
        fn optional<T>(slice: &mut [T]) -> impl Iterator<Item = &mut [T]> {
            slice.chunks_mut(CHUNK).chain(std::iter::repeat_with(Default::default))
        }
        let parts = self.g.chunks(CHUNK).zip(self.m.chunks_mut(CHUNK)).zip(self.v.chunks_mut(CHUNK));
        let optional = optional(self.peak).zip(optional(self.e));
        let all = self.p.chunks_mut(CHUNK).zip(parts).zip(optional);
        all.map(|((p, ((g, m), v)), (peak, e))| Row { p, g, m, v, peak, e }).collect()
    }
}

/// e ← decay e + weight p: `average.inplace_op2(&parameter, &Blend)`; `weight` = 1 - decay, rounded once.
#[derive(Clone, Copy)]
pub(crate) struct Blend<T> {
    pub decay: T,
    pub weight: T,
}

impl<T: Real> Blend<T> {
    #[inline(always)]
    fn one(&self, e: &mut T, p: T) {
        *e = self.decay * *e + self.weight * p;
    }

    fn row(&self, e: &mut [T], p: &[T]) {
        e.iter_mut().zip(p).for_each(|(e, p)| self.one(e, *p));
    }
}

impl<T: Real> InplaceOp2 for Blend<T> {
    fn name(&self) -> &'static str {
        "ema"
    }

    fn cpu_fwd(&self, e: &mut CpuStorage, el: &Layout, p: &CpuStorage, pl: &Layout) -> candle_core::Result<()> {
        let e = window_mut(T::slice_mut(e)?, el)?;
        let p = window(p.as_slice::<T>()?, pl)?;
        if e.len() != p.len() {
            candle_core::bail!("ema: expected {} elements, got {}", e.len(), p.len());
        }
        if e.len() <= CHUNK {
            self.row(e, p);
        } else {
            e.par_chunks_mut(CHUNK).zip(p.par_chunks(CHUNK)).for_each(|(e, p)| self.row(e, p));
        }
        Ok(())
    }
}
