//! EDM's losses, from the random numbers that drew their noise levels.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use strata_diffusion::{
    denoiser::Parametrization,
    noise::NoiseDistribution,
    schedule::Schedule,
    weighting::{Weighed, Weighting},
};

use super::network::Network;
use crate::golden::{Answer, Case, Config};

pub fn run(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let network = Network::new(case, config.raw("network").context("`config.network` is missing")?)?;
    let loss = Loss::read(config.get::<String>("loss")?.as_str(), config.section("loss_kwargs")?)?;
    config.finish()?;
    let (y, noise) = (case.input("images")?, case.input("noise")?);
    let rnd: Vec<f64> = case.input("rnd")?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let n = y.dim(0)?;
    let Drawn { sigmas, stage } = loss.draw(&rnd, n, &network)?;
    let rows = |values: &[f64]| {
        let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        Tensor::from_vec(values, (n, 1, 1, 1), y.device())
    };
    let schedule = Schedule::default();
    let of = Weighed { parametrization: Parametrization::F { sigma_data: loss.sigma_data }, schedule: &schedule };
    let weights: Vec<f64> = sigmas.iter().map(|s| loss.weighting.weight(*s, of)).collect();
    let noised = (&y + noise.broadcast_mul(&rows(&sigmas)?)?)?;
    let condition = network.condition(case, n)?;
    let d = match stage {
        Some(stage) => network.denoise_in(stage, &noised, &sigmas, &condition)?,
        None => network.denoise(&noised, &sigmas, &condition)?,
    };
    let each = strata_nn::ops::mse_loss(&d, &y)?.mul(&rows(&weights)?.flatten_all()?)?;
    let mean = each.mean_all()?;
    let mut answer = Answer::new();
    network.gradients(case, &mean, None, &mut answer)?;
    for (name, tensor) in [("noised", noised), ("D", d), ("loss_per_sample", each), ("loss_mean", mean.reshape(1)?)] {
        answer.insert(format!("out.{name}"), tensor);
    }
    answer.insert("out.sigma", rows(&sigmas)?.flatten_all()?);
    answer.insert("out.weight", rows(&weights)?.flatten_all()?);
    Ok(answer)
}

struct Loss {
    levels: Levels,
    weighting: Weighting,
    sigma_data: f64,
    by_stage: bool,
}

enum Levels {
    Vp { beta_d: f64, beta_min: f64, epsilon_t: f64 },
    Ve { sigma_min: f64, sigma_max: f64 },
    LogNormal(NoiseDistribution),
}

struct Drawn {
    sigmas: Vec<f64>,
    stage: Option<usize>,
}

impl Loss {
    fn read(name: &str, kwargs: Config<'_>) -> Result<Self> {
        let eps = |levels| Self { levels, weighting: Weighting::Eps, sigma_data: 1.0, by_stage: false };
        let loss = match name {
            "VPLoss" => eps(Levels::Vp {
                beta_d: kwargs.or("beta_d", 19.9)?,
                beta_min: kwargs.or("beta_min", 0.1)?,
                epsilon_t: kwargs.or("epsilon_t", 1e-5)?,
            }),
            "VELoss" => eps(Levels::Ve { sigma_min: kwargs.or("sigma_min", 0.02)?, sigma_max: kwargs.or("sigma_max", 100.0)? }),
            "EDMLoss" | "EDMMultistageLoss" => Self {
                levels: Levels::LogNormal(NoiseDistribution::LogNormal {
                    mean: kwargs.or("P_mean", -1.2)?,
                    std: kwargs.or("P_std", 1.2)?,
                }),
                weighting: Weighting::Edm,
                sigma_data: kwargs.or("sigma_data", 0.5)?,
                by_stage: name == "EDMMultistageLoss",
            },
            other => bail!("`config.loss`: unknown loss `{other}`"),
        };
        kwargs.finish()?;
        Ok(loss)
    }

    fn sigma(&self, rnd: f64) -> f64 {
        match self.levels {
            Levels::Vp { beta_d, beta_min, epsilon_t } => {
                let t = 1.0 + rnd * (epsilon_t - 1.0);
                let schedule = Schedule::VpLinear { beta_min, beta_max: beta_min + beta_d, t_min: epsilon_t };
                schedule.sigma(t)
            }
            Levels::Ve { sigma_min, sigma_max } => Schedule::Ve { sigma_min, sigma_max }.sigma(rnd),
            Levels::LogNormal(NoiseDistribution::LogNormal { mean, std }) => (mean + std * rnd).exp(),
            Levels::LogNormal(_) => f64::NAN,
        }
    }

    /// One number per sample, or as published with stages: the first number chooses a stage, the next ones that fall into it are
    /// the levels.
    fn draw(&self, rnd: &[f64], n: usize, network: &Network) -> Result<Drawn> {
        if !self.by_stage {
            return Ok(Drawn { sigmas: rnd.iter().map(|r| self.sigma(*r)).collect(), stage: None });
        }
        let intervals = network.config().stage_interval.as_ref().context("the network has no stages")?;
        let holds = |stage: usize, v: f64| intervals[stage].iter().any(|&(lo, hi)| lo < v && hi.is_none_or(|hi| v <= hi));
        let first = self.sigma(*rnd.first().context("no random number")?);
        let stage = (0..intervals.len()).rfind(|&stage| holds(stage, first));
        let stage = stage.with_context(|| format!("no stage has sigma {first}"))?;
        let sigmas: Vec<f64> = rnd[1..].iter().map(|r| self.sigma(*r)).filter(|v| holds(stage, *v)).take(n).collect();
        if sigmas.len() < n {
            bail!("the random numbers give {} levels of stage {stage}, {n} are needed", sigmas.len());
        }
        Ok(Drawn { sigmas, stage: Some(stage) })
    }
}
