//! diffusers' schedulers: their timesteps and levels, and the sampler of the library that each one is.

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Tensor};
use strata_diffusion::{
    denoiser::{Clip, Clipped, Denoiser, Parametrization},
    sampler::{self, Ancestral, DdpmVariance, Dpm, Form, Pndm, PndmCall, PndmRule, Prediction, Run, UniPc, warm_up_orders},
    schedule::Schedule,
    schedule_discrete::Discrete,
};

use super::{
    Recorded, Recorder,
    diffusers_grid::{Visit, dpm_family, edm_family, flow_match, k_family, spaced, table},
    mixture::{Mixture, parametrization},
    trace,
};
use crate::golden::{Answer, Case, Config};

/// Below how many steps the multistep schedulers end with lower orders.
const FEW_STEPS: usize = 15;

/// What every class works with.
struct Setting<'a> {
    case: &'a Case,
    class: String,
    steps: usize,
    set: Config<'a>,
    step: Config<'a>,
    config: Config<'a>,
}

pub fn run(case: &Case, config: &Config) -> Result<Answer> {
    let setting = Setting {
        case,
        class: config.get("class")?,
        steps: config.get("num_inference_steps")?,
        set: config.section("set_timesteps")?,
        step: config.section("step")?,
        config: config.section("scheduler")?,
    };
    ensure!(setting.steps > 0, "num_inference_steps: expected at least 1, got 0");
    let answer = match setting.class.as_str() {
        "DDIMScheduler" => setting.ddim(),
        "DDPMScheduler" => setting.ddpm(),
        "PNDMScheduler" => setting.pndm(),
        "EulerDiscreteScheduler"
        | "EulerAncestralDiscreteScheduler"
        | "HeunDiscreteScheduler"
        | "LMSDiscreteScheduler"
        | "KDPM2DiscreteScheduler" => setting.k_family(),
        "DPMSolverMultistepScheduler" | "DPMSolverSinglestepScheduler" | "UniPCMultistepScheduler" | "DEISMultistepScheduler" => {
            setting.dpm_family()
        }
        "EDMEulerScheduler" | "EDMDPMSolverMultistepScheduler" => setting.edm_family(),
        "FlowMatchEulerDiscreteScheduler" => setting.flow_match(),
        other => bail!("class {other}: no such scheduler here"),
    }?;
    let Setting { set, step, config, .. } = setting;
    [set, step, config].into_iter().try_for_each(Config::finish)?;
    Ok(answer)
}

/// How a class's answer is read off: the scale of its state at a level, its first factor, and its listing.
struct Shown<'a> {
    scale: &'a dyn Fn(f64) -> f64,
    init: f64,
    timesteps: &'a [f64],
    whole: bool,
    sigmas: Option<&'a [f64]>,
}

impl Setting<'_> {
    fn parametrization(&self) -> Result<Parametrization> {
        parametrization(&self.config.or("prediction_type", "epsilon".to_owned())?)
    }

    fn clip(&self) -> Result<Option<Clip>> {
        let config = &self.config;
        let ratio = config.or("dynamic_thresholding_ratio", 0.995)?;
        let at_most = config.or("sample_max_value", 1.0)?;
        let (fixed, range) = (config.or("clip_sample", false)?, config.or("clip_sample_range", 1.0)?);
        let dynamic = config.or("thresholding", false)?;
        let clip = if dynamic { Clip::Dynamic { ratio, at_least: 1.0, at_most } } else { Clip::Static { range } };
        Ok((dynamic || fixed).then_some(clip))
    }

    fn start(&self, factor: f64) -> Result<Tensor> {
        Ok((self.case.input("noise_init")?.to_dtype(DType::F64)? * factor)?)
    }

    /// Runs a sampler from the shown start. The state after every step call is what the next call sees, and at last the result.
    fn solve(
        &self,
        of: Parametrization,
        (schedule, levels): (&Schedule, &[f64]),
        shown: &Shown,
        sampler: impl FnOnce(&mut Run, Tensor) -> strata_diffusion::Result<Tensor>,
    ) -> Result<Answer> {
        let recorder = Recorder::new(Mixture::read(self.case, "gmm")?.denoiser(of, schedule));
        let clip = if self.class == "DDIMScheduler" { None } else { self.clip()? };
        let clipped = clip.map(|clip| Clipped { denoiser: &recorder, clip });
        let denoiser: &dyn Denoiser = clipped.as_ref().map_or(&recorder as &dyn Denoiser, |c| c);
        let x = self.start(shown.init / (shown.scale)(levels[0]))?;
        let mut noise = Recorded::new(self.case.input_opt("noise"));
        let (x, _) = trace(denoiser, levels, &mut noise, |run| sampler(run, x))?;
        let x = (x * (shown.scale)(levels[levels.len() - 1]))?;
        let calls = recorder.calls.borrow();
        let mut states = calls.iter().skip(1).map(|c| &c.x * (shown.scale)(c.sigma)).collect::<Result<Vec<_>, _>>()?;
        states.push(x.clone());
        self.shown(x, &states, shown)
    }

    fn shown(&self, x: Tensor, states: &[Tensor], shown: &Shown) -> Result<Answer> {
        let mut answer = Answer::new().with("out.x", x).with("out.x_steps", Tensor::stack(states, 0)?);
        answer.insert_scalar("out.init_noise_sigma", shown.init)?;
        let n = shown.timesteps.len();
        if shown.whole {
            answer.insert_values("out.timesteps", shown.timesteps.iter().map(|t| *t as i64).collect(), n)?;
        } else {
            answer.insert_values("out.timesteps", shown.timesteps.to_vec(), n)?;
        }
        if let Some(sigmas) = shown.sigmas {
            answer.insert_values("out.sigmas", sigmas.to_vec(), sigmas.len())?;
        }
        Ok(answer)
    }

    /// One step at a time, because a step may end at another index than the next begins with.
    fn ddim(&self) -> Result<Answer> {
        let table = table(&self.config, false)?;
        let timesteps = spaced(&self.config, self.steps, true, "leading")?;
        let end = first_level(&self.config, &table)?;
        let stride = (table.len() / self.steps) as i64;
        let of = self.parametrization()?;
        let schedule = Schedule::Ldm(table.clone());
        let denoiser = Mixture::read(self.case, "gmm")?.denoiser(of, &schedule);
        let (clip, eta) = (self.clip()?, self.step.or("eta", 0.0)?);
        let both = self.step.or("use_clipped_model_output", false)?;
        let clipped = clip.map(|clip| Clipped { denoiser: &denoiser, clip });
        let inner: &dyn Denoiser = clipped.as_ref().filter(|_| both).map_or(&denoiser as &dyn Denoiser, |c| c);
        let settings = Ancestral { eta, noise_scale: 1.0, clip: clip.filter(|_| !both) };
        let mut noise = Recorded::new(self.case.input_opt("noise"));
        let (mut y, mut states) = (self.start(1.0)?, Vec::new());
        for t in &timesteps {
            let levels = [level(&table, *t as i64, end), level(&table, *t as i64 - stride, end)];
            let x = (&y / schedule.scale(levels[0]))?;
            let (x, _) = trace(inner, &levels, &mut noise, |run| sampler::ancestral(run, x, settings))?;
            y = (x * schedule.scale(levels[1]))?;
            states.push(y.clone());
        }
        let scale = |sigma| schedule.scale(sigma);
        self.shown(y, &states, &Shown { scale: &scale, init: 1.0, timesteps: &timesteps, whole: true, sigmas: None })
    }

    fn ddpm(&self) -> Result<Answer> {
        let table = table(&self.config, false)?;
        let timesteps = spaced(&self.config, self.steps, true, "leading")?;
        let beta_share = match self.config.or("variance_type", "fixed_small".to_owned())?.as_str() {
            "fixed_small" | "fixed_small_log" => 0.0,
            "fixed_large" | "fixed_large_log" => 1.0,
            other => bail!("variance_type {other}: expected fixed_small or fixed_large"),
        };
        let noise_at_end = timesteps.last().is_some_and(|t| *t > 0.0);
        let levels: Vec<f64> = timesteps.iter().map(|t| level(&table, *t as i64, 0.0)).chain([0.0]).collect();
        let schedule = Schedule::Ldm(table);
        let scale = |sigma| schedule.scale(sigma);
        let shown = Shown { scale: &scale, init: 1.0, timesteps: &timesteps, whole: true, sigmas: None };
        self.solve(self.parametrization()?, (&schedule, &levels), &shown, |run, x| {
            sampler::ddpm(run, x, DdpmVariance { beta_share, noise_at_end, ..DdpmVariance::SMALL })
        })
    }

    fn pndm(&self) -> Result<Answer> {
        let table = table(&self.config, false)?;
        let times: Vec<i64> = spaced(&self.config, self.steps, true, "leading")?.into_iter().map(|t| t as i64).collect();
        let end = first_level(&self.config, &table)?;
        let stride = (table.len() / self.steps) as i64;
        let (timesteps, moves) =
            if self.config.or("skip_prk_steps", false)? { heun_plan(&times, stride) } else { runge_kutta_plan(&times, stride)? };
        let at = |t: i64| level(&table, t, end);
        let plan: Vec<PndmCall> = timesteps
            .iter()
            .zip(&moves)
            .map(|(t, (from, to, rule))| PndmCall { sigma: at(*t), from: at(*from), to: at(*to), rule: *rule })
            .collect();
        let levels = [plan[0].sigma, plan[plan.len() - 1].to];
        let (schedule, of) = (Schedule::Ldm(table.clone()), self.parametrization()?);
        let scale = |sigma| schedule.scale(sigma);
        let listed: Vec<f64> = timesteps.iter().map(|t| *t as f64).collect();
        let shown = Shown { scale: &scale, init: 1.0, timesteps: &listed, whole: true, sigmas: None };
        let pndm = Pndm { plan: &plan, schedule: &schedule, parametrization: of };
        self.solve(of, (&schedule, &levels), &shown, |run, x| sampler::pndm(run, x, &pndm))
    }

    fn k_family(&self) -> Result<Answer> {
        let Visit { mut timesteps, mut sigmas, mut levels, schedule } = k_family(&self.config, self.steps, &self.class)?;
        let top = sigmas.iter().copied().fold(0.0, f64::max);
        let default = "linspace".to_owned();
        let init = if self.config.or("timestep_spacing", default)? == "leading" { top.hypot(1.0) } else { top };
        levels.truncate(timesteps.len() + 1);
        let twice = |list: &[f64]| -> Vec<f64> { list.iter().flat_map(|v| [*v, *v]).collect() };
        let n = timesteps.len();
        let mut middles = None;
        match self.class.as_str() {
            "HeunDiscreteScheduler" => {
                timesteps = twice(&timesteps)[1..].to_vec();
                sigmas = [&twice(&sigmas[..n])[1..], &[0.0]].concat();
            }
            "KDPM2DiscreteScheduler" => {
                let Schedule::Ldm(table) = &schedule else { bail!("expected a table") };
                let mid: Vec<f64> = sigmas[..n].windows(2).map(|p| (p[0] * p[1]).sqrt()).collect();
                let between = mid.iter().map(|m| table.index_of_log_sigma(*m)).map(Some).chain([None]);
                timesteps = timesteps.iter().zip(between).flat_map(|(t, m)| [Some(*t), m]).flatten().collect();
                sigmas = [&twice(&sigmas[..n])[1..], &[0.0; 3]].concat();
                middles = Some([twice(&mid), vec![0.0; 3]].concat());
            }
            _ => {}
        }
        let order = if self.class == "LMSDiscreteScheduler" { self.step.or("order", 4)? } else { 1 };
        let shown = Shown { scale: &|_| 1.0, init, timesteps: &timesteps, whole: false, sigmas: Some(&sigmas) };
        let mut answer =
            self.solve(self.parametrization()?, (&schedule, &levels), &shown, |run, x| match self.class.as_str() {
                "HeunDiscreteScheduler" => sampler::heun(run, x),
                "KDPM2DiscreteScheduler" => sampler::dpm2(run, x, 0.0),
                "LMSDiscreteScheduler" => sampler::lms(run, x, order),
                "EulerAncestralDiscreteScheduler" => sampler::ancestral(run, x, Ancestral::default()),
                _ => sampler::euler(run, x),
            })?;
        if let Some(middles) = middles {
            let n = middles.len();
            answer.insert_values("out.sigmas_interpol", middles, n)?;
        }
        Ok(answer)
    }

    /// Orders that rise, and fall at the end as the multistep schedulers let them.
    fn multistep_orders(&self, n: usize, order: usize) -> Result<Vec<usize>> {
        let mut orders = warm_up_orders(n, order);
        let few = self.config.or("lower_order_final", true)? && n < FEW_STEPS;
        let euler_at_final = self.config.or("euler_at_final", false)?;
        if few || euler_at_final {
            orders[n - 1] = 1;
        }
        if few && n > 1 {
            orders[n - 2] = orders[n - 2].min(2);
        }
        Ok(orders)
    }

    fn solver(&self) -> Result<Dpm> {
        let algorithm: String = self.config.or("algorithm_type", "dpmsolver++".to_owned())?;
        let (stochastic, base) = algorithm.strip_prefix("sde-").map_or((false, algorithm.as_str()), |base| (true, base));
        let prediction = match base {
            "dpmsolver" => Prediction::Noise,
            "dpmsolver++" => Prediction::Data,
            other => bail!("algorithm_type {other}: expected dpmsolver or dpmsolver++"),
        };
        let form = match self.config.or("solver_type", "midpoint".to_owned())?.as_str() {
            "midpoint" => Form::Midpoint,
            "heun" => Form::Taylor,
            other => bail!("solver_type {other}: expected midpoint or heun"),
        };
        ensure!(self.config.opt::<String>("variance_type")?.is_none(), "variance_type: no case describes it");
        Ok(Dpm { prediction, form, stochastic, published_third: true, published_noise: true })
    }

    fn dpm_family(&self) -> Result<Answer> {
        let visit = dpm_family(&self.config, self.steps, &self.class)?;
        let n = visit.timesteps.len();
        let scale = |sigma| visit.schedule.scale(sigma);
        let (timesteps, sigmas) = (&visit.timesteps, Some(visit.sigmas.as_slice()));
        let shown = Shown { scale: &scale, init: 1.0, timesteps, whole: true, sigmas };
        let order = self.config.or("solver_order", 2)?;
        let (of, at) = (self.parametrization()?, (&visit.schedule, visit.levels.as_slice()));
        match self.class.as_str() {
            "UniPCMultistepScheduler" => {
                let settings = self.unipc(order)?;
                self.solve(of, at, &shown, |run, x| sampler::unipc(run, x, &settings))
            }
            "DEISMultistepScheduler" => {
                self.config.without_effect(&["algorithm_type", "solver_type"]);
                let orders = self.multistep_orders(n, order)?;
                self.solve(of, at, &shown, |run, x| sampler::deis(run, x, &orders))
            }
            "DPMSolverSinglestepScheduler" => {
                let solver = self.solver()?;
                let orders = self.singlestep_orders(n, order, visit.levels[n] == 0.0)?;
                self.solve(of, at, &shown, |run, x| sampler::singlestep(run, x, solver, &orders, solver.form))
            }
            _ => {
                let (solver, orders) = (self.solver()?, self.multistep_orders(n, order)?);
                let refused = solver.prediction == Prediction::Noise && visit.levels[n] == 0.0;
                ensure!(!refused, "the source refuses dpmsolver with a final sigma of 0");
                self.solve(of, at, &shown, |run, x| sampler::multistep(run, x, solver, &orders))
            }
        }
    }

    fn unipc(&self, order: usize) -> Result<UniPc> {
        let config = &self.config;
        ensure!(config.opt::<String>("solver_p")?.is_none(), "solver_p: no case describes it");
        let prediction = if config.or("predict_x0", true)? { Prediction::Data } else { Prediction::Noise };
        let exponential_b = match config.or("solver_type", "bh2".to_owned())?.as_str() {
            "bh1" => false,
            "bh2" => true,
            other => bail!("solver_type {other}: expected bh1 or bh2"),
        };
        let lower_order_final = config.or("lower_order_final", true)?;
        Ok(UniPc { order, prediction, exponential_b, lower_order_final, uncorrected: config.or("disable_corrector", vec![])? })
    }

    /// The moves of the singlestep scheduler.
    fn singlestep_orders(&self, n: usize, order: usize, to_zero: bool) -> Result<Vec<usize>> {
        let lower_order_final = self.config.or("lower_order_final", true)?;
        let lower = lower_order_final || !n.is_multiple_of(order) || to_zero;
        let (whole, rest) = (n / order, n % order);
        let mut orders = match (order, rest) {
            _ if !lower => vec![order; whole],
            (1, _) => vec![1; n],
            (2, 0) => [vec![2; whole - 1], vec![1, 1]].concat(),
            (3, 0) => [vec![3; whole - 1], vec![2, 1]].concat(),
            _ => [vec![order; whole], vec![rest]].concat(),
        };
        if to_zero && orders.last().is_some_and(|last| *last == 2) {
            orders.pop();
            orders.extend([1, 1]);
        }
        Ok(orders)
    }

    fn edm_family(&self) -> Result<Answer> {
        let visit = edm_family(&self.config, self.steps)?;
        // The sign of c_out, which v_prediction turns, falls out of network and preconditioning together.
        self.config.without_effect(&["prediction_type"]);
        let of = Parametrization::F { sigma_data: self.config.or("sigma_data", 0.5)? };
        let init = self.config.or("sigma_max", 80.0f64)?.hypot(1.0);
        let (timesteps, sigmas) = (&visit.timesteps, Some(visit.sigmas.as_slice()));
        let shown = Shown { scale: &|_| 1.0, init, timesteps, whole: false, sigmas };
        let at = (&visit.schedule, visit.levels.as_slice());
        if self.class == "EDMEulerScheduler" {
            return self.solve(of, at, &shown, sampler::euler);
        }
        let solver = self.solver()?;
        let orders = self.multistep_orders(self.steps, self.config.or("solver_order", 2)?)?;
        self.solve(of, at, &shown, |run, x| sampler::multistep(run, x, solver, &orders))
    }

    fn flow_match(&self) -> Result<Answer> {
        let visit = flow_match(&self.config, self.steps, self.set.opt("mu")?)?;
        let stochastic = self.config.or("stochastic_sampling", false)?;
        let scale = |sigma| visit.schedule.scale(sigma);
        let (timesteps, sigmas) = (&visit.timesteps, Some(visit.sigmas.as_slice()));
        let shown = Shown { scale: &scale, init: 1.0, timesteps, whole: false, sigmas };
        self.solve(Parametrization::Velocity, (&visit.schedule, &visit.levels), &shown, |run, x| {
            if stochastic { sampler::renoise(run, x) } else { sampler::euler(run, x) }
        })
    }
}

/// The level before index 0.
fn first_level(config: &Config, table: &Discrete) -> Result<f64> {
    let to_one = config.or("set_alpha_to_one", true)?;
    Ok(if to_one { 0.0 } else { table.sigmas()[0] })
}

/// The level of an index, `end` below 0.
fn level(table: &Discrete, index: i64, end: f64) -> f64 {
    usize::try_from(index).map_or(end, |i| table.sigmas()[i])
}

type Plan = (Vec<i64>, Vec<(i64, i64, PndmRule)>);

/// Timesteps and moves with a Heun round first.
fn heun_plan(times: &[i64], stride: i64) -> Plan {
    let mut timesteps = vec![times[0]];
    let mut moves = vec![(times[0], times[0] - stride, PndmRule::Begin)];
    if let Some(&second) = times.get(1) {
        timesteps.push(second);
        moves.push((second + stride, second, PndmRule::Trapezoid));
    }
    for &t in &times[1..] {
        timesteps.push(t);
        moves.push((t, t - stride, PndmRule::Multistep));
    }
    (timesteps, moves)
}

/// Timesteps and moves with three Runge-Kutta rounds first.
fn runge_kutta_plan(times: &[i64], stride: i64) -> Result<Plan> {
    ensure!(times.len() >= 4, "PNDM with Runge-Kutta rounds: expected at least 4 steps, got {}", times.len());
    let (mut timesteps, mut moves) = (Vec::new(), Vec::new());
    let half = stride / 2;
    for pair in times[..4].windows(2) {
        let (a, b) = (pair[0], pair[1]);
        timesteps.extend([a, b + half, b + half, b]);
        let ends = [(a - half, PndmRule::Begin), (b + half, PndmRule::Middle), (b, PndmRule::Middle), (b, PndmRule::End)];
        moves.extend(ends.map(|(to, rule)| (a, to, rule)));
    }
    for &t in &times[3..] {
        timesteps.push(t);
        moves.push((t, t - stride, PndmRule::Multistep));
    }
    Ok((timesteps, moves))
}
