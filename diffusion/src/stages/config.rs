//! What a division is asked for and what it answers.

use serde::{Deserialize, Serialize};

use super::file::{Method, Stages};
use super::points::Summary;
use super::similarity::Space;
use crate::{Error, Result, schedule::Schedule};

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
    /// Pairs (y, eps) at most; K (the paper has 50,000). For gradient affinity, the pairs behind each gradient.
    pub samples: usize,
    /// Levels at which Algorithm 1 looks at each pair. The paper has 1; more cost little, since a pair's products with the data
    /// serve all its levels, and narrow the intervals.
    pub levels_per_pair: usize,
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
            levels_per_pair: 4,
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
            (self.levels_per_pair >= 1, "`levels_per_pair` is 0: expected at least 1".to_string()),
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
    pub(super) fn grid(&self) -> Vec<f64> {
        (0..self.levels).map(|i| self.sigma(i as f64 / (self.levels - 1).max(1) as f64)).collect()
    }

    /// sigma at `u` in [0, 1], the coordinate in which the schedule draws noise levels: its own time, or ln sigma. Between discrete
    /// levels it interpolates.
    pub(super) fn sigma(&self, u: f64) -> f64 {
        match self.schedule {
            Schedule::Ldm(_) => {
                let (low, high) = self.schedule.t_range();
                self.schedule.sigma(low + u * (high - low))
            }
            _ => self.schedule.sigma_from_uniform(u),
        }
    }
}
