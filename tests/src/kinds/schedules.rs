//! Kinds of the area `schedules`: noise schedules, sigma grids, and quantities of a chain of betas.

use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use strata_diffusion::{
    grid::{self, Iddpm, TimeRule},
    sampler::{ancestral_split, singlestep_orders},
    schedule::Schedule,
    schedule_discrete::{BetaCurve, Discrete, DiscreteConfig, alphas_cumprod, zero_terminal_snr},
    schedule_posterior::{Posterior, min_snr_weights},
};

use crate::golden::{Answer, Case, Config};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let answer = match case.kind.as_str() {
        "ldm_beta_schedule" => ldm_beta_schedule(&config),
        "vp_continuous" => vp_continuous(case, &config),
        "vp_discrete" => vp_discrete(case, &config),
        "edm_sigma_grid" => edm_sigma_grid(&config),
        "k_sigma_grids" => k_sigma_grids(&config),
        "ldm_ddim_timesteps" => ldm_ddim_timesteps(case, &config),
        "dpm_time_steps" => dpm_time_steps(&config),
        "zero_terminal_snr" => zero_snr(case, &config),
        "min_snr_weights" => min_snr(case, &config),
        kind => bail!("`{kind}` is no kind of the area schedules"),
    }?;
    config.finish()?;
    Ok(answer)
}

/// The float64 values of a tensor, row-major.
pub(super) fn values(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn answer(named: Vec<(&str, Vec<f64>)>) -> Result<Answer> {
    let mut answer = Answer::new();
    for (name, values) in named {
        let n = values.len();
        answer.insert_values(format!("out.{name}"), values, n)?;
    }
    Ok(answer)
}

/// The betas of LDM's `make_beta_schedule`, in its parameter names.
pub(super) fn ldm_betas(config: &Config) -> Result<DiscreteConfig> {
    let curve = match config.or("beta_schedule", "linear".to_owned())?.as_str() {
        "linear" => BetaCurve::ScaledLinear,
        "sqrt_linear" => BetaCurve::Linear,
        "sqrt" => BetaCurve::Sqrt,
        "cosine" => BetaCurve::Cosine,
        other => bail!("beta_schedule {other}: expected linear, sqrt_linear, sqrt or cosine"),
    };
    Ok(DiscreteConfig {
        curve,
        steps: config.get("timesteps")?,
        beta_start: config.or("linear_start", 1e-4)?,
        beta_end: config.or("linear_end", 2e-2)?,
        cosine_s: config.or("cosine_s", 8e-3)?,
        zero_terminal_snr: false,
    })
}

fn ldm_beta_schedule(config: &Config) -> Result<Answer> {
    let betas = ldm_betas(config)?.betas()?;
    let predicts_x0 = match config.get::<String>("parameterization")?.as_str() {
        "eps" => false,
        "x0" => true,
        other => bail!("parameterization {other}: expected eps or x0"),
    };
    let posterior = Posterior::new(&betas, config.get("v_posterior")?);
    let weights = posterior.bound_weights(&betas, predicts_x0);
    let n = betas.len();
    let mut answer = answer(vec![
        ("alphas_cumprod", alphas_cumprod(&betas)),
        ("alphas_cumprod_prev", posterior.alphas_cumprod_prev),
        ("posterior_variance", posterior.variance),
        ("posterior_log_variance_clipped", posterior.log_variance_clipped),
        ("posterior_mean_coef1", posterior.mean_x0),
        ("posterior_mean_coef2", posterior.mean_x_t),
        ("betas", betas),
    ])?;
    answer.insert_values("out.lvlb_weights", weights, n)?;
    Ok(answer)
}

/// The VP schedule of DPM-Solver's `linear` one.
pub(super) fn vp_linear(config: &Config) -> Result<Schedule> {
    let (beta_min, beta_max) = (config.or("continuous_beta_0", 0.1)?, config.or("continuous_beta_1", 20.0)?);
    Ok(Schedule::VpLinear { beta_min, beta_max, t_min: 1e-3 })
}

fn of_time(case: &Case, schedule: &Schedule) -> Result<Vec<(&'static str, Vec<f64>)>> {
    let sigmas: Vec<f64> = values(&case.input("t")?)?.into_iter().map(|t| schedule.sigma(t)).collect();
    let each = |f: &dyn Fn(f64) -> f64| sigmas.iter().map(|s| f(*s)).collect::<Vec<f64>>();
    let at: Vec<f64> = values(&case.input("lambda")?)?.into_iter().map(|l| schedule.t((-l).exp())).collect();
    Ok(vec![
        ("log_alpha", each(&|s| schedule.scale(s).ln())),
        ("alpha", each(&|s| schedule.scale(s))),
        ("sigma", each(&|s| schedule.scale(s) * s)),
        ("lambda", each(&|s| -s.ln())),
        ("t_of_lambda", at),
    ])
}

fn vp_continuous(case: &Case, config: &Config) -> Result<Answer> {
    config.without_effect(&["schedule", "beta_min", "beta_d"]);
    let schedule = vp_linear(config)?;
    let mut named = of_time(case, &schedule)?;
    named.push(("edm_sigma", values(&case.input("t")?)?.into_iter().map(|t| schedule.sigma(t)).collect()));
    named.push(("edm_t_of_sigma", values(&case.input("lambda")?)?.into_iter().map(|l| schedule.t((-l).exp())).collect()));
    answer(named)
}

/// Where DPM-Solver clips lambda.
const LAMBDA_MIN: f64 = -5.1;

/// DPM-Solver's `discrete` schedule over betas.
pub(super) fn dpm_discrete(betas: &[f64]) -> Discrete {
    Discrete::from_alphas_cumprod(&alphas_cumprod(betas)).clipped(LAMBDA_MIN)
}

/// The label that DPM-Solver hands to a network of discrete steps.
pub(super) fn model_t(t: f64, count: usize) -> f64 {
    1000.0 * (t - 1.0 / count as f64)
}

fn vp_discrete(case: &Case, config: &Config) -> Result<Answer> {
    config.without_effect(&["schedule", "beta_schedule", "timesteps", "linear_start", "linear_end", "cosine_s"]);
    let discrete = dpm_discrete(&values(&case.input("betas")?)?);
    let count = discrete.len();
    let mut named = of_time(case, &Schedule::Ldm(discrete))?;
    named.push(("model_t", values(&case.input("t")?)?.into_iter().map(|t| model_t(t, count)).collect()));
    let mut answer = answer(named)?;
    answer.insert_scalar("out.total_N", count as i64)?;
    Ok(answer)
}

/// The levels of EDM's `discretization`, without the last 0, and the VP curve through their range.
pub(super) fn edm_levels(config: &Config) -> Result<(Vec<f64>, (f64, f64))> {
    let (n, epsilon): (usize, f64) = (config.get("num_steps")?, config.or("epsilon_s", 1e-3)?);
    let discretization: String = config.get("discretization")?;
    let vp = Schedule::VpLinear { beta_min: 0.1, beta_max: 20.0, t_min: 1e-3 };
    let (low, high) = match discretization.as_str() {
        "edm" => (0.002, 80.0),
        "ve" => (0.02, 100.0),
        "iddpm" => (0.002, 81.0),
        "vp" => (vp.sigma(epsilon), vp.sigma(1.0)),
        other => bail!("discretization {other}: expected edm, ve, iddpm or vp"),
    };
    let (low, high) = (config.or("sigma_min", low)?, config.or("sigma_max", high)?);
    let (rho, c_1, c_2, m) = (config.or("rho", 7.0)?, config.or("C_1", 1e-3)?, config.or("C_2", 8e-3)?, config.or("M", 1000)?);
    let curve = grid::vp_through(low, high, epsilon);
    let mut levels = match discretization.as_str() {
        "edm" => grid::karras(n, low, high, rho)?,
        "ve" => grid::exponential(n, low, high)?,
        "iddpm" => grid::iddpm(n, low, high, Iddpm { c_1, c_2, m })?,
        _ => grid::vp(n, curve.0, curve.1, epsilon),
    };
    levels.truncate(n);
    Ok((levels, curve))
}

fn edm_sigma_grid(config: &Config) -> Result<Answer> {
    use strata_diffusion::sampler::TimeMap;
    let (levels, (beta_d, beta_min)) = edm_levels(config)?;
    let times = |map: TimeMap| levels.iter().map(|s| map.t(*s)).chain([0.0]).collect::<Vec<f64>>();
    let mut answer = answer(vec![
        ("t_steps_linear", times(TimeMap::Linear)),
        ("t_steps_ve", times(TimeMap::Root)),
        ("t_steps_vp", times(TimeMap::Vp { beta_d, beta_min })),
        ("sigma_steps", levels),
    ])?;
    answer.insert_scalar("out.vp_beta_d", beta_d)?;
    answer.insert_scalar("out.vp_beta_min", beta_min)?;
    Ok(answer)
}

fn k_sigma_grids(config: &Config) -> Result<Answer> {
    let (name, n): (String, usize) = (config.get("fn")?, config.get("n")?);
    let range = || -> Result<(f64, f64)> { Ok((config.get("sigma_min")?, config.get("sigma_max")?)) };
    let sigmas = match name.as_str() {
        "karras" => grid::karras(n, range()?.0, range()?.1, config.or("rho", 7.0)?)?,
        "exponential" => grid::exponential(n, range()?.0, range()?.1)?,
        "polyexponential" => grid::polyexponential(n, range()?.0, range()?.1, config.or("rho", 1.0)?)?,
        "vp" => {
            let mut levels = grid::vp(n, config.or("beta_d", 19.9)?, config.or("beta_min", 0.1)?, config.or("eps_s", 1e-3)?);
            levels.push(0.0);
            levels
        }
        other => bail!("fn {other}: expected karras, exponential, polyexponential or vp"),
    };
    answer(vec![("sigmas", sigmas)])
}

/// LDM's DDIM indices by its method's name, ascending.
pub(super) fn ldm_indices(method: &str, steps: usize, n: usize) -> Result<Vec<usize>> {
    Ok(match method {
        "uniform" => grid::ldm_uniform(steps, n)?,
        "quad" => grid::ldm_quad(steps, n)?,
        other => bail!("ddim discretization {other}: expected uniform or quad"),
    })
}

fn ldm_ddim_timesteps(case: &Case, config: &Config) -> Result<Answer> {
    config.without_effect(&["beta_schedule", "linear_start", "linear_end", "cosine_s"]);
    let discrete = Discrete::from_alphas_cumprod(&values(&case.input("alphas_cumprod")?)?);
    let (method, eta): (String, f64) = (config.get("ddim_discr_method")?, config.get("eta")?);
    let indices = ldm_indices(&method, config.get("num_ddim_timesteps")?, config.get("num_ddpm_timesteps")?)?;
    let before: Vec<usize> = std::iter::once(0).chain(indices.iter().copied()).take(indices.len()).collect();
    let bar = |list: &[usize]| list.iter().map(|i| discrete.alpha_bar(*i)).collect::<Vec<f64>>();
    let sigmas = indices.iter().zip(&before).map(|(&i, &p)| {
        let (up, _) = ancestral_split(discrete.sigmas()[i], discrete.sigmas()[p], eta);
        up * discrete.alpha_bar(p).sqrt()
    });
    let n = indices.len();
    let mut answer = answer(vec![("sigmas", sigmas.collect()), ("alphas", bar(&indices)), ("alphas_prev", bar(&before))])?;
    answer.insert_values("out.timesteps", indices.iter().map(|i| *i as i64).collect(), n)?;
    Ok(answer)
}

/// DPM-Solver's schedule by its name: `linear`, or `discrete` over LDM's betas.
pub(super) fn dpm_schedule(config: &Config) -> Result<Schedule> {
    match config.get::<String>("schedule")?.as_str() {
        "linear" => vp_linear(config),
        "discrete" => Ok(Schedule::Ldm(dpm_discrete(&ldm_betas(config)?.betas()?))),
        other => bail!("schedule {other}: expected linear or discrete"),
    }
}

/// DPM-Solver's `skip_type`.
pub(super) fn time_rule(config: &Config) -> Result<TimeRule> {
    Ok(match config.get::<String>("skip_type")?.as_str() {
        "time_uniform" => TimeRule::Uniform,
        "time_quadratic" => TimeRule::Quadratic,
        "logSNR" => TimeRule::LogSnr,
        other => bail!("skip_type {other}: expected time_uniform, time_quadratic or logSNR"),
    })
}

fn dpm_time_steps(config: &Config) -> Result<Answer> {
    let (schedule, rule) = (dpm_schedule(config)?, time_rule(config)?);
    let (n, from, to): (usize, f64, f64) = (config.get("N")?, config.get("t_T")?, config.get("t_0")?);
    let orders = singlestep_orders(n, config.get("order")?);
    let mut answer = answer(vec![
        ("timesteps", rule.times(&schedule, from, to, n)),
        ("timesteps_outer", rule.outer_times(&schedule, (from, to), &orders)),
    ])?;
    let count = orders.len();
    answer.insert_values("out.orders", orders.into_iter().map(|o| o as i64).collect(), count)?;
    Ok(answer)
}

const MAKING: [&str; 5] = ["beta_schedule", "timesteps", "linear_start", "linear_end", "cosine_s"];

fn zero_snr(case: &Case, config: &Config) -> Result<Answer> {
    config.without_effect(&MAKING);
    let betas = zero_terminal_snr(&values(&case.input("betas")?)?);
    answer(vec![("alphas_cumprod", alphas_cumprod(&betas)), ("betas", betas)])
}

fn min_snr(case: &Case, config: &Config) -> Result<Answer> {
    config.without_effect(&MAKING);
    let (bar, gamma) = (values(&case.input("alphas_cumprod")?)?, config.get("gamma")?);
    let snr: Vec<f64> = values(&case.input("t")?)?.into_iter().map(|t| bar[t as usize] / (1.0 - bar[t as usize])).collect();
    let weights: Vec<(f64, f64, f64)> = snr.iter().map(|s| min_snr_weights(*s, gamma)).collect();
    answer(vec![
        ("weight_epsilon", weights.iter().map(|w| w.0).collect()),
        ("weight_v", weights.iter().map(|w| w.1).collect()),
        ("weight_x0", weights.iter().map(|w| w.2).collect()),
        ("snr", snr),
    ])
}
