//! Dividing a noise range into stages: draws, the chosen method, bootstrap intervals, and what a plot needs.

use candle_core::Device;
use strata_nn::random::{Key, uniform_f64};
use strata_training::{Interrupt, Progress};

use super::algorithm1::{Levels, Sample, Samples, end_similarities, interval, resample};
use super::baselines;
use super::config::{Curves, DivideConfig, Division, EtaUnit, Matrix};
use super::file::{Method, Parameters, Stages};
use super::optimal::OptimalDenoiser;
use super::partition::{self, Weight, by_similarity};
use super::points::{Points, Summary};
use super::similarity::{Comparison, SimilarityMatrix, similarity_matrix};
use crate::{Error, Result, schedule::Schedule};

/// Pairs between two looks at the bootstrap intervals.
const BATCH: usize = 500;
/// Pairs behind the similarity matrix where it is only looked at, not divided.
const SHOWN_PAIRS: usize = 200;
/// Bins of the curves.
const BINS: usize = 60;

/// Divides the noise range for the data set `points`. The result depends on the data and the configuration alone, not on the
/// number of threads. The sweeps over the data run on `device` (see [`OptimalDenoiser::on`]).
///
/// Errors: a configuration out of range; data that have no division (one point, all points equal, values that are not finite);
/// an alpha that no boundary satisfies or that lets the outer stages overlap; an unreadable source; [`Error::Interrupted`].
pub fn divide(
    points: &dyn Points,
    config: &DivideConfig,
    device: &Device,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Division> {
    config.validate()?;
    if config.method() == Method::GradientAffinity {
        let message = "gradient affinity needs the gradients of a trained network, not data alone: see `divide_by_gradients`";
        return Err(Error::Config(message.into()));
    }
    let optimal = OptimalDenoiser::new(points)?.on(device);
    check_data(optimal.summary())?;
    let eta = match config.eta_unit {
        EtaUnit::Plain => config.eta,
        EtaUnit::Deviation => config.eta * optimal.summary().deviation,
    };
    let comparison = Comparison { space: config.space, eta };
    let run = Run { config, optimal: &optimal, comparison, progress, interrupt };
    match config.method() {
        Method::Algorithm1 => run.algorithm1(),
        Method::Similarity => run.similarity(),
        method => run.without_data(method),
    }
}

fn check_data(summary: &Summary) -> Result<()> {
    if summary.count == 1 {
        let why = "the optimal denoiser answers it at every noise level, so no level differs from another";
        return Err(Error::Config(format!("the data set has a single point: {why}; give at least two different ones")));
    }
    if summary.distinct == 1 {
        return Err(Error::Config(format!(
            "all {} points of the data set are equal: nothing distinguishes noise levels",
            summary.count
        )));
    }
    if summary.distinct < summary.count {
        tracing::warn!(
            "{} of {} points are duplicates; they count as often as they occur",
            summary.count - summary.distinct,
            summary.count
        );
    }
    Ok(())
}

/// One division under way.
struct Run<'a> {
    config: &'a DivideConfig,
    optimal: &'a OptimalDenoiser<'a>,
    comparison: Comparison,
    progress: &'a dyn Progress,
    interrupt: &'a Interrupt,
}

impl Run<'_> {
    fn algorithm1(&self) -> Result<Division> {
        let config = self.config;
        self.progress.start("comparing noise levels", config.samples as u64, "samples");
        let mut samples = Samples::default();
        let mut settled = false;
        let mut found = [Vec::new(), Vec::new()];
        let mut pairs = 0;
        while pairs < config.samples && !settled {
            let count = BATCH.min(config.samples - pairs);
            samples.extend(self.draw(pairs, count)?);
            pairs += count;
            found = samples.bootstrap(config.alpha, config.resamples, self.key("resample"), [0.0, 1.0]);
            let intervals = found.each_ref().map(|f| interval(f, config.coverage));
            let satisfied = samples.boundaries(config.alpha).iter().all(Option::is_some);
            settled = satisfied && intervals.iter().all(|(a, b)| b - a <= config.settled);
            let message = intervals.map(|(a, b)| format!("{:.4}..{:.4}", self.t(a), self.t(b))).join(" ");
            self.progress.advance(pairs as u64, &message);
        }
        self.progress.finish();
        let boundaries = self.two_boundaries(&samples)?;
        let matrix = self.matrix(SHOWN_PAIRS.min(pairs))?;
        let (alpha, levels_per_pair) = (Some(config.alpha), Some(config.levels_per_pair));
        let settled_at = Some(config.settled);
        let parameters = Parameters { alpha, levels_per_pair, settled: settled_at, ..self.parameters(pairs) };
        let stages = self.stages(&boundaries, &found, parameters)?;
        Ok(self.division(stages, settled, self.curves(&samples), matrix.mean()))
    }

    fn similarity(&self) -> Result<Division> {
        let config = self.config;
        let matrix = self.matrix(config.samples)?;
        let half = 0.5 / (config.levels - 1) as f64;
        let cut = |mean: &[f64]| -> Result<Vec<f64>> {
            let found = by_similarity(mean, config.levels, config.stages, Weight::Levels)?;
            Ok(found.starts[1..].iter().map(|&s| 2.0 * half * s as f64 - half).collect())
        };
        let mean = matrix.mean();
        let mut found = vec![Vec::new(); config.stages - 1];
        for i in 0..config.resamples {
            let times = resample(matrix.pairs(), matrix.pairs(), self.key("resample").index(i as u64));
            found.iter_mut().zip(cut(&matrix.resampled(&times))?).for_each(|(f, b)| f.push(b));
        }
        let stages = self.stages(&cut(&mean)?, &found, self.parameters(matrix.pairs()))?;
        let curves = curves_of(&config.schedule, config.grid(), &mean);
        Ok(self.division(stages, false, curves, mean))
    }

    fn without_data(&self, method: Method) -> Result<Division> {
        let config = self.config;
        let boundaries: Vec<f64> = match method {
            Method::UniformLogSnr => {
                let (_, ts) = baselines::uniform_in_log_snr(&config.schedule, config.stages, config.schedule.t_range())?;
                ts[1..config.stages].iter().map(|&t| config.schedule.sigma(t)).collect()
            }
            Method::LogSnr => {
                let logs: Vec<f64> = self.config.grid().iter().map(|s| -2.0 * s.ln()).collect();
                let found = partition::by_value(&logs, config.stages)?;
                found.starts[1..].iter().map(|&s| (-0.25 * (logs[s - 1] + logs[s])).exp()).collect()
            }
            _ => baselines::uniform(config.stages)[1..config.stages].iter().map(|&u| config.sigma(u)).collect(),
        };
        let mut stages = Stages::new(boundaries, config.schedule.clone(), method, config.data_sha256.clone())?;
        stages.parameters = Parameters { eta: None, coverage: None, ..self.parameters(0) };
        let summary = self.optimal.summary().clone();
        Ok(Division { stages, summary, settled: false, curves: Curves::default(), matrix: Matrix::default() })
    }

    fn key(&self, purpose: &str) -> Key {
        Key::new(self.config.seed, "stages").child(purpose)
    }

    fn stop(&self) -> impl Fn() -> bool {
        || self.interrupt.is_set()
    }

    fn t(&self, u: f64) -> f64 {
        self.config.schedule.t(self.config.sigma(u))
    }

    /// The clean points and noise of pairs `first..first + count`; each depends on its own number alone.
    fn pairs(&self, purpose: &str, first: usize, count: usize) -> (Vec<usize>, Vec<f32>) {
        let Summary { count: points, dim, .. } = *self.optimal.summary();
        let key = |k: usize| self.key(purpose).index(k as u64);
        let point = |k| ((uniform_f64(&mut key(k).child("point").generator()) * points as f64) as usize).min(points - 1);
        let numbers = first..first + count;
        (numbers.clone().map(point).collect(), numbers.flat_map(|k| key(k).child("noise").normal(dim)).collect())
    }

    /// `count` more pairs for Algorithm 1, each at `levels_per_pair` levels evenly apart. Together the levels of a batch lie one in each
    /// of equally wide strata of the range.
    fn draw(&self, first: usize, count: usize) -> Result<Vec<Sample>> {
        let (indices, noise) = self.pairs("sample", first, count);
        let per_pair = self.config.levels_per_pair;
        let place = |i: usize| uniform_f64(&mut self.key("level").index((first + i) as u64).generator());
        let phases = (0..count).map(|i| (i as f64 + place(i)) / count as f64);
        let u: Vec<f64> = phases.flat_map(|p| (0..per_pair).map(move |j| (j as f64 + p) / per_pair as f64)).collect();
        let sigmas: Vec<f64> = u.iter().map(|&u| self.config.sigma(u)).collect();
        let ends = Levels { finest: self.config.sigma(0.0), coarsest: self.config.sigma(1.0) };
        let found = end_similarities(self.optimal, (&indices, &noise), &sigmas, ends, self.comparison, &self.stop())?;
        let sample = |(i, (t, (to_data, to_noise)))| Sample { pair: first + i / per_pair, t, to_data, to_noise };
        Ok(u.into_iter().zip(found).enumerate().map(sample).collect())
    }

    /// Algorithm 1's boundaries, or why there are none.
    fn two_boundaries(&self, samples: &Samples) -> Result<[f64; 2]> {
        let (alpha, eta) = (self.config.alpha, self.comparison.eta);
        let missing = |end: &str, means: Vec<f64>| {
            let (at, best) = means.iter().enumerate().fold((0, f64::NEG_INFINITY), |a, (i, &m)| if m > a.1 { (i, m) } else { a });
            let t = self.t(samples.sorted()[at].t);
            Error::Config(format!(
                "alpha {alpha}: at no noise level is the mean similarity to the {end} end that high; the highest is {best:.4}, at \
                 t = {t:.4}. Lower alpha, or raise eta (now {eta:.4e})"
            ))
        };
        let [first, second] = samples.boundaries(alpha);
        let first = first.ok_or_else(|| missing("data", samples.running_to_data()))?;
        let second = second.ok_or_else(|| missing("noise", samples.running_to_noise()))?;
        if first >= second {
            let (a, b) = (self.t(first), self.t(second));
            return Err(Error::Config(format!(
                "alpha {alpha}: stage 1 would reach up to t = {a:.4} and stage 3 down to t = {b:.4}, so nothing is left for stage 2. \
                 Raise alpha, or lower eta (now {eta:.4e})"
            )));
        }
        Ok([first, second])
    }

    /// Compares the levels of the grid on `count` pairs.
    fn matrix(&self, count: usize) -> Result<SimilarityMatrix> {
        let grid = self.config.grid();
        self.progress.start("comparing all pairs of noise levels", count as u64, "samples");
        let mut whole = SimilarityMatrix { levels: grid.len(), dim: self.optimal.summary().dim, counts: Vec::new() };
        for first in (0..count).step_by(BATCH) {
            let (indices, noise) = self.pairs("grid", first, BATCH.min(count - first));
            let part = similarity_matrix(self.optimal, (&indices, &noise), &grid, self.comparison, &self.stop())?;
            whole.counts.extend(part.counts);
            self.progress.advance((first + indices.len()) as u64, "");
        }
        self.progress.finish();
        Ok(whole)
    }

    /// The parameters that all methods share.
    fn parameters(&self, samples: usize) -> Parameters {
        let Summary { count, distinct, deviation, .. } = *self.optimal.summary();
        Parameters {
            points: count,
            distinct_points: distinct,
            deviation: Some(deviation),
            samples,
            most_samples: Some(self.config.samples),
            settled: None,
            alpha: None,
            levels_per_pair: None,
            eta: Some(self.comparison.eta),
            space: self.config.space,
            levels: Some(self.config.levels),
            coverage: Some(self.config.coverage),
            seed: self.config.seed,
            checkpoints_sha256: Vec::new(),
        }
    }

    /// Stages from boundaries and their bootstrap values in the coordinate of the draws.
    fn stages(&self, boundaries: &[f64], found: &[Vec<f64>], parameters: Parameters) -> Result<Stages> {
        let config = self.config;
        let sigmas = boundaries.iter().map(|&u| config.sigma(u)).collect();
        let mut stages = Stages::new(sigmas, config.schedule.clone(), config.method(), config.data_sha256.clone())?;
        stages.intervals = found
            .iter()
            .map(|values| {
                let (low, high) = interval(values, config.coverage);
                [config.sigma(low), config.sigma(high)]
            })
            .collect();
        stages.parameters = parameters;
        stages.validate()?;
        Ok(stages)
    }

    fn division(&self, stages: Stages, settled: bool, curves: Curves, mean: Vec<f64>) -> Division {
        let sigma = self.config.grid();
        let t = sigma.iter().map(|&s| self.config.schedule.t(s)).collect();
        Division { stages, summary: self.optimal.summary().clone(), settled, curves, matrix: Matrix { sigma, t, values: mean } }
    }

    /// Means over bins of consecutive samples; the running means at each bin's last sample.
    fn curves(&self, samples: &Samples) -> Curves {
        let sorted = samples.sorted();
        let (to_data, to_noise) = (samples.running_to_data(), samples.running_to_noise());
        let bins = BINS.min(sorted.len());
        let mut curves = Curves::default();
        for bin in 0..bins {
            let (start, end) = (bin * sorted.len() / bins, (bin + 1) * sorted.len() / bins);
            let part = &sorted[start..end];
            let mean = |of: fn(&Sample) -> f64| part.iter().map(of).sum::<f64>() / part.len() as f64;
            let sigma = self.config.sigma(mean(|s| s.t));
            curves.sigma.push(sigma);
            curves.t.push(self.config.schedule.t(sigma));
            curves.to_data.push(mean(|s| s.to_data));
            curves.to_noise.push(mean(|s| s.to_noise));
            curves.running_to_data.push(to_data[usize::midpoint(start, end)]);
            curves.running_to_noise.push(to_noise[usize::midpoint(start, end)]);
        }
        curves
    }
}

/// The curves from the first and last rows of a similarity matrix `[T, T]` over the levels `sigma`.
pub(super) fn curves_of(schedule: &Schedule, sigma: Vec<f64>, mean: &[f64]) -> Curves {
    let n = sigma.len();
    let (to_data, to_noise) = (mean[..n].to_vec(), mean[(n - 1) * n..].to_vec());
    let running = |values: &[f64]| {
        let sums = values.iter().scan(0.0, |sum, v| {
            *sum += v;
            Some(*sum)
        });
        sums.enumerate().map(|(i, sum)| sum / (i + 1) as f64).collect::<Vec<f64>>()
    };
    let mut from_noise = running(&to_noise.iter().rev().copied().collect::<Vec<f64>>());
    from_noise.reverse();
    let t = sigma.iter().map(|&s| schedule.t(s)).collect();
    Curves { sigma, t, running_to_data: running(&to_data), running_to_noise: from_noise, to_data, to_noise }
}
