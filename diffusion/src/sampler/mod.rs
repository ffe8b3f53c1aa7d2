//! Samplers: one file each, free functions of a [`Run`] (denoiser, sigmas, noise source, observer) and the state.
//!
//! The state is always `x = x0 + sigma eps`: scalings of a schedule belong to the denoiser's adapter. `sigmas` are the n + 1
//! levels that the n steps go through, noisy first; where the last is 0 the last step answers x0.

mod adaptive;
mod ancestral;
mod choice;
mod ddpm;
mod deis;
mod dpm;
mod dpm2;
mod edm;
mod edm_general;
mod euler;
mod heun;
mod inpaint;
mod lms;
mod multistep;
mod noise;
mod plms;
mod pndm;
mod predictor_corrector;
mod restart;
mod singlestep;
mod text;
mod unipc;

use candle_core::{DType, Tensor};

pub use self::{
    adaptive::{Adaptive, adaptive},
    ancestral::{Ancestral, ancestral, ancestral_split, renoise},
    choice::Sampler,
    ddpm::{DdpmVariance, ddpm},
    deis::deis,
    dpm::{Dpm, Form, Prediction},
    dpm2::dpm2,
    edm::{Churn, edm},
    edm_general::{EdmGeneral, Scaling, TimeMap, edm_general},
    euler::euler,
    heun::heun,
    inpaint::{Known, inpaint},
    lms::lms,
    multistep::{final_orders, multistep, warm_up_orders},
    noise::{NoNoise, NoiseSource, SeededNoise},
    plms::plms,
    pndm::{Pndm, PndmCall, PndmRule, pndm},
    predictor_corrector::{LangevinStep, Predictor, PredictorCorrector, predictor_corrector},
    restart::{Restart, restart},
    singlestep::{singlestep, singlestep_orders},
    unipc::{UniPc, unipc},
};
use crate::{
    Error, Result,
    denoiser::{Denoiser, Estimate},
};

/// Sees the state after every step: (step from 0, x at the step's end). An error stops the run.
pub type Observe<'a> = dyn FnMut(usize, &Tensor) -> Result<()> + 'a;

/// What every sampler works with.
pub struct Run<'a> {
    /// Answers x0.
    pub denoiser: &'a dyn Denoiser,
    /// The levels to go through, n + 1 for n steps.
    pub sigmas: &'a [f64],
    /// Where stochastic samplers take their noise from.
    pub noise: &'a mut dyn NoiseSource,
    /// Sees the state after every step.
    pub observe: &'a mut Observe<'a>,
}

impl<'a> Run<'a> {
    /// The steps: (index, sigma at its beginning, sigma at its end).
    fn steps(&self) -> impl Iterator<Item = (usize, f64, f64)> + use<'a> {
        self.sigmas.windows(2).enumerate().map(|(i, pair)| (i, pair[0], pair[1]))
    }

    /// x0 at sigma. Errors with the step and sigma if it is not finite.
    fn denoise(&self, step: usize, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let x0 = self.denoiser.denoise(x, sigma)?;
        check_finite(&x0, step, sigma)?;
        Ok(x0)
    }

    /// The same with a learned variance.
    fn estimate(&self, step: usize, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let estimate = self.denoiser.estimate(x, sigma)?;
        check_finite(&estimate.x0, step, sigma)?;
        Ok(estimate)
    }

    /// The slope (x - x0)/sigma at sigma > 0: the noise eps.
    fn slope(&self, step: usize, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let x0 = self.denoise(step, x, sigma)?;
        combine(&[(1.0 / sigma, x), (-1.0 / sigma, &x0)])
    }

    fn draw(&mut self, step: usize, like: &Tensor) -> Result<Tensor> {
        self.noise.draw(step, like)
    }

    fn observe(&mut self, step: usize, x: &Tensor) -> Result<()> {
        (self.observe)(step, x)
    }
}

fn check_finite(x: &Tensor, step: usize, sigma: f64) -> Result<()> {
    let sum = x.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if sum.is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite(format!("in the denoiser's answer at step {step}, sigma {sigma:.6}")))
}

/// The linear combination of tensors of one shape; terms with a factor of 0 are left out.
fn combine(terms: &[(f64, &Tensor)]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for &(factor, tensor) in terms.iter().filter(|(factor, _)| *factor != 0.0) {
        let term = if factor == 1.0 { tensor.clone() } else { tensor.affine(factor, 0.0)? };
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    match (sum, terms.first()) {
        (Some(sum), _) => Ok(sum),
        (None, Some((_, tensor))) => Ok(tensor.zeros_like()?),
        (None, None) => Err(Error::Config("combine: expected at least one term, got none".into())),
    }
}

#[cfg(test)]
mod tests;
