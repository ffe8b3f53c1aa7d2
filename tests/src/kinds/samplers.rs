//! Kinds of the area `samplers`: published samplers on a Gaussian mixture, whose ideal denoiser is known.

mod diffusers;
mod diffusers_grid;
mod dpm;
mod edm;
mod ldm;
mod mixture;

use std::cell::RefCell;

use anyhow::{Result, bail};
use candle_core::Tensor;
use strata_diffusion::{
    denoiser::Denoiser,
    sampler::{NoiseSource, Run},
};

use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let answer = match case.kind.as_str() {
        "edm_sampler" => edm::sampler(case, &config),
        "edm_ablation_sampler" => edm::ablation(case, &config),
        "dpm_solver" | "cfg_dpm_solver" => dpm::run(case, &config),
        "ldm_ddim" => ldm::ddim(case, &config),
        "ldm_plms" => ldm::plms(case, &config),
        "ddpm_ancestral" => ldm::ancestral(case, &config),
        "diffusers_scheduler" => diffusers::run(case, &config),
        kind => bail!("`{kind}` is no kind of the area samplers"),
    }?;
    config.finish()?;
    Ok(answer)
}

/// Noise that was recorded, drawn row by row.
struct Recorded {
    noise: Option<Tensor>,
    next: usize,
}

impl Recorded {
    fn new(noise: Option<Tensor>) -> Self {
        Self { noise, next: 0 }
    }
}

impl NoiseSource for Recorded {
    fn draw(&mut self, _: usize, like: &Tensor) -> strata_diffusion::Result<Tensor> {
        let none = || strata_diffusion::Error::Config("the case has no noise".into());
        let row = self.noise.as_ref().ok_or_else(none)?.get(self.next)?;
        self.next += 1;
        Ok(row.to_dtype(like.dtype())?)
    }
}

/// One evaluation.
struct Call {
    x: Tensor,
    sigma: f64,
    x0: Tensor,
}

/// A denoiser that keeps what it is asked and what it answers.
struct Recorder<D> {
    denoiser: D,
    calls: RefCell<Vec<Call>>,
}

impl<D: Denoiser> Recorder<D> {
    fn new(denoiser: D) -> Self {
        Self { denoiser, calls: RefCell::default() }
    }

    fn sigmas(&self) -> Vec<f64> {
        self.calls.borrow().iter().map(|call| call.sigma).collect()
    }
}

impl<D: Denoiser> Denoiser for Recorder<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> strata_diffusion::Result<Tensor> {
        let x0 = self.denoiser.denoise(x, sigma)?;
        self.calls.borrow_mut().push(Call { x: x.clone(), sigma, x0: x0.clone() });
        Ok(x0)
    }
}

/// Runs a sampler over `sigmas` and answers the final state with the states after every step.
fn trace(
    denoiser: &dyn Denoiser,
    sigmas: &[f64],
    noise: &mut dyn NoiseSource,
    sampler: impl FnOnce(&mut Run) -> strata_diffusion::Result<Tensor>,
) -> Result<(Tensor, Vec<Tensor>)> {
    let mut states = Vec::new();
    let mut observe = |_: usize, x: &Tensor| {
        states.push(x.clone());
        Ok(())
    };
    let x = sampler(&mut Run { denoiser, sigmas, noise, observe: &mut observe })?;
    Ok((x, states))
}

/// The states, each by its factor, in one tensor.
fn stack_scaled<'a>(states: impl IntoIterator<Item = &'a Tensor>, factors: impl IntoIterator<Item = f64>) -> Result<Tensor> {
    let scaled = states.into_iter().zip(factors).map(|(x, factor)| x * factor).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::stack(&scaled, 0)?)
}
