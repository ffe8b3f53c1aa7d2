//! LDM's DDIM, PLMS and ancestral samplers.

use anyhow::{Result, bail};
use candle_core::Tensor;
use strata_diffusion::{
    denoiser::{Clip, Clipped, Denoiser, Parametrization},
    guidance::{Guided, Sequential},
    sampler::{self, Ancestral, DdpmVariance, Known},
    schedule::Schedule,
    schedule_discrete::Discrete,
};

use super::{
    Recorded, Recorder,
    mixture::{Mixture, parametrization},
    stack_scaled, trace,
};
use crate::{
    golden::{Answer, Case, Config},
    kinds::schedules::{ldm_betas, ldm_indices},
};

/// What DDIM and PLMS share: the chosen indices, and their levels, noisy first, ending at index 0.
struct Setting {
    discrete: Discrete,
    indices: Vec<usize>,
    sigmas: Vec<f64>,
    schedule: Schedule,
    denoiser: Recorder<Box<dyn Denoiser>>,
}

impl Setting {
    fn read(case: &Case, config: &Config) -> Result<Self> {
        let discrete = Discrete::new(ldm_betas(config)?)?;
        let method: String = config.get("ddim_discretize")?;
        let indices = ldm_indices(&method, config.get("S")?, discrete.len())?;
        let sigmas = indices.iter().rev().chain([&0]).map(|i| discrete.sigmas()[*i]).collect();
        let schedule = Schedule::Ldm(discrete.clone());
        let scale: f64 = config.or("unconditional_guidance_scale", 1.0)?;
        let eps = |name: &str| -> Result<_> { Ok(Mixture::read(case, name)?.denoiser(Parametrization::Eps, &schedule)) };
        let denoiser: Box<dyn Denoiser> = if scale == 1.0 {
            Box::new(eps("gmm")?)
        } else {
            let pair = Sequential { conditional: eps("gmm_cond")?, unconditional: eps("gmm_uncond")? };
            Box::new(Guided::new(pair, scale))
        };
        Ok(Self { discrete, indices, sigmas, schedule, denoiser: Recorder::new(denoiser) })
    }

    fn start(&self, case: &Case) -> Result<Tensor> {
        Ok((case.input("x_T")? / self.schedule.scale(self.sigmas[0]))?)
    }

    fn answer(&self, x: &Tensor, states: &[Tensor], predicted: &[Tensor]) -> Result<Answer> {
        let scales = || self.sigmas[1..].iter().map(|s| self.schedule.scale(*s));
        let labels: Vec<i64> = self.denoiser.sigmas().into_iter().map(|s| self.discrete.label(s).round() as i64).collect();
        let last = self.schedule.scale(self.sigmas[self.sigmas.len() - 1]);
        let mut answer = Answer::new()
            .with("out.x", (x * last)?)
            .with("out.x_steps", stack_scaled(states, scales())?)
            .with("out.pred_x0_steps", Tensor::stack(predicted, 0)?);
        answer.insert_values("out.timesteps", self.indices.iter().map(|i| *i as i64).collect(), self.indices.len())?;
        let calls = labels.len();
        answer.insert_values("out.t_input", labels, calls)?;
        Ok(answer)
    }
}

pub fn ddim(case: &Case, config: &Config) -> Result<Answer> {
    let setting = Setting::read(case, config)?;
    let ancestral = Ancestral { eta: config.or("eta", 0.0)?, noise_scale: config.or("temperature", 1.0)?, clip: None };
    let x = setting.start(case)?;
    let mut noise = Recorded::new(case.input_opt("noise"));
    let (x, states) = if config.or("masked", false)? {
        let (x0, mask, mut again) = (case.input("x0")?, case.input("mask")?, Recorded::new(case.input_opt("q_noise")));
        let mut known = Known { x0: &x0, mask: &mask, noise: &mut again };
        trace(&setting.denoiser, &setting.sigmas, &mut noise, |run| {
            sampler::inpaint(run, x, &mut known, |run, x| sampler::ancestral(run, x, ancestral))
        })?
    } else {
        trace(&setting.denoiser, &setting.sigmas, &mut noise, |run| sampler::ancestral(run, x, ancestral))?
    };
    let predicted: Vec<Tensor> = setting.denoiser.calls.borrow().iter().map(|call| call.x0.clone()).collect();
    setting.answer(&x, &states, &predicted)
}

pub fn plms(case: &Case, config: &Config) -> Result<Answer> {
    let setting = Setting::read(case, config)?;
    if config.or("eta", 0.0)? != 0.0 || config.or("masked", false)? {
        bail!("PLMS takes eta 0 and no mask");
    }
    config.without_effect(&["temperature"]);
    let start = setting.start(case)?;
    let from = start.clone();
    let (x, states) = trace(&setting.denoiser, &setting.sigmas, &mut Recorded::new(None), |run| sampler::plms(run, from))?;
    // x0 of the extrapolated slope, which the step itself tells: every step is straight in sigma.
    let before = std::iter::once(&start).chain(&states);
    let predicted = before.zip(&states).zip(setting.sigmas.windows(2)).map(|((x, next), pair)| {
        let slope = ((next - x)? / (pair[1] - pair[0]))?;
        x - (slope * pair[0])?
    });
    let predicted = predicted.collect::<Result<Vec<_>, candle_core::Error>>()?;
    setting.answer(&x, &states, &predicted)
}

pub fn ancestral(case: &Case, config: &Config) -> Result<Answer> {
    let discrete = Discrete::new(ldm_betas(config)?)?;
    let schedule = Schedule::Ldm(discrete.clone());
    let denoiser = Mixture::read(case, "gmm")?.denoiser(parametrization(&config.get::<String>("parameterization")?)?, &schedule);
    let clipped = Clipped { denoiser: &denoiser, clip: Clip::Static { range: 1.0 } };
    let denoiser: &dyn Denoiser = if config.get("clip_denoised")? { &clipped } else { &denoiser };
    let variance = DdpmVariance { beta_share: config.get("v_posterior")?, ..DdpmVariance::SMALL };
    let sigmas: Vec<f64> = discrete.sigmas().iter().rev().copied().chain([0.0]).collect();
    let x = (case.input("x_T")? / schedule.scale(sigmas[0]))?;
    let mut noise = Recorded::new(case.input_opt("noise"));
    let (x, states) = trace(denoiser, &sigmas, &mut noise, |run| sampler::ddpm(run, x, variance))?;
    let scales = sigmas[1..].iter().map(|s| schedule.scale(*s));
    Ok(Answer::new().with("out.x_steps", stack_scaled(&states, scales)?).with("out.x", x))
}
