//! Sigma grids: the noise levels that a sampler goes through, noisy first.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, schedule::Schedule, schedule_discrete::Discrete};

/// A rule that spaces n sigmas. As text: one of [`Grid::names`]; `karras` and `polyexponential` may be followed by `:rho=NUMBER`, and
/// `exponential` is another name of `log-snr`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Grid {
    /// [`karras`].
    Karras {
        /// The exponent.
        rho: f64,
    },
    /// Uniform in ln sigma, which is uniform in log-SNR.
    LogSnr,
    /// [`polyexponential`].
    Polyexponential {
        /// The exponent.
        rho: f64,
    },
    /// Uniform in the schedule's time.
    TimeUniform,
    /// Uniform in the root of the schedule's time.
    TimeQuadratic,
    /// EDM's VP grid: [`vp`] through both ends.
    EdmVp,
    /// EDM's VE grid, uniform in ln sigma².
    EdmVe,
    /// [`iddpm`].
    Iddpm,
    /// LDM's DDIM steps over discrete indices: every (N div n)-th.
    LdmUniform,
    /// LDM's DDIM steps, quadratic in the index.
    LdmQuad,
    /// n indices from the last to the first, rounded.
    Linspace,
    /// Multiples of N div n, from 0.
    Leading,
    /// From the last index down by N/n.
    Trailing,
}

impl Default for Grid {
    /// Karras et al. 2022: rho 7.
    fn default() -> Self {
        Self::NAMED[0].1
    }
}

impl FromStr for Grid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rho) = text.split_once(":rho=").map_or((text, None), |(name, rho)| (name, Some(rho)));
        let name = if name == "exponential" { "log-snr" } else { name };
        let found = Self::NAMED.iter().find(|(n, _)| *n == name).map(|(_, grid)| *grid);
        let Some(mut grid) = found else {
            return Err(Error::Config(format!("grid: expected one of {}, got `{text}`", Self::names().join(", "))));
        };
        let number = rho.and_then(|rho| rho.parse::<f64>().ok()).filter(|v| *v > 0.0 && v.is_finite());
        match (&mut grid, rho, number) {
            (_, None, _) => {}
            (Self::Karras { rho } | Self::Polyexponential { rho }, _, Some(number)) => *rho = number,
            _ => {
                let expected = "a rho above 0 after karras or polyexponential alone";
                return Err(Error::Config(format!("grid: expected {expected}, got `{text}`")));
            }
        }
        Ok(grid)
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let same = |other: &Self| std::mem::discriminant(other) == std::mem::discriminant(self);
        let Some((name, named)) = Self::NAMED.iter().find(|(_, grid)| same(grid)) else { return Err(fmt::Error) };
        match self {
            Self::Karras { rho } | Self::Polyexponential { rho } if named != self => write!(f, "{name}:rho={rho}"),
            _ => f.write_str(name),
        }
    }
}

impl TryFrom<String> for Grid {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Grid> for String {
    fn from(grid: Grid) -> Self {
        grid.to_string()
    }
}

impl Grid {
    const NAMED: [(&str, Self); 13] = [
        ("karras", Self::Karras { rho: 7.0 }),
        ("log-snr", Self::LogSnr),
        ("polyexponential", Self::Polyexponential { rho: 1.0 }),
        ("time-uniform", Self::TimeUniform),
        ("time-quadratic", Self::TimeQuadratic),
        ("edm-vp", Self::EdmVp),
        ("edm-ve", Self::EdmVe),
        ("iddpm", Self::Iddpm),
        ("ldm-uniform", Self::LdmUniform),
        ("ldm-quad", Self::LdmQuad),
        ("linspace", Self::Linspace),
        ("leading", Self::Leading),
        ("trailing", Self::Trailing),
    ];

    /// What `from_str` knows, the default first.
    pub fn names() -> Vec<&'static str> {
        Self::NAMED.iter().map(|(name, _)| *name).collect()
    }

    /// Whether it picks from a schedule's discrete indices, whatever the range.
    pub fn is_over_indices(self) -> bool {
        matches!(self, Self::LdmUniform | Self::LdmQuad | Self::Linspace | Self::Leading | Self::Trailing)
    }

    /// The levels of about `steps` steps from `high` to `low` (over a schedule's indices: from its last to its first), descending, with a
    /// last one of 0: `steps + 1` of them, but for the LDM grids, which have more where `steps` does not divide the number of indices.
    /// Errors if `steps` is 0, unless 0 < low < high, or if a rule over indices meets a schedule without them.
    pub fn sigmas(self, schedule: &Schedule, steps: usize, (low, high): (f64, f64)) -> Result<Vec<f64>> {
        check_range(steps, low, high)?;
        let (t_low, t_high) = (schedule.t(low), schedule.t(high));
        let last = steps - 1;
        let mut sigmas = match self {
            Self::Karras { rho } => return karras(steps, low, high, rho),
            Self::LogSnr | Self::EdmVe => return exponential(steps, low, high),
            Self::Polyexponential { rho } => return polyexponential(steps, low, high, rho),
            Self::TimeUniform => linear(t_high, t_low, last).map(|t| schedule.sigma(t)).collect(),
            Self::TimeQuadratic => linear(t_high.sqrt(), t_low.sqrt(), last).map(|t| schedule.sigma(t * t)).collect(),
            Self::EdmVp => {
                let (beta_d, beta_min) = vp_through(low, high, EPSILON);
                vp(steps, beta_d, beta_min, EPSILON)
            }
            Self::Iddpm => iddpm(steps, low, high, Iddpm::default())?,
            _ => self.index_levels(schedule, steps)?,
        };
        // Levels that a rounded rule repeats would be steps of no length.
        sigmas.dedup();
        sigmas.push(0.0);
        Ok(sigmas)
    }

    fn index_levels(self, schedule: &Schedule, steps: usize) -> Result<Vec<f64>> {
        let Schedule::Ldm(discrete) = schedule else {
            return Err(Error::Config(format!("grid: `{self}` expects a schedule of discrete indices (ldm), got {schedule:?}")));
        };
        let n = discrete.len();
        if steps > n {
            return Err(Error::Config(format!("grid: `{self}` expects at most the schedule's {n} steps, got {steps}")));
        }
        let indices: Vec<usize> = match self {
            Self::LdmUniform => ldm_uniform(steps, n)?.into_iter().rev().collect(),
            Self::LdmQuad => ldm_quad(steps, n)?.into_iter().rev().collect(),
            Self::Leading => leading(steps, n, 0).iter().map(|i| *i as usize).collect(),
            Self::Trailing => trailing(steps, n).iter().map(|i| *i as usize).collect(),
            _ => linear((n - 1) as f64, 0.0, steps - 1).map(|i| i.round_ties_even() as usize).collect(),
        };
        Ok(levels(discrete, &indices))
    }
}

fn levels(discrete: &Discrete, indices: &[usize]) -> Vec<f64> {
    indices.iter().map(|&i| discrete.sigmas()[i]).collect()
}

/// `intervals + 1` points of a line from `from` to `to`; the first alone where there is no interval.
pub fn linear(from: f64, to: f64, intervals: usize) -> impl Iterator<Item = f64> {
    (0..=intervals).map(move |i| if i == 0 { from } else { from + (to - from) * (i as f64 / intervals as f64) })
}

/// How times between two ends are spaced (Lu et al. 2022a, Section 3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeRule {
    /// Uniform in t.
    Uniform,
    /// Uniform in the root of t.
    Quadratic,
    /// Uniform in the log-SNR.
    LogSnr,
}

impl TimeRule {
    /// `intervals + 1` times from `from` to `to`, both included (for the log-SNR up to the rounding of the schedule's inverse).
    pub fn times(self, schedule: &Schedule, from: f64, to: f64, intervals: usize) -> Vec<f64> {
        match self {
            Self::Uniform => linear(from, to, intervals).collect(),
            Self::Quadratic => linear(from.sqrt(), to.sqrt(), intervals).map(|r| r * r).collect(),
            Self::LogSnr => {
                let lambdas = linear(schedule.lambda(from), schedule.lambda(to), intervals);
                lambdas.map(|lambda| schedule.t((-lambda).exp())).collect()
            }
        }
    }

    /// The times at the ends of singlestep moves of the given orders: every `order`-th of the evenly spaced ones; for the log-SNR the
    /// moves themselves are evenly spaced.
    pub fn outer_times(self, schedule: &Schedule, (from, to): (f64, f64), orders: &[usize]) -> Vec<f64> {
        if self == Self::LogSnr {
            return self.times(schedule, from, to, orders.len());
        }
        let all = self.times(schedule, from, to, orders.iter().sum());
        let ends = orders.iter().scan(0, |end, order| {
            *end += order;
            Some(all[*end])
        });
        std::iter::once(from).chain(ends).collect()
    }
}

/// n levels from `high` to `low`, uniform in sigma^(1/rho) (Karras et al. 2022, Eq. 5), then 0. Errors unless n > 0 and 0 < low < high.
pub fn karras(n: usize, low: f64, high: f64, rho: f64) -> Result<Vec<f64>> {
    check_range(n, low, high)?;
    let levels = linear(high.powf(1.0 / rho), low.powf(1.0 / rho), n - 1).map(|u| u.powf(rho));
    Ok(levels.chain([0.0]).collect())
}

/// n levels from `high` to `low`, uniform in ln sigma (VE's grid, uniform in log-SNR), then 0. Errors as [`karras`].
pub fn exponential(n: usize, low: f64, high: f64) -> Result<Vec<f64>> {
    polyexponential(n, low, high, 1.0)
}

/// n levels, then 0: ln sigma is `ln low + u^rho (ln high - ln low)` with u from 1 to 0. Errors as [`karras`].
pub fn polyexponential(n: usize, low: f64, high: f64, rho: f64) -> Result<Vec<f64>> {
    check_range(n, low, high)?;
    let (a, b) = (low.ln(), high.ln());
    let levels = linear(1.0, 0.0, n - 1).map(|u| (a + u.powf(rho) * (b - a)).exp());
    Ok(levels.chain([0.0]).collect())
}

fn check_range(n: usize, low: f64, high: f64) -> Result<()> {
    if n > 0 && low > 0.0 && high > low && high.is_finite() {
        return Ok(());
    }
    Err(Error::Config(format!("grid: expected at least 1 step and 0 < low < high, got {n} steps from {high} to {low}")))
}

/// The beta_d and beta_min of the VP curve `sigma² = exp(beta_d t²/2 + beta_min t) - 1` through (epsilon, low) and (1, high)
/// (Karras et al. 2022, Appendix C.1).
pub fn vp_through(low: f64, high: f64, epsilon: f64) -> (f64, f64) {
    let (a, b) = ((low * low).ln_1p(), (high * high).ln_1p());
    let beta_d = 2.0 * (a / epsilon - b) / (epsilon - 1.0);
    (beta_d, b - 0.5 * beta_d)
}

/// Where EDM's VP grid ends in the time of its curve (Karras et al. 2022, Table 1).
const EPSILON: f64 = 1e-3;

/// n levels of the VP curve, uniform in t from 1 to `epsilon`.
pub fn vp(n: usize, beta_d: f64, beta_min: f64, epsilon: f64) -> Vec<f64> {
    let sigma = |t: f64| (0.5 * beta_d * t * t + beta_min * t).exp_m1().sqrt();
    linear(1.0, epsilon, n.saturating_sub(1)).map(sigma).collect()
}

/// The constants of the improved-DDPM grid (Karras et al. 2022, Table 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Iddpm {
    /// Smallest ratio of successive alpha_bar; 0.001.
    pub c_1: f64,
    /// The cosine's offset; 0.008.
    pub c_2: f64,
    /// Number of indices; 1000.
    pub m: usize,
}

impl Default for Iddpm {
    /// As published.
    fn default() -> Self {
        Self { c_1: 0.001, c_2: 0.008, m: 1000 }
    }
}

/// n of the improved-DDPM levels that lie in [low, high]. Errors if none does.
pub fn iddpm(n: usize, low: f64, high: f64, constants: Iddpm) -> Result<Vec<f64>> {
    let Iddpm { c_1, c_2, m } = constants;
    let alpha_bar = |j: usize| (std::f64::consts::FRAC_PI_2 * j as f64 / (m as f64 * (c_2 + 1.0))).sin().powi(2);
    let mut u = vec![0.0; m + 1];
    for j in (1..=m).rev() {
        u[j - 1] = ((u[j] * u[j] + 1.0) / (alpha_bar(j - 1) / alpha_bar(j)).max(c_1) - 1.0).sqrt();
    }
    u.retain(|s| (low..=high).contains(s));
    if u.is_empty() {
        return Err(Error::Config(format!("grid: no level of the iddpm grid lies in [{low}, {high}]")));
    }
    let pick = |at: f64| u[at.round_ties_even() as usize];
    Ok(linear(0.0, (u.len() - 1) as f64, n.saturating_sub(1)).map(pick).collect())
}

/// LDM's uniform DDIM indices, ascending: 1, 1 + c, ... with c = n div steps. There are more than `steps` where that does not divide n.
/// Errors if the last would be n.
pub fn ldm_uniform(steps: usize, n: usize) -> Result<Vec<usize>> {
    let stride = n.checked_div(steps).filter(|s| *s > 0);
    let Some(stride) = stride else {
        return Err(Error::Config(format!("grid: expected 1 to {n} steps, got {steps}")));
    };
    check_indices((0..n).step_by(stride).map(|i| i + 1).collect(), steps, n)
}

/// LDM's quadratic DDIM indices, ascending; the first repeat where `steps` is large.
pub fn ldm_quad(steps: usize, n: usize) -> Result<Vec<usize>> {
    let end = (0.8 * n as f64).sqrt();
    check_indices(linear(0.0, end, steps.saturating_sub(1)).map(|r| (r * r) as usize + 1).collect(), steps, n)
}

fn check_indices(indices: Vec<usize>, steps: usize, n: usize) -> Result<Vec<usize>> {
    if indices.last().is_some_and(|last| *last < n) {
        return Ok(indices);
    }
    Err(Error::Config(format!("grid: {steps} steps of {n} indices would need index {n}; take another number of steps")))
}

/// The multiples of n div steps, from the largest to 0, plus an offset.
pub fn leading(steps: usize, n: usize, offset: usize) -> Vec<f64> {
    (0..steps).rev().map(|i| (i * (n / steps) + offset) as f64).collect()
}

/// round(n - i n/steps) - 1, from n - 1 downward.
pub fn trailing(steps: usize, n: usize) -> Vec<f64> {
    let stride = n as f64 / steps as f64;
    (0..steps).map(|i| (n as f64 - i as f64 * stride).round_ties_even() - 1.0).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_grid_descends_to_zero() {
        let ldm: Schedule = "ldm".parse().unwrap();
        let range = ldm.sigma_range();
        for name in Grid::names() {
            let grid: Grid = name.parse().unwrap();
            assert_eq!(grid.to_string(), name);
            for steps in [1, 2, 20] {
                let sigmas = grid.sigmas(&ldm, steps, range).unwrap_or_default();
                if sigmas.is_empty() {
                    assert_eq!((name, steps), ("ldm-uniform", 1000));
                }
                assert_eq!(sigmas.len(), steps + 1, "{name}");
                assert!(sigmas.windows(2).all(|w| w[0] > w[1]), "{name}: {sigmas:?}");
                assert_eq!(sigmas[steps], 0.0);
            }
            assert!(grid.sigmas(&ldm, 0, range).is_err());
            assert!(grid.sigmas(&ldm, 5, (2.0, 1.0)).is_err());
        }
    }

    #[test]
    fn rules_over_a_range_keep_to_it() {
        for name in Grid::names() {
            let grid: Grid = name.parse().unwrap();
            let [high, low] = [3.0, 0.1];
            if grid.is_over_indices() || grid == Grid::Iddpm {
                continue;
            }
            let sigmas = grid.sigmas(&Schedule::vp(), 7, (low, high)).unwrap();
            assert!((sigmas[0] / high - 1.0).abs() < 1e-9 && (sigmas[6] / low - 1.0).abs() < 1e-9, "{name}: {sigmas:?}");
        }
    }

    #[test]
    fn an_exponent_belongs_to_two_of_them() {
        for text in ["karras:rho=5", "polyexponential:rho=0.5"] {
            assert_eq!(text.parse::<Grid>().unwrap().to_string(), text);
        }
        assert_eq!("exponential".parse::<Grid>().unwrap(), Grid::LogSnr);
        for wrong in ["karras:rho=x", "karras:rho=0", "log-snr:rho=3", "karas"] {
            assert!(wrong.parse::<Grid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn rules_over_indices_need_indices() {
        assert!(Grid::Trailing.sigmas(&Schedule::vp(), 10, (0.01, 80.0)).is_err());
        assert!(ldm_uniform(27, 1000).is_err() && ldm_uniform(2000, 1000).is_err());
    }

    #[test]
    fn vp_curve_goes_through_both_ends() {
        let (beta_d, beta_min) = vp_through(0.03, 60.0, 0.01);
        let sigmas = vp(5, beta_d, beta_min, 0.01);
        assert!((sigmas[0] - 60.0).abs() < 1e-9 && (sigmas[4] - 0.03).abs() < 1e-9);
    }
}
