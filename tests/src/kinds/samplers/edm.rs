//! EDM's samplers.

use anyhow::{Result, bail};
use candle_core::Tensor;
use strata_diffusion::{
    denoiser::{Denoiser, Parametrization},
    grid,
    sampler::{self, Churn, EdmGeneral, Scaling, TimeMap},
    schedule::Schedule,
};

use super::{Recorded, Recorder, mixture::Mixture, trace};
use crate::{
    golden::{Answer, Case, Config},
    kinds::schedules::edm_levels,
};

fn churn(config: &Config) -> Result<Churn> {
    Ok(Churn {
        s_churn: config.or("S_churn", 0.0)?,
        s_min: config.or("S_min", 0.0)?,
        s_max: config.or("S_max", f64::INFINITY)?,
        s_noise: config.or("S_noise", 1.0)?,
    })
}

/// EDM's own scaling: the mixture answers x0 from x0 + sigma eps.
fn denoiser(case: &Case) -> Result<Recorder<impl Denoiser>> {
    let schedule = Schedule::Edm { sigma_min: 0.002, sigma_max: 80.0 };
    Ok(Recorder::new(Mixture::read(case, "gmm")?.denoiser(Parametrization::X0, &schedule)))
}

fn answer(x: Tensor, recorder: &Recorder<impl Denoiser>) -> Result<Answer> {
    let calls = recorder.calls.borrow();
    let states: Vec<&Tensor> = calls.iter().map(|call| &call.x).collect();
    let mut answer = Answer::new().with("out.x", x).with("out.den_x", Tensor::stack(&states, 0)?);
    answer.insert_values("out.den_sigma", recorder.sigmas(), calls.len())?;
    Ok(answer)
}

pub fn sampler(case: &Case, config: &Config) -> Result<Answer> {
    let (n, low, high) = (config.get("num_steps")?, config.or("sigma_min", 0.002)?, config.or("sigma_max", 80.0)?);
    let sigmas = grid::karras(n, low, high, config.or("rho", 7.0)?)?;
    let (churn, denoiser) = (churn(config)?, denoiser(case)?);
    let x = (case.input("latents")? * sigmas[0])?;
    let mut noise = Recorded::new(case.input_opt("noise"));
    let (x, _) = trace(&denoiser, &sigmas, &mut noise, |run| sampler::edm(run, x, churn))?;
    answer(x, &denoiser)
}

pub fn ablation(case: &Case, config: &Config) -> Result<Answer> {
    let (mut sigmas, (beta_d, beta_min)) = edm_levels(config)?;
    sigmas.push(0.0);
    let map = match config.get::<String>("schedule")?.as_str() {
        "linear" => TimeMap::Linear,
        "ve" => TimeMap::Root,
        "vp" => TimeMap::Vp { beta_d, beta_min },
        other => bail!("schedule {other}: expected linear, ve or vp"),
    };
    let scaling = match config.get::<String>("scaling")?.as_str() {
        "none" => Scaling::None,
        "vp" => Scaling::Vp,
        other => bail!("scaling {other}: expected none or vp"),
    };
    let alpha: f64 = config.or("alpha", 1.0)?;
    let alpha = match config.get::<String>("solver")?.as_str() {
        "euler" => None,
        "heun" => Some(alpha),
        other => bail!("solver {other}: expected euler or heun"),
    };
    let settings = EdmGeneral { map, scaling, alpha, churn: churn(config)? };
    let denoiser = denoiser(case)?;
    let x = (case.input("latents")? * sigmas[0])?;
    let mut noise = Recorded::new(case.input_opt("noise"));
    let (x, _) = trace(&denoiser, &sigmas, &mut noise, |run| sampler::edm_general(run, x, &settings))?;
    answer(x, &denoiser)
}
