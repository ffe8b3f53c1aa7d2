//! Which noise levels training draws, and how often.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, schedule::Schedule};

/// The distribution of sigma in training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum NoiseDistribution {
    /// `ln sigma ~ N(mean, std²)` (Karras et al. 2022, Table 1). For a rectified flow, whose t has the logit ln sigma, this is the
    /// logit-normal distribution (Esser et al. 2024: mean 0, std 1).
    LogNormal {
        /// Mean of ln sigma. EDM: -1.2 for pixels with sigma_data 0.5, which is -0.5 for unit variance.
        mean: f64,
        /// Standard deviation of ln sigma. EDM: 1.2.
        std: f64,
    },
    /// The schedule's own time, or its index, uniform (Ho et al. 2020; Song et al. 2021).
    UniformTime,
    /// `ln sigma` uniform between two noise levels.
    LogUniform {
        /// The smallest sigma.
        min: f64,
        /// The largest sigma.
        max: f64,
    },
}

impl Default for NoiseDistribution {
    fn default() -> Self {
        Self::LogNormal { mean: -0.5, std: 1.2 }
    }
}

impl NoiseDistribution {
    /// The sigma below which a share `u` in (0, 1) of the draws lies.
    pub fn quantile(&self, schedule: &Schedule, u: f64) -> f64 {
        match *self {
            Self::LogNormal { mean, std } => (mean + std * inverse_normal(u)).exp(),
            Self::UniformTime => schedule.sigma_from_uniform(u),
            Self::LogUniform { min, max } => min * (max / min).powf(u),
        }
    }

    /// The share of draws at or below `sigma`.
    pub fn cdf(&self, schedule: &Schedule, sigma: f64) -> f64 {
        match *self {
            Self::LogNormal { mean, std } => normal_cdf((sigma.ln() - mean) / std),
            Self::UniformTime => uniform_time_cdf(schedule, sigma).clamp(0.0, 1.0),
            Self::LogUniform { min, max } => ((sigma / min).ln() / (max / min).ln()).clamp(0.0, 1.0),
        }
    }

    /// # Errors
    /// If a value cannot be used.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::LogNormal { mean, std } if !(mean.is_finite() && std > 0.0) => {
                Err(Error::Config(format!("`noise`: expected a finite mean and a std above 0, got {mean} and {std}")))
            }
            Self::LogUniform { min, max } if !(min > 0.0 && max > min && max.is_finite()) => {
                Err(Error::Config(format!("`noise`: expected 0 < min < max, both finite, got {min} and {max}")))
            }
            _ => Ok(()),
        }
    }
}

/// Which stage is drawn how often.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StagePolicy {
    /// The noise distribution decides.
    #[default]
    Natural,
    /// Each stage equally often; inside a stage the noise distribution decides.
    Uniform,
    /// Given probabilities, one per stage.
    Probabilities(Vec<f64>),
}

/// A stage that is drawn less often than this is warned of.
const RARE: f64 = 0.01;

/// Draws sigmas: a noise distribution cut into stages by ascending boundaries.
#[derive(Clone, Debug)]
pub struct NoiseSampler {
    distribution: NoiseDistribution,
    schedule: Schedule,
    boundaries: Vec<f64>,
    /// Cumulative probability of the stages under the policy, ending at 1.
    cumulative: Vec<f64>,
    /// Edges of the stages in the distribution's own probability: 0, ..., 1.
    edges: Vec<f64>,
}

impl NoiseSampler {
    /// # Errors
    /// If the boundaries do not ascend, or a stage that should be drawn has no probability under the distribution.
    pub fn new(distribution: NoiseDistribution, schedule: &Schedule, boundaries: &[f64], policy: &StagePolicy) -> Result<Self> {
        distribution.validate()?;
        check_boundaries(boundaries)?;
        let edges: Vec<f64> = std::iter::once(0.0)
            .chain(boundaries.iter().map(|&b| distribution.cdf(schedule, b)))
            .chain(std::iter::once(1.0))
            .collect();
        let natural: Vec<f64> = edges.windows(2).map(|w| w[1] - w[0]).collect();
        let probabilities = policy.probabilities(&natural)?;
        for (stage, (p, n)) in probabilities.iter().zip(&natural).enumerate() {
            if *p > 0.0 && *n < 1e-9 {
                return Err(Error::Config(format!(
                    "stage {} is to be drawn with probability {p}, but the noise distribution {distribution:?} never reaches it",
                    stage + 1
                )));
            }
        }
        for (stage, p) in probabilities.iter().enumerate().filter(|(_, p)| **p < RARE) {
            tracing::warn!(
                "stage {} gets {:.2} % of the training: its decoder will learn little; see `noise` and `stage_policy`",
                stage + 1,
                100.0 * p
            );
        }
        let cumulative = cumulative(probabilities);
        Ok(Self { distribution, schedule: schedule.clone(), boundaries: boundaries.to_vec(), cumulative, edges })
    }

    /// The same, of the stages alone whose numbers (from 0) are given; all of them where none is.
    ///
    /// # Errors
    /// If there is no such stage, or the policy draws none of them.
    pub fn restricted_to(mut self, stages: &[usize]) -> Result<Self> {
        let all = self.probabilities();
        if let Some(stage) = stages.iter().find(|stage| **stage >= all.len()) {
            return Err(Error::Config(format!("stage {}: expected one of 1 to {}", stage + 1, all.len())));
        }
        let kept = |(stage, p): (usize, f64)| if stages.is_empty() || stages.contains(&stage) { p } else { 0.0 };
        let probabilities: Vec<f64> = all.into_iter().enumerate().map(kept).collect();
        let sum: f64 = probabilities.iter().sum();
        if sum <= 0.0 {
            return Err(Error::Config("the stages that are to be trained are never drawn: see `stage_policy`".into()));
        }
        self.cumulative = cumulative(probabilities.iter().map(|p| p / sum));
        Ok(self)
    }

    /// The sigma of a draw `u` uniform in [0, 1).
    pub fn sigma(&self, u: f64) -> f64 {
        let stage = self.cumulative.iter().position(|&c| u < c).unwrap_or(self.cumulative.len() - 1);
        let from = if stage == 0 { 0.0 } else { self.cumulative[stage - 1] };
        let within = (u - from) / (self.cumulative[stage] - from);
        let share = self.edges[stage] + within * (self.edges[stage + 1] - self.edges[stage]);
        self.distribution.quantile(&self.schedule, share.clamp(1e-9, 1.0 - 1e-9))
    }

    /// The stage (from 0) of a sigma.
    pub fn stage(&self, sigma: f64) -> usize {
        stage_of(&self.boundaries, sigma)
    }

    /// How often each stage is drawn.
    pub fn probabilities(&self) -> Vec<f64> {
        let before = std::iter::once(&0.0).chain(&self.cumulative);
        self.cumulative.iter().zip(before).map(|(to, from)| to - from).collect()
    }
}

impl StagePolicy {
    fn probabilities(&self, natural: &[f64]) -> Result<Vec<f64>> {
        match self {
            Self::Natural => Ok(natural.to_vec()),
            Self::Uniform => Ok(vec![1.0 / natural.len() as f64; natural.len()]),
            Self::Probabilities(p) if p.len() == natural.len() && p.iter().all(|v| *v >= 0.0) && p.iter().sum::<f64>() > 0.0 => {
                let sum: f64 = p.iter().sum();
                Ok(p.iter().map(|v| v / sum).collect())
            }
            Self::Probabilities(p) => Err(Error::Config(format!(
                "stage_policy: expected {} probabilities, none negative and not all zero, got {p:?}",
                natural.len()
            ))),
        }
    }
}

/// The stage (from 0) of `sigma`: stage k covers `boundaries[k-1] < sigma <= boundaries[k]`.
pub fn stage_of(boundaries: &[f64], sigma: f64) -> usize {
    boundaries.iter().filter(|&&b| sigma > b).count()
}

/// # Errors
/// If the boundaries are not positive and strictly ascending.
pub fn check_boundaries(boundaries: &[f64]) -> Result<()> {
    let ascending = boundaries.windows(2).all(|w| w[0] < w[1]);
    if ascending && boundaries.iter().all(|b| *b > 0.0 && b.is_finite()) {
        return Ok(());
    }
    Err(Error::Config(format!("stage boundaries: expected sigmas above 0, each larger than the one before, got {boundaries:?}")))
}

/// Running sums.
fn cumulative(probabilities: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let add = |sum: &mut f64, p: f64| {
        *sum += p;
        Some(*sum)
    };
    probabilities.into_iter().scan(0.0, add).collect()
}

/// The inverse of [`Schedule::sigma_from_uniform`].
fn uniform_time_cdf(schedule: &Schedule, sigma: f64) -> f64 {
    match schedule {
        Schedule::Edm { sigma_min, sigma_max } => (sigma / sigma_min).ln() / (sigma_max / sigma_min).ln(),
        Schedule::Ldm(discrete) => discrete.sigmas().iter().filter(|&&s| s <= sigma).count() as f64 / discrete.len() as f64,
        _ => {
            let (from, to) = schedule.t_range();
            (schedule.t(sigma) - from) / (to - from)
        }
    }
}

/// Distribution function of N(0, 1).
fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

/// Inverse of [`normal_cdf`] by bisection and Newton's rule; `u` in (0, 1).
fn inverse_normal(u: f64) -> f64 {
    let (mut lo, mut hi) = (-9.0, 9.0);
    let mut x = 0.0;
    for _ in 0..80 {
        let error = normal_cdf(x) - u;
        if error > 0.0 {
            hi = x;
        } else {
            lo = x;
        }
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let newton = x - error / density.max(1e-300);
        let next = if newton > lo && newton < hi { newton } else { 0.5 * (lo + hi) };
        if (next - x).abs() < 1e-14 * x.abs().max(1.0) {
            return next;
        }
        x = next;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISTRIBUTIONS: [NoiseDistribution; 3] = [
        NoiseDistribution::LogNormal { mean: -0.5, std: 1.2 },
        NoiseDistribution::UniformTime,
        NoiseDistribution::LogUniform { min: 0.01, max: 50.0 },
    ];

    #[test]
    fn quantile_and_cdf_are_inverse() {
        for (schedule, d) in [Schedule::vp(), Schedule::Edm { sigma_min: 0.002, sigma_max: 80.0 }]
            .iter()
            .flat_map(|s| DISTRIBUTIONS.map(|d| (s, d)))
        {
            for u in [1e-6, 0.01, 0.3, 0.5, 0.9, 0.999_999] {
                assert!((d.cdf(schedule, d.quantile(schedule, u)) - u).abs() < 1e-10, "{d:?} at {u}");
            }
        }
    }

    #[test]
    fn normal_quantiles() {
        for (u, x) in [(0.975, 1.959_963_984_540_054), (0.5, 0.0), (1e-7, -5.199_337_582_192_816)] {
            assert!((inverse_normal(u) - x).abs() < 1e-9, "{u}: {}", inverse_normal(u));
        }
    }

    #[test]
    fn policies_draw_the_stages_as_often_as_they_say() -> Result<()> {
        let boundaries = [0.5, 2.5];
        for d in DISTRIBUTIONS {
            for policy in [StagePolicy::Natural, StagePolicy::Uniform, StagePolicy::Probabilities(vec![1.0, 0.0, 3.0])] {
                let sampler = NoiseSampler::new(d, &Schedule::vp(), &boundaries, &policy)?;
                let mut counts = [0usize; 3];
                let n = 20_000;
                for i in 0..n {
                    counts[sampler.stage(sampler.sigma((f64::from(i) + 0.5) / f64::from(n)))] += 1;
                }
                for (count, p) in counts.iter().zip(sampler.probabilities()) {
                    assert!((*count as f64 / f64::from(n) - p).abs() < 2e-4, "{d:?} {policy:?} {counts:?}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_stage_alone_is_drawn_as_it_would_be_among_others() -> Result<()> {
        let d = NoiseDistribution::default();
        let all = NoiseSampler::new(d, &Schedule::vp(), &[0.5, 2.5], &StagePolicy::Natural)?;
        let second = all.clone().restricted_to(&[1])?;
        assert_eq!(second.probabilities(), [0.0, 1.0, 0.0]);
        let p = all.probabilities();
        for u in [0.0, 0.3, 0.999] {
            assert!((second.sigma(u) - all.sigma(p[0] + u * p[1])).abs() < 1e-9, "{u}");
        }
        assert_eq!(all.clone().restricted_to(&[])?.probabilities(), p);
        assert!(all.restricted_to(&[3]).is_err());
        Ok(())
    }

    #[test]
    fn refuses_what_cannot_be_drawn() {
        let d = NoiseDistribution::default();
        assert!(NoiseSampler::new(d, &Schedule::vp(), &[2.0, 1.0], &StagePolicy::Natural).is_err());
        assert!(NoiseSampler::new(d, &Schedule::vp(), &[1.0], &StagePolicy::Probabilities(vec![1.0])).is_err());
        assert!(NoiseSampler::new(d, &Schedule::vp(), &[1e9], &StagePolicy::Uniform).is_err());
    }

    #[test]
    fn a_boundary_belongs_to_the_stage_below() {
        assert_eq!([0.5, 1.0, 1.1, 9.0].map(|s| stage_of(&[1.0, 3.0], s)), [0, 0, 1, 2]);
    }
}
