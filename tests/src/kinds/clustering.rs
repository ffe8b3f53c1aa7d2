//! Kinds of the area `clustering`: optimal denoiser, functional similarity, and the divisions into stages.

use anyhow::{Result, bail, ensure};
use candle_core::DType;
use strata_diffusion::schedule::Schedule;
use strata_diffusion::stages::{
    Bytes, OptimalDenoiser, Points, Queries, Rows,
    algorithm1::{Levels, Sample, Samples, end_similarities},
    baselines, partition,
    similarity::{Comparison, Space, similarity_matrix},
};

use crate::golden::{Answer, Case, Config};

const NEVER: &dyn Fn() -> bool = &|| false;

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "optimal_denoiser" => optimal_denoiser(case),
        "functional_similarity" => functional_similarity(case),
        "algorithm1" => algorithm1(case),
        "timestep_clustering" => timestep_clustering(case),
        "snr_clustering" => snr_clustering(case),
        "gradient_clustering" => gradient_clustering(case),
        "interval_partition" => interval_partition(case),
        kind => bail!("`{kind}` is no kind of the area clustering"),
    }
}

/// The inputs that the three kinds over a data set share.
struct Given {
    data: Data,
    schedule: Schedule,
    indices: Vec<usize>,
    noise: Vec<f32>,
    t: Vec<f64>,
}

/// A data set as the case stores it.
enum Data {
    Floats(Vec<f64>, usize),
    Bytes { values: Vec<u8>, dim: usize, scale: f64, offset: f64 },
}

impl Data {
    fn read(case: &Case, config: &Config) -> Result<Self> {
        let data = case.input("data")?;
        let dim = data.dim(1)?;
        let (scale, offset) = (config.or("data_scale", 1.0)?, config.or("data_offset", 0.0)?);
        let flat = data.flatten_all()?;
        if data.dtype() == DType::U8 {
            return Ok(Self::Bytes { values: flat.to_vec1()?, dim, scale, offset });
        }
        ensure!(
            data.dtype() == DType::F64 && (scale, offset) == (1.0, 0.0),
            "in.data: expected uint8, or float64 without a scale"
        );
        Ok(Self::Floats(flat.to_vec1()?, dim))
    }

    fn points(&self) -> Result<Box<dyn Points + '_>> {
        Ok(match self {
            Self::Floats(values, dim) => Box::new(Rows::new(values, *dim)?),
            Self::Bytes { values, dim, scale, offset } => Box::new(Bytes::new(values, *dim, *scale, *offset)?),
        })
    }
}

impl Given {
    fn read(case: &Case, config: &Config) -> Result<Self> {
        let schedule = match config.get::<String>("kernel")?.as_str() {
            "vp" => Schedule::VpLinear { beta_min: config.get("beta_min")?, beta_max: config.get("beta_max")?, t_min: 1e-5 },
            "edm" => "edm".parse()?,
            other => bail!("`kernel` is {other}, expected vp or edm"),
        };
        let indices = integers(case, "idx")?;
        let noise = case.input("noise")?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Self { data: Data::read(case, config)?, schedule, indices, noise, t: floats(case, "t")? })
    }

    fn pairs(&self) -> (&[usize], &[f32]) {
        (&self.indices, &self.noise)
    }

    fn sigmas(&self) -> Vec<f64> {
        self.t.iter().map(|&t| self.schedule.sigma(t)).collect()
    }
}

fn floats(case: &Case, name: &str) -> Result<Vec<f64>> {
    Ok(case.input(name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn integers(case: &Case, name: &str) -> Result<Vec<usize>> {
    let values = case.input(name)?.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
    values.into_iter().map(|v| Ok(usize::try_from(v)?)).collect()
}

fn indices(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&v| v as i64).collect()
}

fn optimal_denoiser(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let given = Given::read(case, &config)?;
    config.finish()?;
    let points = given.data.points()?;
    let optimal = OptimalDenoiser::new(points.as_ref())?;
    let (sigmas, dim) = (given.sigmas(), points.dim());
    let shifts = optimal.shifts(&Queries { indices: &given.indices, noise: &given.noise, sigmas: &sigmas }, NEVER)?;
    let clean = optimal.gather(&given.indices)?;
    let (mut x_t, mut eps, mut x0) = (Vec::new(), Vec::new(), Vec::new());
    for (k, &sigma) in sigmas.iter().enumerate() {
        let s = given.schedule.scale(sigma);
        for (j, shift) in shifts.row(k, 0).iter().enumerate() {
            let (y, noise) = (clean[k * dim + j], f64::from(given.noise[k * dim + j]));
            x_t.push(s * (y + sigma * noise));
            eps.push(noise + shift);
            x0.push(y - sigma * shift);
        }
    }
    let mut answer = Answer::new();
    for (name, values) in [("out.x_t", x_t), ("out.eps", eps), ("out.x0", x0)] {
        answer.insert_values(name, values, (sigmas.len(), dim))?;
    }
    Ok(answer)
}

fn functional_similarity(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let given = Given::read(case, &config)?;
    let space = match config.get::<String>("space")?.as_str() {
        "eps" => Space::Eps,
        "x0" => Space::X0,
        other => bail!("`space` is {other}, expected eps or x0"),
    };
    let comparison = Comparison { space, eta: config.get("eta")? };
    config.finish()?;
    let points = given.data.points()?;
    let optimal = OptimalDenoiser::new(points.as_ref())?;
    let matrix = similarity_matrix(&optimal, given.pairs(), &given.sigmas(), comparison, NEVER)?;
    let (k, t) = (given.indices.len(), given.t.len());
    let mut answer = Answer::new();
    answer.insert_values("out.per_sample", matrix.per_pair(), (k, t, t))?;
    answer.insert_values("out.count", matrix.total().into_iter().map(|c| c as i64).collect(), (t, t))?;
    answer.insert_values("out.matrix", matrix.mean(), (t, t))?;
    Ok(answer)
}

fn algorithm1(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let given = Given::read(case, &config)?;
    let comparison = Comparison { space: Space::Eps, eta: config.get("eta")? };
    let (t_0, t_1): (f64, f64) = (config.get("t_0")?, config.get("t_1")?);
    let kept: usize = config.or("kept_rows", 0)?;
    config.without_effect(&["t_sampling"]);
    config.finish()?;
    let points = given.data.points()?;
    let optimal = OptimalDenoiser::new(points.as_ref())?;
    let ends = Levels { finest: given.schedule.sigma(t_0), coarsest: given.schedule.sigma(t_1) };
    let pairs = end_similarities(&optimal, given.pairs(), &given.sigmas(), ends, comparison, NEVER)?;
    let mut samples = Samples::default();
    let sample = |(pair, (&(to_data, to_noise), &t))| Sample { pair, t, to_data, to_noise };
    samples.extend(pairs.iter().zip(&given.t).enumerate().map(sample));
    let mut bounds = [Vec::new(), Vec::new()];
    for alpha in floats(case, "alpha")? {
        for (bounds, found) in bounds.iter_mut().zip(samples.boundaries(alpha)) {
            bounds.push(found.unwrap_or(f64::NAN));
        }
    }
    let mut answer = Answer::new();
    let (s0, s1): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
    let [t1, t2] = bounds;
    let means = [("out.running_mean_S0", samples.running_to_data()), ("out.running_mean_S1", samples.running_to_noise())];
    for (name, values) in [("out.S0", s0), ("out.S1", s1), ("out.t1", t1), ("out.t2", t2)].into_iter().chain(means) {
        let length = values.len();
        answer.insert_values(name, values, length)?;
    }
    if kept > 0 {
        kept_predictions(&optimal, &given, (t_0, t_1), kept, &mut answer)?;
    }
    Ok(answer)
}

/// eps* of the first rows at their own t and at both ends.
fn kept_predictions(
    optimal: &OptimalDenoiser,
    given: &Given,
    (t_0, t_1): (f64, f64),
    rows: usize,
    answer: &mut Answer,
) -> Result<()> {
    let dim = optimal.summary().dim;
    let noise = &given.noise[..rows * dim];
    for (name, at) in [("out.eps_t", None), ("out.eps_t0", Some(t_0)), ("out.eps_t1", Some(t_1))] {
        let sigmas: Vec<f64> = given.t[..rows].iter().map(|&t| given.schedule.sigma(at.unwrap_or(t))).collect();
        let shifts = optimal.shifts(&Queries { indices: &given.indices[..rows], noise, sigmas: &sigmas }, NEVER)?;
        let eps = shifts.values.iter().zip(noise).map(|(shift, &eps)| f64::from(eps) + shift).collect();
        answer.insert_values(name, eps, (rows, dim))?;
    }
    Ok(())
}

fn timestep_clustering(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let (method, k, num): (String, usize, usize) = (config.get("method")?, config.get("k")?, config.get("num")?);
    config.finish()?;
    match method.as_str() {
        "dp" => {
            let timesteps = floats(case, "timesteps")?;
            ensure!(timesteps.len() == num, "`num` is {num}, there are {} time steps", timesteps.len());
            partition_answer(&partition::by_value(&timesteps, k)?, "out.cost")
        }
        "uniform" => {
            let (boundaries, t) = (baselines::uniform(k), floats(case, "t")?);
            ensure!(t.len() == num, "`num` is {num}, there are {} times", t.len());
            let assignment = t.iter().map(|&t| baselines::interval_of(&boundaries, t) as i64).collect();
            let mut answer = Answer::new();
            answer.insert_values("out.boundaries", boundaries, k + 1)?;
            answer.insert_values("out.assignment", assignment, num)?;
            Ok(answer)
        }
        other => bail!("`method` is {other}, expected dp or uniform"),
    }
}

fn partition_answer(partition: &partition::Partition, objective: &str) -> Result<Answer> {
    let mut answer = Answer::new();
    answer.insert_values("out.starts", indices(&partition.starts), partition.starts.len())?;
    answer.insert_scalar(objective, partition.objective)?;
    Ok(answer)
}

fn snr_clustering(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let (method, k): (String, usize) = (config.get("method")?, config.get("k")?);
    let (beta_min, beta_max) = (config.get("continuous_beta_0")?, config.get("continuous_beta_1")?);
    let schedule = Schedule::VpLinear { beta_min, beta_max, t_min: 1e-5 };
    let answer = match method.as_str() {
        "dp" => {
            let num: usize = config.get("num")?;
            let ts: Vec<f64> = (1..=num).map(|i| i as f64 / num as f64).collect();
            let found = baselines::by_log_snr(&schedule, &ts, k)?;
            let mut answer = partition_answer(&found, "out.cost")?;
            answer.insert_values("out.logsnr", baselines::log_snr(&schedule, &ts), num)?;
            answer.insert_values("out.start_t", found.starts.iter().map(|&s| ts[s]).collect(), k)?;
            answer
        }
        "uniform" => {
            let (levels, ts) = baselines::uniform_in_log_snr(&schedule, k, (config.get("t_min")?, config.get("t_max")?))?;
            let mut answer = Answer::new();
            answer.insert_values("out.logsnr", levels, k + 1)?;
            answer.insert_values("out.boundaries", ts, k + 1)?;
            answer
        }
        other => bail!("`method` is {other}, expected dp or uniform"),
    };
    config.finish()?;
    Ok(answer)
}

fn gradient_clustering(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let (k, n, zero): (usize, usize, bool) = (config.get("k")?, config.get("num")?, config.or("zero_diagonal", true)?);
    config.finish()?;
    let mut computed = None;
    let mut affinity = match case.input_opt("gradients") {
        Some(gradients) => {
            let parameters = gradients.dim(2)?;
            let affinity = partition::gradient_affinity(&gradients.flatten_all()?.to_vec1()?, n, parameters)?;
            computed.insert(affinity).clone()
        }
        None => floats(case, "affinity")?,
    };
    if !zero && computed.is_some() {
        (0..n).for_each(|i| affinity[i * n + i] = 1.0);
    }
    let mut answer = partition_answer(&partition::by_affinity(&affinity, n, k)?, "out.cost")?;
    if computed.is_some() {
        answer.insert_values("out.affinity", affinity, (n, n))?;
    }
    Ok(answer)
}

fn interval_partition(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let (n, k, half_step): (usize, usize, f64) = (config.get("nodes")?, config.get("interval_num")?, config.get("half_step")?);
    config.finish()?;
    let found = partition::by_similarity(&floats(case, "similarity")?, n, k, partition::Weight::Stages)?;
    let t = floats(case, "t")?;
    let inner = found.starts[1..].iter().map(|&s| t[s] - half_step);
    let boundaries = std::iter::once(0.0).chain(inner).chain([1.0]).collect();
    let mut answer = partition_answer(&found, "out.objective")?;
    answer.insert_values("out.boundaries", boundaries, k + 1)?;
    Ok(answer)
}
