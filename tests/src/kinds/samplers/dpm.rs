//! DPM-Solver and DPM-Solver++ as their authors' code runs them, with and without guidance.

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use strata_diffusion::{
    denoiser::{Clip, Clipped, Denoiser, Parametrization},
    grid::TimeRule,
    guidance::{Guided, Sequential},
    sampler::{self, Adaptive, Dpm, Form, NoNoise, Prediction, final_orders, singlestep_orders, warm_up_orders},
    schedule::Schedule,
};

use super::{
    Recorder,
    mixture::{Mixture, parametrization},
    stack_scaled, trace,
};
use crate::{
    golden::{Answer, Case, Config},
    kinds::schedules::{dpm_schedule, model_t, time_rule},
};

/// Below how many steps the authors' code ends with lower orders.
const FEW_STEPS: usize = 10;

/// What a case asks for.
struct Setting {
    method: String,
    order: usize,
    steps: usize,
    rule: TimeRule,
    lower_order_final: bool,
    solver: Dpm,
    ends: (f64, f64),
    atol: f64,
    rtol: f64,
    schedule: Schedule,
}

impl Setting {
    fn read(config: &Config) -> Result<Self> {
        let schedule = dpm_schedule(config)?;
        config.without_effect(&["continuous_beta_0", "continuous_beta_1"]);
        let first = match &schedule {
            Schedule::Ldm(discrete) => 1.0 / discrete.len() as f64,
            _ => 1.0 / 1000.0,
        };
        let ends = if config.or("inverse", false)? { (first, 1.0) } else { (1.0, first) };
        let prediction = match config.get::<String>("algorithm_type")?.as_str() {
            "dpmsolver" => Prediction::Noise,
            "dpmsolver++" => Prediction::Data,
            other => bail!("algorithm_type {other}: expected dpmsolver or dpmsolver++"),
        };
        let form = match config.or("solver_type", "dpmsolver".to_owned())?.as_str() {
            "dpmsolver" => Form::Midpoint,
            "taylor" => Form::Taylor,
            other => bail!("solver_type {other}: expected dpmsolver or taylor"),
        };
        Ok(Self {
            method: config.get("method")?,
            order: config.get("order")?,
            steps: config.get("steps")?,
            rule: time_rule(config)?,
            lower_order_final: config.or("lower_order_final", true)?,
            solver: Dpm { prediction, form, published_third: true, ..Dpm::default() },
            ends: (config.or("t_start", ends.0)?, config.or("t_end", ends.1)?),
            atol: config.or("atol", 0.0078)?,
            rtol: config.or("rtol", 0.05)?,
            schedule,
        })
    }

    /// All times that are visited, and the orders of the steps or moves.
    fn times(&self) -> Result<(Vec<f64>, Vec<usize>)> {
        let (from, to) = self.ends;
        let orders = match self.method.as_str() {
            "multistep" => {
                let few = if self.lower_order_final { FEW_STEPS } else { 0 };
                return Ok((self.rule.times(&self.schedule, from, to, self.steps), final_orders(self.steps, self.order, few)));
            }
            "adaptive" => return Ok((vec![from, to], warm_up_orders(1, 1))),
            "singlestep" => singlestep_orders(self.steps, self.order),
            "singlestep_fixed" => vec![self.order; self.steps / self.order],
            other => bail!("method {other}: expected multistep, singlestep, singlestep_fixed or adaptive"),
        };
        let outer = if self.method == "singlestep" {
            self.rule.outer_times(&self.schedule, self.ends, &orders)
        } else {
            self.rule.times(&self.schedule, from, to, orders.len())
        };
        let mut times = vec![outer[0]];
        for (pair, order) in outer.windows(2).zip(&orders) {
            // The end of a move is the outer time itself, not its image under the inverse of the log-SNR.
            let inner = self.rule.times(&self.schedule, pair[0], pair[1], *order);
            times.extend(&inner[1..*order]);
            times.push(pair[1]);
        }
        Ok((times, orders))
    }
}

fn denoiser(case: &Case, config: &Config, schedule: &Schedule) -> Result<Box<dyn Denoiser>> {
    let of = parametrization(&config.get::<String>("model_type")?)?;
    let one = |name: &str, of: Parametrization| -> Result<_> { Ok(Mixture::read(case, name)?.denoiser(of, schedule)) };
    if case.kind == "dpm_solver" {
        return Ok(Box::new(one("gmm", of)?));
    }
    let kind: String = config.get("guidance_type")?;
    ensure!(kind == "classifier-free", "guidance_type {kind}: expected classifier-free");
    let pair = Sequential { conditional: one("gmm_cond", of)?, unconditional: one("gmm_uncond", of)? };
    let rescale = config.or("guidance_rescale", 0.0)?;
    Ok(Box::new(Guided { rescale, ..Guided::new(pair, config.get("guidance_scale")?) }))
}

/// Dynamic thresholding, if the case has it.
fn clip(config: &Config) -> Result<Option<Clip>> {
    let (at_least, ratio) = (config.or("thresholding_max_val", 1.0)?, config.or("dynamic_thresholding_ratio", 0.995)?);
    match config.opt::<String>("correcting_x0_fn")?.as_deref() {
        None => Ok(None),
        Some("dynamic_thresholding") => Ok(Some(Clip::Dynamic { ratio, at_least, at_most: f64::INFINITY })),
        Some(other) => bail!("correcting_x0_fn {other}: expected dynamic_thresholding"),
    }
}

pub fn run(case: &Case, config: &Config) -> Result<Answer> {
    let setting = Setting::read(config)?;
    let schedule = &setting.schedule;
    let denoiser = Recorder::new(denoiser(case, config, schedule)?);
    let clip = clip(config)?;
    let clipped = clip.map(|clip| Clipped { denoiser: &denoiser, clip });
    let data: &dyn Denoiser = clipped.as_ref().map_or(&denoiser as &dyn Denoiser, |c| c);
    // Only the data prediction is thresholded.
    let inner: &dyn Denoiser = if setting.solver.prediction == Prediction::Data { data } else { &denoiser };
    let (times, orders) = setting.times()?;
    let sigmas: Vec<f64> = times.iter().map(|t| schedule.sigma(*t)).collect();
    let start = case.input("x")?;
    let x = (&start / schedule.scale(sigmas[0]))?;
    let (x, states) = trace(inner, &sigmas, &mut NoNoise, |run| solve(run, x, &setting, &orders))?;
    let last = sigmas[sigmas.len() - 1];
    let mut steps = ends(&setting, &sigmas, &orders)
        .zip(&states)
        .map(|(sigma, x)| x * schedule.scale(sigma))
        .collect::<Result<Vec<Tensor>, _>>()?;
    if setting.method == "multistep" {
        steps.insert(0, start);
    }
    let mut x = (x * schedule.scale(last))?;
    if config.or("denoise_to_zero", false)? {
        x = trace(data, &[last, 0.0], &mut NoNoise, |run| sampler::euler(run, (&x / schedule.scale(last))?))?.0;
        steps.push(x.clone());
    }
    answer(case, x, &steps, (&denoiser.sigmas(), schedule))
}

fn solve(run: &mut sampler::Run, x: Tensor, setting: &Setting, orders: &[usize]) -> strata_diffusion::Result<Tensor> {
    match setting.method.as_str() {
        "multistep" => sampler::multistep(run, x, setting.solver, orders),
        "adaptive" => {
            let &Setting { solver, order, atol, rtol, .. } = setting;
            sampler::adaptive(run, x, &Adaptive { solver, order, atol, rtol, schedule: setting.schedule.clone() })
        }
        _ => sampler::singlestep(run, x, setting.solver, orders, Form::Taylor),
    }
}

/// The level at the end of every step or move.
fn ends(setting: &Setting, sigmas: &[f64], orders: &[usize]) -> impl Iterator<Item = f64> {
    let widths = if setting.method == "multistep" { vec![1; orders.len()] } else { orders.to_vec() };
    let ends: Vec<f64> = widths
        .iter()
        .scan(0, |end, width| {
            *end += width;
            Some(*end)
        })
        .map(|i| sigmas[i])
        .collect();
    ends.into_iter()
}

fn answer(case: &Case, x: Tensor, steps: &[Tensor], (called, schedule): (&[f64], &Schedule)) -> Result<Answer> {
    let label = |sigma: &f64| match schedule {
        Schedule::Ldm(discrete) => model_t(schedule.t(*sigma), discrete.len()),
        _ => schedule.t(*sigma),
    };
    let mut answer = Answer::new().with("out.x", x);
    answer.insert_values("out.t_input", called.iter().map(label).collect(), called.len())?;
    answer.insert_scalar("out.nfe", called.len() as i64)?;
    if case.expects("out.x_steps") {
        answer.insert("out.x_steps", stack_scaled(steps, std::iter::repeat(1.0))?);
    }
    Ok(answer)
}
