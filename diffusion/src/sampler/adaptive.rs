//! Adaptive DPM-Solver: step sizes from the difference of two orders (Lu et al. 2022a, Appendix C).

use candle_core::{D, DType, Tensor};

use super::{
    Run, combine,
    dpm::{Differences, Dpm, Form},
};
use crate::{Error, Result, schedule::Schedule};

/// Settings of [`adaptive`].
#[derive(Clone, Debug, PartialEq)]
pub struct Adaptive {
    /// The integrator; deterministic.
    pub solver: Dpm,
    /// 2 (controlled by order 1) or 3 (controlled by order 2).
    pub order: usize,
    /// Absolute tolerance, in units of the schedule's own state.
    pub atol: f64,
    /// Relative tolerance.
    pub rtol: f64,
    /// Its scale turns the state into its own units before comparing with `atol`.
    pub schedule: Schedule,
}

/// The first step in lambda.
const FIRST_STEP: f64 = 0.05;
/// The share of the estimated best step that is taken.
const SAFETY: f64 = 0.9;
/// How near to the end, in lambda, is there.
const ARRIVED: f64 = 1e-9;
/// More tries than any sensible tolerance needs.
const MAX_TRIES: usize = 10_000;

/// From the first of `run.sigmas` to the last, which must be above 0; those between are not looked at.
pub fn adaptive(run: &mut Run, mut x: Tensor, settings: &Adaptive) -> Result<Tensor> {
    let (Some(&first), Some(&last)) = (run.sigmas.first(), run.sigmas.last()) else { return Ok(x) };
    if last <= 0.0 || !(2..=3).contains(&settings.order) {
        let got = settings.order;
        return Err(Error::Config(format!("adaptive: expected order 2 or 3 and a last sigma above 0, got {got} and {last}")));
    }
    let (mut lambda, end) = (-first.ln(), -last.ln());
    let (mut h, mut step) = (FIRST_STEP, 0);
    let mut previous = (x.clone(), first);
    for _ in 0..MAX_TRIES {
        if end - lambda <= ARRIVED {
            return Ok(x);
        }
        let (s, t) = ((-lambda).exp(), (-lambda - h).exp());
        let (low, high) = pair(run, step, &x, (s, t), settings)?;
        let error = error(&low, &high, (&previous.0, previous.1), t, settings)?;
        if error <= 1.0 {
            (x, previous, lambda) = (high, (low, t), lambda + h);
            run.observe(step, &x)?;
            step += 1;
        }
        // Rounded to float32 as the published controller does, so that the same steps are taken.
        let growth = f64::from(error.powf(-1.0 / settings.order as f64) as f32);
        h = (SAFETY * h * growth).min(end - lambda);
    }
    Err(Error::Config(format!("adaptive: no end after {MAX_TRIES} tries at sigma {:.6}; loosen atol or rtol", (-lambda).exp())))
}

/// The solutions of the lower and the higher order at t.
fn pair(run: &Run, step: usize, x: &Tensor, (s, t): (f64, f64), settings: &Adaptive) -> Result<(Tensor, Tensor)> {
    let solver = Dpm { published_third: false, ..settings.solver };
    let h = (s / t).ln();
    let at = |r: f64| (-(-s.ln() + r * h)).exp();
    let first = |r: f64, f0: &Tensor, f1: &Tensor| -> Result<Differences> {
        Ok(Differences { first: Some(combine(&[(1.0 / r, f1), (-1.0 / r, f0)])?), second: None })
    };
    let none = Differences::default();
    let f_at = |x: &Tensor, sigma: f64| solver.prediction.of(x, &run.denoise(step, x, sigma)?, sigma);
    let f0 = f_at(x, s)?;
    let r1 = if settings.order == 2 { 0.5 } else { 1.0 / 3.0 };
    let f1 = f_at(&solver.step((x, s, at(r1)), &f0, &none, None)?, at(r1))?;
    let second = solver.step((x, s, t), &f0, &first(r1, &f0, &f1)?, None)?;
    if settings.order == 2 {
        return Ok((solver.step((x, s, t), &f0, &none, None)?, second));
    }
    let r2 = 2.0 / 3.0;
    let taylor = Dpm { form: Form::Taylor, ..solver };
    let x2 = taylor.step((x, s, at(r2)), &f0, &first(r1 / r2, &f0, &f1)?, None)?;
    let differences = super::singlestep::third_order(&[f0.clone(), f1, f_at(&x2, at(r2))?], r1, r2, solver.form)?;
    Ok((second, solver.step((x, s, t), &f0, &differences, None)?))
}

/// The largest over the batch of the root mean square of (high - low) / max(atol, rtol max(|low|, |previous|)).
fn error(low: &Tensor, high: &Tensor, (previous, s): (&Tensor, f64), t: f64, settings: &Adaptive) -> Result<f64> {
    let scale = |x: &Tensor, sigma: f64| -> Result<Tensor> {
        Ok(x.flatten_from(1)?.to_dtype(DType::F64)?.affine(settings.schedule.scale(sigma), 0.0)?)
    };
    let (low, high, previous) = (scale(low, t)?, scale(high, t)?, scale(previous, s)?);
    let delta = low.abs()?.maximum(&previous.abs()?)?.affine(settings.rtol, 0.0)?.maximum(settings.atol)?;
    let rms = ((high - low)? / delta)?.sqr()?.mean(D::Minus1)?.sqrt()?;
    Ok(rms.max(0)?.to_scalar::<f64>()?)
}
