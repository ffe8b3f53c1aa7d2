//! Schedules of N discrete betas, and their continuation between the indices.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, schedule::SIGMA_CAP};

/// More betas than any model was trained with.
const MANY_STEPS: usize = 100_000;

/// How beta depends on the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BetaCurve {
    /// Linear in the square root of beta (Rombach et al. 2022; called `linear` there, `scaled_linear` elsewhere).
    #[default]
    ScaledLinear,
    /// Linear (Ho et al. 2020).
    Linear,
    /// The square root of a line.
    Sqrt,
    /// Cosine (Nichol & Dhariwal 2021), betas clipped at 0.999.
    Cosine,
}

/// What a [`Discrete`] schedule is made from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiscreteConfig {
    /// The curve of beta.
    pub curve: BetaCurve,
    /// Number of betas.
    pub steps: usize,
    /// First beta; not used by the cosine.
    pub beta_start: f64,
    /// Last beta; not used by the cosine.
    pub beta_end: f64,
    /// The offset s of the cosine; 0.008 in Nichol & Dhariwal 2021.
    pub cosine_s: f64,
    /// Rescale so that the last index holds no signal (Lin et al. 2024).
    pub zero_terminal_snr: bool,
}

impl Default for DiscreteConfig {
    /// The unconditional LDM models' 1000 steps from 0.0015 to 0.0195.
    fn default() -> Self {
        Self {
            curve: BetaCurve::ScaledLinear,
            steps: 1000,
            beta_start: 0.0015,
            beta_end: 0.0195,
            cosine_s: 0.008,
            zero_terminal_snr: false,
        }
    }
}

impl DiscreteConfig {
    /// The betas, in order of the index. Errors if they leave (0, 1) (the last may be 1 at zero terminal SNR).
    pub fn betas(&self) -> Result<Vec<f64>> {
        let n = self.steps;
        if !(2..=MANY_STEPS).contains(&n) {
            return Err(Error::Config(format!("schedule: `steps` expected 2 to {MANY_STEPS}, got {n}")));
        }
        let line = |a: f64, b: f64, i: usize| a + (b - a) * i as f64 / (n - 1) as f64;
        let cosine = |i: usize| {
            let u = (i as f64 / n as f64 + self.cosine_s) / (1.0 + self.cosine_s);
            (u * std::f64::consts::FRAC_PI_2).cos().powi(2)
        };
        let beta = |i: usize| match self.curve {
            BetaCurve::ScaledLinear => line(self.beta_start.sqrt(), self.beta_end.sqrt(), i).powi(2),
            BetaCurve::Linear => line(self.beta_start, self.beta_end, i),
            BetaCurve::Sqrt => line(self.beta_start, self.beta_end, i).sqrt(),
            BetaCurve::Cosine => (1.0 - cosine(i + 1) / cosine(i)).clamp(0.0, 0.999),
        };
        let betas: Vec<f64> = (0..n).map(beta).collect();
        if let Some(bad) = betas.iter().find(|b| !(**b > 0.0 && **b < 1.0)) {
            return Err(Error::Config(format!("schedule: expected every beta in (0, 1), got {bad} from {self:?}")));
        }
        Ok(if self.zero_terminal_snr { zero_terminal_snr(&betas) } else { betas })
    }
}

/// The running products of 1 - beta.
pub fn alphas_cumprod(betas: &[f64]) -> Vec<f64> {
    betas
        .iter()
        .scan(1.0, |product, beta| {
            *product *= 1.0 - beta;
            Some(*product)
        })
        .collect()
}

/// Betas shifted and stretched in sqrt(alpha_bar) so that the last index holds no signal (Lin et al. 2024, Algorithm 1).
pub fn zero_terminal_snr(betas: &[f64]) -> Vec<f64> {
    let root: Vec<f64> = alphas_cumprod(betas).iter().map(|a| a.sqrt()).collect();
    let (Some(&first), Some(&last)) = (root.first(), root.last()) else { return Vec::new() };
    let bar: Vec<f64> = root.iter().map(|r| ((r - last) * first / (first - last)).powi(2)).collect();
    (0..bar.len()).map(|i| 1.0 - if i == 0 { bar[0] } else { bar[i] / bar[i - 1] }).collect()
}

/// A table of alpha_bar with its continuation: t_i = (i + 1)/N, ln s = ln(alpha_bar)/2 linear in t between the
/// knots, and beyond them (Lu et al. 2022, Appendix D.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "DiscreteConfig", into = "DiscreteConfig")]
pub struct Discrete {
    config: DiscreteConfig,
    sigmas: Vec<f64>,
    log_s: Vec<f64>,
}

impl TryFrom<DiscreteConfig> for Discrete {
    type Error = Error;

    fn try_from(config: DiscreteConfig) -> Result<Self> {
        Self::new(config)
    }
}

impl From<Discrete> for DiscreteConfig {
    fn from(discrete: Discrete) -> Self {
        discrete.config
    }
}

impl Default for Discrete {
    fn default() -> Self {
        let config = DiscreteConfig::default();
        let beta = |i: usize| {
            let (a, b) = (config.beta_start.sqrt(), config.beta_end.sqrt());
            (a + (b - a) * i as f64 / (config.steps - 1) as f64).powi(2)
        };
        let betas: Vec<f64> = (0..config.steps).map(beta).collect();
        Self::from_alphas_cumprod(&alphas_cumprod(&betas))
    }
}

impl Discrete {
    /// The noise level of the index before that of `sigma`, and of that index itself; the first index counts as the second.
    pub fn step_before(&self, sigma: f64) -> (f64, f64) {
        let at = self.sigmas.partition_point(|s| *s < sigma * (1.0 - 1e-12)).clamp(1, self.sigmas.len() - 1);
        (self.sigmas[at - 1], self.sigmas[at])
    }

    /// The schedule of a configuration. Errors as [`DiscreteConfig::betas`].
    pub fn new(config: DiscreteConfig) -> Result<Self> {
        Ok(Self { config, ..Self::from_alphas_cumprod(&alphas_cumprod(&config.betas()?)) })
    }

    /// The schedule of a table of alpha_bar (a checkpoint's buffer), decreasing, in [0, 1). Its configuration, when written, is
    /// the default one: a table alone is not saved.
    pub fn from_alphas_cumprod(table: &[f64]) -> Self {
        let sigma = |a: &f64| ((1.0 - a) / a).sqrt().min(SIGMA_CAP);
        let sigmas: Vec<f64> = table.iter().map(sigma).collect();
        let log_s = sigmas.iter().map(|&s| -0.5 * (s * s).ln_1p()).collect();
        Self { config: DiscreteConfig::default(), sigmas, log_s }
    }

    /// The schedule without its noisiest indices, those with `-ln sigma` below `lambda`; t then runs over the rest (Lu et al. 2022
    /// clip at -5.1, which only the cosine curve reaches).
    #[must_use]
    pub fn clipped(&self, lambda: f64) -> Self {
        let keep = self.sigmas.iter().take_while(|s| -s.ln() >= lambda).count();
        Self { config: self.config, sigmas: self.sigmas[..keep].to_vec(), log_s: self.log_s[..keep].to_vec() }
    }

    /// Number of indices.
    pub fn len(&self) -> usize {
        self.sigmas.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sigmas.is_empty()
    }

    /// sigma of every index, ascending; [`SIGMA_CAP`] where no signal is left.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// sigma at time t, with t = (index + 1)/N.
    pub fn sigma(&self, t: f64) -> f64 {
        let log_s = line_through(t * self.len() as f64 - 1.0, &self.log_s);
        (-2.0 * log_s).exp_m1().max(0.0).sqrt().min(SIGMA_CAP)
    }

    /// The time at which sigma is reached.
    pub fn t(&self, sigma: f64) -> f64 {
        (self.label(sigma) + 1.0) / self.len() as f64
    }

    /// The index, fractional, at which sigma is reached by the continuation that is linear in ln s.
    pub fn label(&self, sigma: f64) -> f64 {
        let log_s = -0.5 * (sigma * sigma).ln_1p();
        let upper = self.log_s.partition_point(|&l| l > log_s).clamp(1, self.len() - 1);
        let (a, b) = (self.log_s[upper - 1], self.log_s[upper]);
        (upper - 1) as f64 + (log_s - a) / (b - a)
    }

    /// The index, fractional, that interpolates ln sigma, held at the ends of the table (Karras et al. 2022's discrete wrappers).
    pub fn index_of_log_sigma(&self, sigma: f64) -> f64 {
        let upper = self.sigmas.partition_point(|&s| s < sigma).clamp(1, self.len() - 1);
        let (a, b) = (self.sigmas[upper - 1].ln(), self.sigmas[upper].ln());
        (upper - 1) as f64 + ((sigma.ln() - a) / (b - a)).clamp(0.0, 1.0)
    }

    /// sigma at a fractional index, linear in sigma between the entries and held at the ends.
    pub fn sigma_at_index(&self, index: f64) -> f64 {
        line_through(index.clamp(0.0, (self.len() - 1) as f64), &self.sigmas)
    }

    /// alpha_bar at an index.
    pub fn alpha_bar(&self, index: usize) -> f64 {
        1.0 / (1.0 + self.sigmas[index] * self.sigmas[index])
    }
}

/// The piecewise line through (i, values[i]), its first and last pieces continued beyond the ends.
fn line_through(at: f64, values: &[f64]) -> f64 {
    let lower = (at.floor().max(0.0) as usize).min(values.len() - 2);
    let (a, b) = (values[lower], values[lower + 1]);
    a + (b - a) * (at - lower as f64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn knots_are_the_indices() {
        let discrete = Discrete::default();
        assert_eq!(discrete, Discrete::new(DiscreteConfig::default()).unwrap());
        for i in [0, 1, 500, 998, 999] {
            let sigma = discrete.sigmas()[i];
            assert!((discrete.label(sigma) - i as f64).abs() < 1e-7);
            assert!((discrete.index_of_log_sigma(sigma) - i as f64).abs() < 1e-7);
            assert!((discrete.sigma((i + 1) as f64 / 1000.0) / sigma - 1.0).abs() < 1e-10);
        }
    }

    #[test]
    fn zero_terminal_snr_ends_without_signal() {
        let config = DiscreteConfig { zero_terminal_snr: true, ..Default::default() };
        let betas = config.betas().unwrap();
        assert_eq!(betas[999], 1.0);
        let discrete = Discrete::new(config).unwrap();
        assert_eq!(discrete.sigmas()[999], SIGMA_CAP);
        assert!((discrete.label(SIGMA_CAP) - 999.0).abs() < 1e-9);
    }

    #[test]
    fn impossible_betas_are_refused() {
        assert!(DiscreteConfig { beta_end: 1.5, ..Default::default() }.betas().is_err());
        assert!(DiscreteConfig { steps: 1, ..Default::default() }.betas().is_err());
    }
}
