//! The timesteps and levels of diffusers' schedulers.

use anyhow::{Result, bail, ensure};
use strata_diffusion::{
    grid,
    schedule::Schedule,
    schedule_discrete::{BetaCurve, Discrete, DiscreteConfig, alphas_cumprod, zero_terminal_snr},
};

use crate::golden::Config;

/// What a scheduler visits.
pub struct Visit {
    /// As the source lists them.
    pub timesteps: Vec<f64>,
    /// Levels in the scheduler's own terms, the last one included.
    pub sigmas: Vec<f64>,
    /// The same as sigma of `x0 + sigma eps`.
    pub levels: Vec<f64>,
    /// Maps levels to the scale and labels of the state.
    pub schedule: Schedule,
}

/// The table of alpha_bar. With `finite`, no signal at all becomes very little.
pub fn table(config: &Config, finite: bool) -> Result<Discrete> {
    let curve = match config.or("beta_schedule", "linear".to_owned())?.as_str() {
        "linear" => BetaCurve::Linear,
        "scaled_linear" => BetaCurve::ScaledLinear,
        "squaredcos_cap_v2" => BetaCurve::Cosine,
        other => bail!("beta_schedule {other}: expected linear, scaled_linear or squaredcos_cap_v2"),
    };
    let (beta_start, beta_end) = (config.or("beta_start", 1e-4)?, config.or("beta_end", 2e-2)?);
    let steps = config.or("num_train_timesteps", 1000)?;
    let plain = DiscreteConfig { curve, steps, beta_start, beta_end, ..Default::default() };
    let mut betas = config.opt::<Vec<f64>>("trained_betas")?.map_or_else(|| plain.betas(), Ok)?;
    let zero_snr = config.or("rescale_betas_zero_snr", false)?;
    if zero_snr {
        betas = zero_terminal_snr(&betas);
    }
    let mut bar = alphas_cumprod(&betas);
    if let Some(last) = bar.last_mut().filter(|_| zero_snr && finite) {
        *last = 2f64.powi(-24);
    }
    Ok(Discrete::from_alphas_cumprod(&bar))
}

/// Refuses settings that the cases' description leaves out.
fn refuse(config: &Config, flags: &[&str]) -> Result<()> {
    for flag in flags {
        ensure!(!config.or(flag, false)?, "{flag}: no case describes it");
    }
    Ok(())
}

/// The spacing of DDIM, DDPM, PNDM (whole steps) and of the k-diffusion schedulers, noisy first.
pub fn spaced(config: &Config, steps: usize, whole: bool, default: &str) -> Result<Vec<f64>> {
    let n: usize = config.or("num_train_timesteps", 1000)?;
    let offset = config.or("steps_offset", 0)?;
    Ok(match config.or("timestep_spacing", default.to_owned())?.as_str() {
        "linspace" => {
            let points = grid::linear((n - 1) as f64, 0.0, steps - 1);
            points.map(|t| if whole { t.round_ties_even() } else { t }).collect()
        }
        "leading" => grid::leading(steps, n, offset),
        "trailing" => trailing(n, n, steps),
        other => bail!("timestep_spacing {other}: expected linspace, leading or trailing"),
    })
}

/// From `top` down by n/steps; for a few `steps` rounding yields one entry more.
fn trailing(top: usize, n: usize, steps: usize) -> Vec<f64> {
    let stride = n as f64 / steps as f64;
    let count = (top as f64 / stride).ceil() as usize;
    (0..count).map(|i| (top as f64 - i as f64 * stride).round_ties_even() - 1.0).collect()
}

/// The spacing of the DPM-Solver family, whose table may be clipped.
fn spaced_dpm(config: &Config, table: &Discrete, steps: usize) -> Result<Vec<f64>> {
    let n = table.len();
    let clip: f64 = config.or("lambda_min_clipped", f64::NEG_INFINITY)?;
    let count = table.clipped(clip).len();
    let offset: usize = config.or("steps_offset", 0)?;
    Ok(match config.or("timestep_spacing", "linspace".to_owned())?.as_str() {
        "linspace" => grid::linear((count - 1) as f64, 0.0, steps).take(steps).map(f64::round_ties_even).collect(),
        "leading" => (1..=steps).rev().map(|i| (i * (count / (steps + 1)) + offset) as f64).collect(),
        "trailing" => trailing(count, n, steps),
        other => bail!("timestep_spacing {other}: expected linspace, leading or trailing"),
    })
}

/// Levels between two ends, without the 0 that the library's grids end with.
fn between(rule: &str, n: usize, first: f64, last: f64) -> Result<Vec<f64>> {
    let mut levels = if rule == "karras" { grid::karras(n, last, first, 7.0)? } else { grid::exponential(n, last, first)? };
    levels.truncate(n);
    Ok(levels)
}

/// Which rule replaces the table's levels, if any.
fn rule(config: &Config) -> Result<Option<&'static str>> {
    refuse(config, &["use_beta_sigmas"])?;
    let flags = [("use_karras_sigmas", "karras"), ("use_exponential_sigmas", "exponential"), ("use_lu_lambdas", "lu")];
    let mut found = None;
    for (flag, rule) in flags {
        if config.or(flag, false)? && found.is_none() {
            found = Some(rule);
        }
    }
    Ok(found)
}

/// Euler, Euler ancestral, Heun, LMS, KDPM2.
pub fn k_family(config: &Config, steps: usize, class: &str) -> Result<Visit> {
    let table = table(config, true)?;
    let mut timesteps = spaced(config, steps, false, "linspace")?;
    let mut sigmas: Vec<f64> = timesteps.iter().map(|t| table.sigma_at_index(*t)).collect();
    let count = sigmas.len();
    if config.or("interpolation_type", "linear".to_owned())? == "log_linear" {
        let whole = table.sigmas();
        sigmas = between("exponential", steps + 1, whole[whole.len() - 1], whole[0])?;
    } else if let Some(rule) = rule(config)? {
        sigmas = between(rule, count, sigmas[0], sigmas[count - 1])?;
        timesteps = sigmas.iter().map(|s| table.index_of_log_sigma(*s)).collect();
        if class == "KDPM2DiscreteScheduler" {
            timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
    }
    rule(config)?;
    for key in ["sigma_min", "sigma_max"] {
        ensure!(config.opt::<f64>(key)?.is_none(), "{key}: no case describes it");
    }
    ensure!(config.or("timestep_type", "discrete".to_owned())? == "discrete", "timestep_type: expected discrete");
    sigmas.push(final_sigma(config, "zero", table.sigmas()[0])?);
    Ok(Visit { timesteps, levels: sigmas.clone(), sigmas, schedule: Schedule::Ldm(table) })
}

fn final_sigma(config: &Config, default: &str, smallest: f64) -> Result<f64> {
    Ok(match config.or("final_sigmas_type", default.to_owned())?.as_str() {
        "zero" => 0.0,
        "sigma_min" => smallest,
        other => bail!("final_sigmas_type {other}: expected zero or sigma_min"),
    })
}

/// DPMSolverMultistep, DPMSolverSinglestep, UniPC, DEIS.
pub fn dpm_family(config: &Config, steps: usize, class: &str) -> Result<Visit> {
    let table = table(config, true)?;
    let n = table.len();
    let flow = config.or("use_flow_sigmas", false)?;
    let shift: f64 = config.or("flow_shift", 1.0)?;
    refuse(config, &["use_dynamic_shifting"])?;
    config.without_effect(&["time_shift_type"]);
    for key in ["sigma_min", "sigma_max", "shift_terminal"] {
        ensure!(config.opt::<f64>(key)?.is_none(), "{key}: no case describes it");
    }
    let mut timesteps = spaced_dpm(config, &table, steps)?;
    let mut sigmas: Vec<f64> = timesteps.iter().map(|t| table.sigma_at_index(*t)).collect();
    let whole = table.sigmas();
    let rule = rule(config)?;
    if let Some(rule) = rule {
        sigmas = between(rule, steps, whole[n - 1], whole[0])?;
        let index = |s: &f64| table.index_of_log_sigma(*s);
        let truncated = rule == "exponential";
        timesteps = sigmas.iter().map(index).map(|t| if truncated { t.trunc() } else { t.round_ties_even() }).collect();
    }
    if flow {
        let plain = grid::linear(1.0 - 1.0 / n as f64, 0.0, steps).take(steps);
        sigmas = plain.map(|s| shifted(s, shift)).collect();
        timesteps = sigmas.iter().map(|s| (s * n as f64).trunc()).collect();
    }
    sigmas.push(match class {
        "DEISMultistepScheduler" if rule == Some("karras") => sigmas[sigmas.len() - 1],
        "DEISMultistepScheduler" => whole[0],
        _ => final_sigma(config, "zero", whole[0])?,
    });
    let (levels, schedule) = if flow { flow_levels(&sigmas) } else { (sigmas.clone(), Schedule::Ldm(table)) };
    Ok(Visit { timesteps, sigmas, levels, schedule })
}

fn shifted(sigma: f64, shift: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

fn flow_levels(sigmas: &[f64]) -> (Vec<f64>, Schedule) {
    let schedule = Schedule::Flow { t_min: 1e-3 };
    (sigmas.iter().map(|t| schedule.sigma(*t)).collect(), schedule)
}

/// EDMEuler, EDMDPMSolverMultistep.
pub fn edm_family(config: &Config, steps: usize) -> Result<Visit> {
    let (low, high) = (config.or("sigma_min", 0.002)?, config.or("sigma_max", 80.0)?);
    let rho = config.or("rho", 7.0)?;
    config.without_effect(&["num_train_timesteps"]);
    let mut sigmas = match config.or("sigma_schedule", "karras".to_owned())?.as_str() {
        "karras" => grid::karras(steps, low, high, rho)?,
        "exponential" => grid::exponential(steps, low, high)?,
        other => bail!("sigma_schedule {other}: expected karras or exponential"),
    };
    sigmas.truncate(steps);
    let timesteps = sigmas.iter().map(|s| 0.25 * s.ln()).collect();
    sigmas.push(final_sigma(config, "zero", low)?);
    let schedule = Schedule::Edm { sigma_min: low, sigma_max: high };
    Ok(Visit { timesteps, levels: sigmas.clone(), sigmas, schedule })
}

/// FlowMatchEuler. `mu` is the argument of its dynamic shift.
pub fn flow_match(config: &Config, steps: usize, mu: Option<f64>) -> Result<Visit> {
    refuse(config, &["invert_sigmas"])?;
    config.without_effect(&["base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"]);
    let n: f64 = config.or("num_train_timesteps", 1000.0)?;
    let (shift, dynamic) = (config.or("shift", 1.0)?, config.or("use_dynamic_shifting", false)?);
    let kind: String = config.or("time_shift_type", "exponential".to_owned())?;
    ensure!(kind == "exponential" || kind == "linear", "time_shift_type {kind}: expected exponential or linear");
    let m = if kind == "linear" { mu.unwrap_or(0.0) } else { mu.unwrap_or(0.0).exp() };
    let apply = |sigma: f64| if dynamic { m / (m + (1.0 / sigma - 1.0)) } else { shifted(sigma, shift) };
    let smallest = if dynamic { 1.0 / n } else { shifted(1.0 / n, shift) };
    let mut sigmas: Vec<f64> = grid::linear(1.0, smallest, steps - 1).map(apply).collect();
    let last = sigmas[steps - 1];
    if let Some(terminal) = config.opt::<f64>("shift_terminal")? {
        sigmas.iter_mut().for_each(|s| *s = 1.0 - (1.0 - *s) * (1.0 - terminal) / (1.0 - last));
    }
    if let Some(rule) = rule(config)? {
        sigmas = between(rule, steps, sigmas[0], sigmas[steps - 1])?;
    }
    let timesteps = sigmas.iter().map(|s| n * s).collect();
    sigmas.push(0.0);
    let (levels, schedule) = flow_levels(&sigmas);
    Ok(Visit { timesteps, sigmas, levels, schedule })
}
