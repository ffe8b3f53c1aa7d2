//! `stages.toml`: where the stages meet, and how that was found.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::similarity::Space;
use crate::{Error, Result, schedule::Schedule};

/// The version of the file that this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// How a division is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// The paper's Algorithm 1, three stages.
    Algorithm1,
    /// The partition with the highest mean similarity within the stages, any number of them.
    Similarity,
    /// Equal widths in the coordinate in which the schedule draws noise levels.
    Uniform,
    /// Equal widths in log-SNR.
    UniformLogSnr,
    /// Clusters of log-SNR on a uniform grid (Go et al. 2023).
    LogSnr,
    /// Clusters of the gradients of a trained network (Go et al. 2023).
    GradientAffinity,
}

impl Method {
    /// Names that `from_str` knows.
    pub const NAMES: [&str; 6] = ["algorithm1", "similarity", "uniform", "uniform-log-snr", "log-snr", "gradient-affinity"];

    /// The paper's algorithm where it applies, its generalisation elsewhere.
    pub fn for_stages(count: usize) -> Self {
        if count == 3 { Self::Algorithm1 } else { Self::Similarity }
    }
}

impl std::str::FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::Algorithm1, Self::Similarity, Self::Uniform, Self::UniformLogSnr, Self::LogSnr, Self::GradientAffinity];
        let found = Self::NAMES.iter().position(|n| *n == name).map(|i| all[i]);
        found.ok_or_else(|| Error::Config(format!("method: expected one of {}, got `{name}`", Self::NAMES.join(", "))))
    }
}

/// What a division was computed with. Absent where the method does not use it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// Points in the data set.
    pub points: usize,
    /// Of them, different ones.
    pub distinct_points: usize,
    /// Their standard deviation.
    pub deviation: Option<f64>,
    /// Pairs (y, eps) that were drawn; K.
    pub samples: usize,
    /// Pairs that were allowed; fewer are drawn when the boundaries settle early.
    pub most_samples: Option<usize>,
    /// Width of the intervals, in shares of the range of levels, at which sampling ends early.
    pub settled: Option<f64>,
    /// Levels at which Algorithm 1 looked at each pair.
    pub levels_per_pair: Option<usize>,
    /// Similarity that a stage keeps to its end.
    pub alpha: Option<f64>,
    /// Largest difference that counts as equal, in the units of what is compared.
    pub eta: Option<f64>,
    /// What is compared.
    pub space: Space,
    /// Levels of the grid.
    pub levels: Option<usize>,
    /// Coverage of the bootstrap intervals.
    pub coverage: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
    /// SHA-256 of the weight files whose gradients were compared.
    pub checkpoints_sha256: Vec<String>,
}

/// The stages of a noise range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stages {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The sigmas at which stages meet, ascending; one fewer than stages.
    pub boundaries: Vec<f64>,
    /// The same in the schedule's own time, for the reader; may be left out.
    #[serde(default)]
    pub boundaries_t: Vec<f64>,
    /// Bootstrap interval of each boundary, in sigma; empty where the method has no randomness.
    #[serde(default)]
    pub intervals: Vec<[f64; 2]>,
    /// How the boundaries were found.
    pub method: Method,
    /// SHA-256 that identifies the data; empty when the boundaries are meant for any data.
    pub data_sha256: String,
    /// The schedule in whose time the levels were drawn.
    pub schedule: Schedule,
    /// What they were computed with.
    pub parameters: Parameters,
}

/// One stage as a table shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// 1 is nearest the data.
    pub stage: usize,
    /// Least noise.
    pub sigma_low: f64,
    /// Most noise.
    pub sigma_high: f64,
    /// Least noise in the schedule's own time.
    pub t_low: f64,
    /// Most noise in the schedule's own time.
    pub t_high: f64,
    /// Bootstrap interval of the boundary above this stage, in sigma.
    pub interval: Option<[f64; 2]>,
    /// The same in the schedule's own time.
    pub interval_t: Option<[f64; 2]>,
}

impl Stages {
    /// Boundaries in sigma, ascending, found by `method` on the data of `data_sha256`. Errors as [`Self::validate`].
    pub fn new(boundaries: Vec<f64>, schedule: Schedule, method: Method, data_sha256: String) -> Result<Self> {
        let boundaries_t = boundaries.iter().map(|&s| schedule.t(s)).collect();
        let (intervals, parameters) = (Vec::new(), Parameters::default());
        let stages = Self {
            format_version: FORMAT_VERSION,
            boundaries,
            boundaries_t,
            intervals,
            method,
            data_sha256,
            schedule,
            parameters,
        };
        stages.validate()?;
        Ok(stages)
    }

    /// Errors unless the boundaries ascend strictly within the schedule's range and everything else agrees with them.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Config(message));
        if self.format_version != FORMAT_VERSION {
            return refuse(format!("`format_version` is {}, this program reads {FORMAT_VERSION}", self.format_version));
        }
        self.schedule.validate()?;
        let (low, high) = self.schedule.sigma_range();
        if self.boundaries.iter().any(|s| !(*s > low && *s < high)) || self.boundaries.windows(2).any(|w| w[0] >= w[1]) {
            let got = &self.boundaries;
            return refuse(format!("`boundaries`: expected sigmas that ascend strictly between {low} and {high}, got {got:?}"));
        }
        let agree = |(t, sigma): (&f64, &f64)| (self.schedule.sigma(*t) / sigma - 1.0).abs() < 1e-6;
        let shown = self.boundaries_t.len() == self.boundaries.len() && self.boundaries_t.iter().zip(&self.boundaries).all(agree);
        if !(shown || self.boundaries_t.is_empty()) {
            let expected: Vec<f64> = self.boundaries.iter().map(|&s| self.schedule.t(s)).collect();
            return refuse(format!("`boundaries_t` does not belong to `boundaries`: expected {expected:?}, or leave it out"));
        }
        let ordered = self.intervals.iter().all(|[a, b]| *a > 0.0 && a <= b && b.is_finite());
        if !(self.intervals.is_empty() || self.intervals.len() == self.boundaries.len() && ordered) {
            return refuse(format!("`intervals`: expected {} pairs of ascending sigmas", self.boundaries.len()));
        }
        Ok(())
    }

    /// Reads and checks a file. Errors name it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        let stages: Self = toml::from_str(&text).map_err(|e| Error::file(path, e))?;
        stages.validate().map_err(|e| Error::file(path, e))?;
        Ok(stages)
    }

    /// Writes the file beside its place and renames it. Errors name it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.validate()?;
        let text = toml::to_string(self).map_err(|e| Error::file(path, e))?;
        Ok(strata_nn::weights::write_atomic(path, format!("{HEADER}{text}").as_bytes())?)
    }

    /// Number of stages.
    pub fn count(&self) -> usize {
        self.boundaries.len() + 1
    }

    /// The stages as a table, stage 1 first.
    pub fn rows(&self) -> Vec<Row> {
        let (low, high) = self.schedule.sigma_range();
        let ends: Vec<f64> = std::iter::once(low).chain(self.boundaries.iter().copied()).chain([high]).collect();
        let row = |(i, w): (usize, &[f64])| {
            let interval = self.intervals.get(i).copied();
            Row {
                stage: i + 1,
                sigma_low: w[0],
                sigma_high: w[1],
                t_low: self.schedule.t(w[0]),
                t_high: self.schedule.t(w[1]),
                interval,
                interval_t: interval.map(|i| i.map(|s| self.schedule.t(s))),
            }
        };
        ends.windows(2).enumerate().map(row).collect()
    }
}

const HEADER: &str = "# Where the noise levels are divided into stages; stage 1 lies below the first boundary, nearest the data.\n\
    # `boundaries` are sigmas (noise-to-signal ratios); `boundaries_t` shows them in the schedule's own time.\n\n";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn paper() -> Stages {
        Stages::new(vec![2.5103, 7.405], Schedule::vp(), Method::Algorithm1, "ab".into()).unwrap()
    }

    #[test]
    fn survives_the_disk_and_shows_t() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stages.toml");
        let mut stages = paper();
        stages.intervals = vec![[2.4, 2.6], [7.1, 7.9]];
        stages.parameters = Parameters { points: 10, alpha: Some(0.9), eta: Some(0.0078125), ..Parameters::default() };
        stages.save(&path).unwrap();
        assert_eq!(Stages::load(&path).unwrap(), stages);
        let rows = stages.rows();
        assert_eq!(rows.len(), 3);
        assert!(
            (rows[0].t_high - 0.442).abs() < 1e-5
                && (rows[2].t_low - 0.6308).abs() < 1e-5
                && (rows[2].t_high - 1.0).abs() < 1e-12
        );
        assert!(rows[1].interval_t.unwrap()[0] < 0.6308 && rows[2].interval.is_none());
    }

    #[test]
    fn a_file_that_does_not_hold_together_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stages.toml");
        let text = toml::to_string(&paper()).unwrap();
        for (from, to, complaint) in [
            ("[2.5103, 7.405]", "[7.405, 2.5103]", "ascend strictly"),
            ("[2.5103, 7.405]", "[2.5103, 1e9]", "ascend strictly"),
            ("[2.5103, 7.405]", "[2.6, 7.405]", "`boundaries_t` does not belong"),
            ("format_version = 1", "format_version = 2", "this program reads 1"),
            ("method =", "methods =", "methods"),
            ("algorithm1", "guess", "guess"),
        ] {
            assert!(text.contains(from), "{text}");
            std::fs::write(&path, text.replace(from, to)).unwrap();
            let error = Stages::load(&path).unwrap_err().to_string();
            assert!(error.contains(complaint) && error.contains("stages.toml"), "{error}");
        }
        assert!(Stages::load(dir.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn names_of_methods_are_those_of_the_file() {
        for name in Method::NAMES {
            let method: Method = name.parse().unwrap();
            assert_eq!(serde_json::to_value(method).unwrap(), name);
        }
        assert!("algorithm2".parse::<Method>().unwrap_err().to_string().contains("similarity"));
    }
}
