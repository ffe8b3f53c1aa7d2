//! Dividing a noise range into stages: draws, the chosen method, bootstrap intervals, and what a plot needs.

use serde::{Deserialize, Serialize};
use strata_nn::random::{Key, uniform_f64};
use strata_training::{Interrupt, Progress};

use super::algorithm1::{Levels, Sample, Samples, end_similarities, interval, resample};
use super::baselines;
use super::file::{Method, Parameters, Stages};
use super::optimal::OptimalDenoiser;
use super::partition::{self, by_affinity, by_similarity};
use super::points::{Points, Summary};
use super::similarity::{Comparison, SimilarityMatrix, Space, similarity_matrix};
use crate::{Error, Result, schedule::Schedule};

/// Pairs between two looks at the bootstrap intervals.
const BATCH: usize = 500;
/// Pairs behind the similarity matrix where it is only looked at, not divided.
const SHOWN_PAIRS: usize = 200;
/// Bins of the curves.
const BINS: usize = 60;

/// The unit in which eta is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EtaUnit {
    /// As it stands: the paper's 2/256 for pixels in [-1, 1], a single grey level of the range 2.
    #[default]
    Plain,
    /// Standard deviations of the data: for latents, whose range has no meaning.
    Deviation,
}

/// How to divide. The defaults are the paper's, with fewer samples: an interval tells whether they are enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DivideConfig {
    /// The levels that are drawn, and the time in which they are shown.
    pub schedule: Schedule,
    /// Number of stages.
    pub stages: usize,
    /// How the boundaries are found; by default Algorithm 1 for three stages, the similarity partition for other numbers.
    pub method: Option<Method>,
    /// Pairs (y, eps) at most; K (the paper has 50,000).
    pub samples: usize,
    /// Similarity that stages 1 and 3 keep to their ends (the paper has 0.9).
    pub alpha: f64,
    /// Largest difference that counts as equal (the paper has 2/256 on pixels in [-1, 1]).
    pub eta: f64,
    /// The unit of eta.
    pub eta_unit: EtaUnit,
    /// What is compared.
    pub space: Space,
    /// Levels of the grid that the partitions work on and the similarity matrix shows.
    pub levels: usize,
    /// Sampling ends early when every interval is at most this wide, in shares of the range of levels; 0 never.
    pub settled: f64,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Coverage of the bootstrap intervals.
    pub coverage: f64,
    /// Seed of all draws.
    pub seed: u64,
    /// SHA-256 that identifies the data, written into the result.
    pub data_sha256: String,
}

impl Default for DivideConfig {
    fn default() -> Self {
        Self {
            schedule: Schedule::vp(),
            stages: 3,
            method: None,
            samples: 2000,
            alpha: 0.9,
            eta: 2.0 / 256.0,
            eta_unit: EtaUnit::Plain,
            space: Space::Eps,
            levels: 41,
            settled: 0.005,
            resamples: 200,
            coverage: 0.95,
            seed: 0,
            data_sha256: String::new(),
        }
    }
}

/// The similarity of the optimal denoiser at each level to the two ends, means over bins of the samples, ascending in sigma.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Curves {
    /// The levels.
    pub sigma: Vec<f64>,
    /// The same in the schedule's own time.
    pub t: Vec<f64>,
    /// Similarity to eps* at the finest level.
    pub to_data: Vec<f64>,
    /// Similarity to eps* at the coarsest level.
    pub to_noise: Vec<f64>,
    /// Mean of `to_data` over all levels up to this one, which Algorithm 1 compares with alpha.
    pub running_to_data: Vec<f64>,
    /// Mean of `to_noise` over all levels from this one on.
    pub running_to_noise: Vec<f64>,
}

/// Mean similarity between the levels of a grid.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Matrix {
    /// The levels T, ascending.
    pub sigma: Vec<f64>,
    /// The same in the schedule's own time.
    pub t: Vec<f64>,
    /// `[T, T]`, row-major, values in [0, 1].
    pub values: Vec<f64>,
}

/// A division and what it rests on.
#[derive(Clone, Debug)]
pub struct Division {
    /// The result, ready to be saved.
    pub stages: Stages,
    /// What the data look like.
    pub summary: Summary,
    /// Whether sampling ended early because the intervals were narrow enough.
    pub settled: bool,
    /// For the plot; empty for methods that do not look at the data.
    pub curves: Curves,
    /// For the picture; empty for methods that do not look at the data.
    pub matrix: Matrix,
}

impl DivideConfig {
    /// Errors if a value is out of its range, or the method and the number of stages do not fit.
    pub fn validate(&self) -> Result<()> {
        self.schedule.validate()?;
        let checks = [
            (self.stages >= 2, format!("`stages` is {}: a division has at least 2; one stage needs none", self.stages)),
            (self.samples >= 20, format!("`samples` is {}: expected at least 20", self.samples)),
            (self.alpha > 0.0 && self.alpha <= 1.0, format!("`alpha` is {}: expected a share in (0, 1]", self.alpha)),
            (self.eta > 0.0 && self.eta.is_finite(), format!("`eta` is {}: expected a positive number", self.eta)),
            (
                self.levels >= self.stages,
                format!("{} stages cannot be cut from a grid of {} levels: raise `levels`", self.stages, self.levels),
            ),
            (self.settled >= 0.0, format!("`settled` is {}: expected 0 or more", self.settled)),
            (self.resamples >= 20, format!("`resamples` is {}: expected at least 20", self.resamples)),
            (self.coverage > 0.0 && self.coverage < 1.0, format!("`coverage` is {}: expected a share in (0, 1)", self.coverage)),
            (
                self.method() != Method::Algorithm1 || self.stages == 3,
                format!("Algorithm 1 finds 3 stages, not {}: use method `similarity`", self.stages),
            ),
            (
                self.method() != Method::GradientAffinity,
                "gradient affinity needs the gradients of a trained network, not data: see `divide_by_affinity`".to_string(),
            ),
        ];
        match checks.into_iter().find(|(ok, _)| !ok) {
            Some((_, message)) => Err(Error::Config(message)),
            None => Ok(()),
        }
    }

    /// The method in force.
    pub fn method(&self) -> Method {
        self.method.unwrap_or(Method::for_stages(self.stages))
    }

    /// The levels of the grid: sigma at equal steps of the coordinate in which the schedule draws.
    fn grid(&self) -> Vec<f64> {
        (0..self.levels).map(|i| self.sigma(i as f64 / (self.levels - 1).max(1) as f64)).collect()
    }

    /// sigma at `u` in [0, 1], the coordinate in which the schedule draws noise levels: its own time, or ln sigma. Between discrete
    /// levels it interpolates.
    fn sigma(&self, u: f64) -> f64 {
        match self.schedule {
            Schedule::Ldm(_) => {
                let (low, high) = self.schedule.t_range();
                self.schedule.sigma(low + u * (high - low))
            }
            _ => self.schedule.sigma_from_uniform(u),
        }
    }
}

/// Divides the noise range for the data set `points`. The result depends on the data and the configuration alone, not on the
/// number of threads.
///
/// Errors: a configuration out of range; data that have no division (one point, all points equal, values that are not finite);
/// an alpha that no boundary satisfies or that lets the outer stages overlap; an unreadable source; [`Error::Interrupted`].
pub fn divide(points: &dyn Points, config: &DivideConfig, progress: &dyn Progress, interrupt: &Interrupt) -> Result<Division> {
    config.validate()?;
    let optimal = OptimalDenoiser::new(points)?;
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

/// Divides by the affinity of a network's gradients at the levels `sigmas` (ascending); affinity: `[T, T]` as
/// [`gradient_affinity`](super::partition::gradient_affinity) gives it. Errors if no division of that grid exists.
pub fn divide_by_affinity(
    affinity: &[f64],
    sigmas: &[f64],
    schedule: &Schedule,
    stages: usize,
    data_sha256: &str,
) -> Result<Stages> {
    let found = by_affinity(affinity, sigmas.len(), stages)?;
    let boundaries = found.starts[1..].iter().map(|&s| (sigmas[s - 1] * sigmas[s]).sqrt()).collect();
    Stages::new(boundaries, schedule.clone(), Method::GradientAffinity, data_sha256.to_string())
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
        while samples.sorted().len() < config.samples && !settled {
            samples.extend(self.draw(samples.sorted().len())?);
            found = samples.bootstrap(config.alpha, config.resamples, self.key("resample"), [0.0, 1.0]);
            let intervals = found.each_ref().map(|f| interval(f, config.coverage));
            let satisfied = samples.boundaries(config.alpha).iter().all(Option::is_some);
            settled = satisfied && intervals.iter().all(|(a, b)| b - a <= config.settled);
            let message = intervals.map(|(a, b)| format!("{:.4}..{:.4}", self.t(a), self.t(b))).join(" ");
            self.progress.advance(samples.sorted().len() as u64, &message);
        }
        self.progress.finish();
        let boundaries = self.two_boundaries(&samples)?;
        let pairs = SHOWN_PAIRS.min(samples.sorted().len());
        let matrix = self.matrix(pairs)?;
        let drawn = samples.sorted().len();
        let stages = self.stages(&boundaries, &found, Parameters { alpha: Some(config.alpha), ..self.parameters(drawn) })?;
        Ok(self.division(stages, settled, self.curves(&samples), matrix.mean()))
    }

    fn similarity(&self) -> Result<Division> {
        let config = self.config;
        let matrix = self.matrix(config.samples)?;
        let half = 0.5 / (config.levels - 1) as f64;
        let cut = |mean: &[f64]| -> Result<Vec<f64>> {
            let found = by_similarity(mean, config.levels, config.stages)?;
            Ok(found.starts[1..].iter().map(|&s| 2.0 * half * s as f64 - half).collect())
        };
        let mean = matrix.mean();
        let mut found = vec![Vec::new(); config.stages - 1];
        for i in 0..config.resamples {
            let times = resample(matrix.pairs(), matrix.pairs(), self.key("resample").index(i as u64));
            found.iter_mut().zip(cut(&matrix.resampled(&times))?).for_each(|(f, b)| f.push(b));
        }
        let stages = self.stages(&cut(&mean)?, &found, self.parameters(matrix.pairs()))?;
        let curves = self.curves_of(&mean);
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

    /// The next batch of Algorithm 1's samples, one in each of equally wide strata of the range of levels.
    fn draw(&self, first: usize) -> Result<Vec<Sample>> {
        let count = BATCH.min(self.config.samples - first);
        let (indices, noise) = self.pairs("sample", first, count);
        let place = |i: usize| uniform_f64(&mut self.key("level").index((first + i) as u64).generator());
        let u: Vec<f64> = (0..count).map(|i| (i as f64 + place(i)) / count as f64).collect();
        let sigmas: Vec<f64> = u.iter().map(|&u| self.config.sigma(u)).collect();
        let ends = Levels { finest: self.config.sigma(0.0), coarsest: self.config.sigma(1.0) };
        let found = end_similarities(self.optimal, (&indices, &noise), &sigmas, ends, self.comparison, &self.stop())?;
        Ok(u.into_iter().zip(found).map(|(t, (to_data, to_noise))| Sample { t, to_data, to_noise }).collect())
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
        let Summary { count, distinct, .. } = *self.optimal.summary();
        Parameters {
            points: count,
            distinct_points: distinct,
            samples,
            alpha: None,
            eta: Some(self.comparison.eta),
            space: self.config.space,
            levels: Some(self.config.levels),
            coverage: Some(self.config.coverage),
            seed: self.config.seed,
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

    /// The same curves from the first and last rows of a similarity matrix `[T, T]`.
    fn curves_of(&self, mean: &[f64]) -> Curves {
        let sigma = self.config.grid();
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
        let t = sigma.iter().map(|&s| self.config.schedule.t(s)).collect();
        Curves { sigma, t, running_to_data: running(&to_data), running_to_noise: from_noise, to_data, to_noise }
    }
}
