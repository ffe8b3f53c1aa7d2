//! Kinds of the area `optim`: optimizer, EMA, learning rate and gradient cases.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor, Var, backprop::GradStore};
use serde_json::Value;
use strata_training::{
    AdamWConfig, Ema, EmaSchedule, Group, LrSchedule, Optimizer, StepOptions,
    ema::EmaCounters,
    gradients::{NormType, Sanitize, clip},
    lr_schedule::Cycle,
    power_ema::{Profile, exponent, reconstruct},
};

use crate::golden::{Answer, Case, Config};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "adamw" => adamw(case),
        "ema" => ema(case),
        "phema_weights" => phema_weights(case),
        "grad_clip" => grad_clip(case),
        "grad_sanitize" => grad_sanitize(case),
        "lr_schedule" => lr_schedule(case),
        other => bail!("`{other}` is no kind of the area optim"),
    }
}

fn adamw(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let [beta1, beta2] = config.get("betas")?;
    let decoupled = match config.get::<String>("optimizer")?.as_str() {
        "AdamW" => true,
        "Adam" => false,
        other => bail!("`optimizer` is {other}, expected AdamW or Adam"),
    };
    let (eps, amsgrad, steps) = (config.get("eps")?, config.get("amsgrad")?, config.get("steps")?);
    let mut groups = Vec::new();
    for group in config.sections("groups")? {
        let names: Vec<String> = group.get("params")?;
        let variable = |name: String| Ok((name.clone(), Var::from_tensor(&case.input(&format!("param.{name}"))?)?));
        let parameters = names.into_iter().map(variable).collect::<Result<Vec<_>>>()?;
        groups.push(Group { parameters, lr: group.get("lr")?, weight_decay: group.get("weight_decay")? });
        group.finish()?;
    }
    config.finish()?;

    let variables: Vec<(String, Var)> = groups.iter().flat_map(|g| g.parameters.clone()).collect();
    let settings = AdamWConfig { beta1, beta2, eps, amsgrad, decoupled, ..AdamWConfig::default() };
    let mut optimizer = Optimizer::with_groups(groups, settings)?;
    let multipliers = doubles(&case.input("lr_multiplier")?)?;
    let mut history = vec![Vec::new(); variables.len()];
    for step in 0..steps {
        let lr_multiplier = *multipliers.get(step).context("`in.lr_multiplier` is shorter than `steps`")?;
        let gradients = gradients_at(case, &variables, step)?;
        optimizer.step(&gradients, StepOptions { lr_multiplier, max_grad_norm: None })?;
        for (rows, (_, var)) in history.iter_mut().zip(&variables) {
            rows.push(var.as_detached_tensor().copy()?);
        }
    }
    let mut answer = Answer::new();
    for (rows, (name, _)) in history.iter().zip(&variables) {
        answer.insert(format!("out.param.{name}"), Tensor::stack(rows, 0)?);
    }
    for (name, tensor) in optimizer.tensors()? {
        if let Some((parameter, moment)) = name.rsplit_once('.').filter(|(_, end)| end.contains("exp_avg")) {
            answer.insert(format!("out.{moment}.{parameter}"), tensor);
        }
    }
    Ok(answer)
}

/// The gradients of step `step`, as the backward pass of Σ p·g leaves them.
fn gradients_at(case: &Case, variables: &[(String, Var)], step: usize) -> Result<GradStore> {
    let mut loss: Option<Tensor> = None;
    for (name, var) in variables {
        let g = case.input(&format!("grad.{name}"))?.get(step)?;
        let term = (var.as_tensor() * g)?.sum_all()?;
        loss = Some(match loss {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    Ok(loss.context("no parameters")?.backward()?)
}

fn ema(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let method: String = config.get("method")?;
    let power = method == "edm2_power";
    let stds: Vec<f64> = if power { config.get("stds")? } else { Vec::new() };
    let batch = config.or("batch_size", 1)?;
    let resumed: f64 = config.or("resume_kimg", 0.0)?;
    let counters = EmaCounters { updates: 0, seen_images: (resumed * 1e3).round() as u64 };
    let schedules = if power {
        stds.iter().map(|&relative_width| EmaSchedule::Power { relative_width }).collect()
    } else {
        vec![ema_schedule(&method, &config)?]
    };
    config.finish()?;

    let params = case.input("params")?;
    let (mut averages, mut decays) = (Vec::new(), Vec::new());
    for schedule in schedules {
        let (rows, factors) = average(&params, schedule, counters, batch)?;
        averages.push(rows);
        decays.push(factors);
    }
    let dim = usize::from(power);
    let join = |parts: &[Tensor]| if power { Tensor::stack(parts, dim) } else { Ok(parts[0].clone()) };
    let mut answer = Answer::new().with("out.ema", join(&averages)?).with("out.decay", join(&decays)?);
    if power {
        answer.insert("out.exponent", vector(stds.into_iter().map(exponent).collect::<Result<_, _>>()?)?);
    }
    Ok(answer)
}

fn ema_schedule(method: &str, config: &Config<'_>) -> Result<EmaSchedule> {
    let half_life = |key: &str, unit: f64| -> Result<f64> { Ok(config.opt::<f64>(key)?.map_or(f64::INFINITY, |h| h * unit)) };
    Ok(match method {
        "ldm_litema" if config.get("use_num_updates")? => EmaSchedule::LdmWarmup { decay: config.get("decay")? },
        "constant" | "ldm_litema" => EmaSchedule::Constant { decay: config.get("decay")? },
        "edm_halflife" => EmaSchedule::HalfLife {
            half_life_images: half_life("ema_halflife_kimg", 1e3)?,
            rampup_ratio: config.opt("ema_rampup_ratio")?,
            batch_counts: false,
        },
        "edm2_traditional" => EmaSchedule::HalfLife {
            half_life_images: half_life("halflife_Mimg", 1e6)?,
            rampup_ratio: config.opt("rampup_ratio")?,
            batch_counts: true,
        },
        other => bail!("`method` is {other}, which is not known"),
    })
}

/// Averages `[n, d]` and decays `[n]` over the rows of `params` `[n + 1, d]`.
fn average(params: &Tensor, schedule: EmaSchedule, counters: EmaCounters, batch: u64) -> Result<(Tensor, Tensor)> {
    let var = Var::from_tensor(&params.get(0)?.copy()?)?;
    let mut ema = Ema::of_variables(vec![("p".to_string(), var.clone())], schedule)?;
    ema.set_counters(counters);
    let (mut rows, mut decays) = (Vec::new(), Vec::new());
    for i in 1..params.dim(0)? {
        var.set(&params.get(i)?)?;
        decays.push(ema.update(batch)?);
        rows.push(ema.tensors()[0].1.copy()?);
    }
    Ok((Tensor::stack(&rows, 0)?, vector(decays)?))
}

fn phema_weights(case: &Case) -> Result<Answer> {
    case.config()?.finish()?;
    let profiles = |side: &str| -> Result<Vec<Profile>> {
        let times = doubles(&case.input(&format!("{side}_ofs"))?)?;
        let stds = doubles(&case.input(&format!("{side}_std"))?)?;
        Ok(times.into_iter().zip(stds).map(|(time, std)| Profile { time, std }).collect())
    };
    let result = reconstruct(&profiles("in")?, &profiles("out")?)?;
    let coefficients = Tensor::new(result.coefficients, &candle_core::Device::Cpu)?;
    let reconstructed = coefficients.t()?.matmul(&case.input("snapshots")?)?;
    Ok(Answer::new()
        .with("out.in_exp", vector(result.stored_exponents)?)
        .with("out.out_exp", vector(result.target_exponents)?)
        .with("out.coefs", coefficients)
        .with("out.reconstructed", reconstructed))
}

fn grad_clip(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let max_norm = config.get("max_norm")?;
    let norm = match config.raw("norm_type") {
        Some(Value::String(name)) if name == "inf" => NormType::Infinity,
        Some(value) => NormType::Power(value.as_f64().with_context(|| format!("`norm_type` is {value}"))?),
        None => NormType::L2,
    };
    config.finish()?;
    let names: Vec<&str> = case.input_names().collect();
    let gradients = names.iter().map(|name| case.input(name)).collect::<Result<Vec<_>>>()?;
    let (clipped, total) = clip(&gradients, max_norm, norm)?;
    let mut answer = Answer::new();
    for (name, gradient) in names.iter().zip(clipped) {
        answer.insert(format!("out.{name}"), gradient);
    }
    answer.insert("out.total_norm", Tensor::new(total, &candle_core::Device::Cpu)?.to_dtype(case.dtype)?);
    Ok(answer)
}

fn grad_sanitize(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let sanitize = Sanitize { nan: config.get("nan")?, posinf: config.get("posinf")?, neginf: config.get("neginf")? };
    config.finish()?;
    Ok(Answer::new().with("out.grad", sanitize.apply(&case.input("grad")?)?))
}

fn lr_schedule(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let (base, schedule) = schedule_of(&config)?;
    config.finish()?;
    schedule.validate()?;
    let (steps, images) = (case.input_opt("n"), case.input_opt("cur_nimg"));
    let at = steps.as_ref().or(images.as_ref()).context("neither `in.n` nor `in.cur_nimg`")?.to_vec1::<i64>()?;
    let lr = at.into_iter().map(|at| {
        let at = at as u64;
        base * if steps.is_some() { schedule.multiplier(at, 0) } else { schedule.multiplier(0, at) }
    });
    Ok(Answer::new().with("out.lr", vector(lr.collect())?))
}

/// The base rate and the schedule that is a factor on it.
fn schedule_of(config: &Config<'_>) -> Result<(f64, LrSchedule)> {
    Ok(match config.get::<String>("schedule")?.as_str() {
        "edm_rampup" => {
            let warmup_images = (config.get::<f64>("lr_rampup_kimg")? * 1e3).round() as u64;
            (config.get("lr")?, LrSchedule::Warmup { warmup_images })
        }
        "edm2_inverse_sqrt" => {
            let reference_images = config.get::<f64>("ref_batches")? * config.get::<f64>("batch_size")?;
            let warmup_images = config.get::<f64>("rampup_Mimg")? * 1e6;
            (config.get("ref_lr")?, LrSchedule::InverseSqrt { reference_images, warmup_images })
        }
        "ldm_warmup_cosine" => {
            let cycle = Cycle {
                warmup_steps: config.get("warm_up_steps")?,
                start: config.get("lr_start")?,
                max: config.get("lr_max")?,
                min: config.get("lr_min")?,
                length_steps: config.get("max_decay_steps")?,
            };
            (1.0, LrSchedule::LdmCosine { cycles: vec![cycle] })
        }
        "ldm_warmup_cosine2" => (1.0, LrSchedule::LdmCosine { cycles: cycles(config)? }),
        "ldm_lambda_linear" => (1.0, LrSchedule::LdmLinear { cycles: cycles(config)? }),
        other => bail!("`schedule` is {other}, which is not known"),
    })
}

fn cycles(config: &Config<'_>) -> Result<Vec<Cycle>> {
    let list = |key: &str| config.get::<Vec<f64>>(key);
    let columns = [list("warm_up_steps")?, list("f_start")?, list("f_max")?, list("f_min")?, list("cycle_lengths")?];
    let count = columns[0].len();
    if columns.iter().any(|c| c.len() != count) {
        bail!("the lists of the cycles differ in length");
    }
    let cycle = |i: usize| Cycle {
        warmup_steps: columns[0][i] as u64,
        start: columns[1][i],
        max: columns[2][i],
        min: columns[3][i],
        length_steps: columns[4][i] as u64,
    };
    Ok((0..count).map(cycle).collect())
}

fn doubles(tensor: &Tensor) -> Result<Vec<f64>> {
    Ok(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn vector(values: Vec<f64>) -> Result<Tensor> {
    let n = values.len();
    Ok(Tensor::from_vec(values, n, &candle_core::Device::Cpu)?)
}
