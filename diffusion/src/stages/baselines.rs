//! Divisions that do not look at the data: the comparisons of the paper's Table 4.

use super::partition::{Partition, by_value};
use crate::{Error, Result, schedule::Schedule};

/// `count` intervals of equal width in [0, 1]: their `count + 1` ends.
pub fn uniform(count: usize) -> Vec<f64> {
    (0..=count).map(|j| j as f64 / count as f64).collect()
}

/// Which interval of `boundaries` (ascending, both ends included) `value` lies in. An interval holds its lower end, the last one
/// its upper end too; a value beyond the ends belongs to the nearest interval.
pub fn interval_of(boundaries: &[f64], value: f64) -> usize {
    boundaries.partition_point(|&b| b <= value).saturating_sub(1).min(boundaries.len().saturating_sub(2))
}

/// log-SNR = -2 ln sigma at each `t`.
pub fn log_snr(schedule: &Schedule, ts: &[f64]) -> Vec<f64> {
    ts.iter().map(|&t| 2.0 * schedule.lambda(t)).collect()
}

/// `count` intervals of equal width in log-SNR between two times: (log-SNR, t) of their `count + 1` ends, ascending in t.
/// Errors if the range is empty or one of its ends has no finite log-SNR.
pub fn uniform_in_log_snr(schedule: &Schedule, count: usize, (t_min, t_max): (f64, f64)) -> Result<(Vec<f64>, Vec<f64>)> {
    let ends = log_snr(schedule, &[t_min, t_max]);
    if count == 0 || t_min >= t_max || ends.iter().any(|l| !l.is_finite()) {
        return Err(Error::Config(format!(
            "{count} stages of equal log-SNR between t = {t_min} and {t_max}: expected a finite range"
        )));
    }
    let levels: Vec<f64> = uniform(count).iter().map(|u| ends[0] + u * (ends[1] - ends[0])).collect();
    let mut ts: Vec<f64> = levels.iter().map(|l| schedule.t((-0.5 * l).exp())).collect();
    (ts[0], ts[count]) = (t_min, t_max);
    Ok((levels, ts))
}

/// Blocks of the grid `ts` whose log-SNR is close to their centre's (Go et al. 2023). Errors as
/// [`balanced`](super::partition::balanced).
pub fn by_log_snr(schedule: &Schedule, ts: &[f64], count: usize) -> Result<Partition> {
    by_value(&log_snr(schedule, ts), count)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_an_interval() {
        let b = uniform(4);
        let got: Vec<usize> = [-1.0, 0.0, 0.2499, 0.25, 0.99, 1.0, 2.0].iter().map(|&v| interval_of(&b, v)).collect();
        assert_eq!(got, [0, 0, 0, 1, 3, 3, 3]);
    }

    #[test]
    fn equal_steps_of_log_snr_are_equal_ratios_of_sigma() {
        let schedule = Schedule::vp();
        let (_, ts) = uniform_in_log_snr(&schedule, 3, (1e-3, 1.0)).unwrap();
        let s: Vec<f64> = ts.iter().map(|&t| schedule.sigma(t)).collect();
        assert!((s[1] / s[0] / (s[2] / s[1]) - 1.0).abs() < 1e-9 && (s[2] / s[1] / (s[3] / s[2]) - 1.0).abs() < 1e-9);
        assert!(uniform_in_log_snr(&schedule, 3, (0.0, 1.0)).is_err());
    }

    #[test]
    fn the_papers_boundaries_in_sigma() {
        let schedule = Schedule::vp();
        assert!((schedule.sigma(0.442) - 2.5103).abs() < 1e-4, "{}", schedule.sigma(0.442));
        assert!((schedule.sigma(0.6308) - 7.405).abs() < 1e-3, "{}", schedule.sigma(0.6308));
        assert!((schedule.t(2.5103) - 0.442).abs() < 1e-5 && (schedule.t(7.405) - 0.6308).abs() < 1e-5);
    }
}
