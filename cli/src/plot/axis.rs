//! An axis: which part of the numbers it shows, and where its ticks are.

/// Range of a plot in one direction, linear or logarithmic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// Around all `values` that can be shown, a little wider; nothing when there is none. A logarithmic axis shows numbers above 0.
    pub fn around(values: impl Iterator<Item = f64>, log: bool, room: f64) -> Option<Self> {
        let mut range: Option<(f64, f64)> = None;
        for v in values.filter(|v| v.is_finite() && (!log || *v > 0.0)).map(|v| if log { v.log10() } else { v }) {
            range = Some(range.map_or((v, v), |(low, high)| (low.min(v), high.max(v))));
        }
        let (low, high) = range?;
        let width = high - low;
        let extra = if width > 0.0 { width * room } else { low.abs().max(1.0) * 0.05 };
        Some(Self { low: low - extra, high: high + extra, log })
    }

    /// Where `v` is between the axis' ends: 0 to 1; nothing where it cannot be shown.
    pub fn place(&self, v: f64) -> Option<f64> {
        let at = if self.log { v.log10() } else { v };
        let place = (at - self.low) / (self.high - self.low);
        (at.is_finite() && (-1e-9..=1.0 + 1e-9).contains(&place)).then_some(place)
    }

    /// Places and labels of about `n` ticks.
    pub fn ticks(&self, n: usize) -> Vec<(f64, String)> {
        let values = if self.log { self.decades(n) } else { self.round_numbers(n) };
        values.into_iter().filter_map(|v| Some((self.place(v)?, number(v)))).collect()
    }

    /// Multiples of 1, 2 or 5 times a power of ten.
    fn round_numbers(&self, n: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / n.max(1) as f64;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough).unwrap_or(10.0 * power);
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|k| k as f64 * step).collect()
    }

    /// Powers of ten, every k-th when there are many; with 2 and 5 between them, or round numbers, when there are few.
    fn decades(&self, n: usize) -> Vec<f64> {
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        let shown = |v: &f64| self.place(*v).is_some();
        let every = usize::try_from(last - first).unwrap_or(1).div_ceil(n.max(1)).max(1);
        let powers: Vec<f64> = (first..=last).step_by(every).map(|k| 10f64.powi(k)).filter(shown).collect();
        if powers.len() >= 4 {
            return powers;
        }
        let finer: Vec<f64> = (first..=last).flat_map(|k| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(k))).filter(shown).collect();
        if finer.len() >= 3 {
            return finer;
        }
        Self { low: 10f64.powf(self.low), high: 10f64.powf(self.high), log: false }.round_numbers(n)
    }
}

/// A number in few letters: 0.002, 12.5, 40k, 3M, 1e-6.
pub fn number(v: f64) -> String {
    let plain = |v: f64| {
        let text = format!("{v:.4}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        if text == "-0" { "0".to_string() } else { text.to_string() }
    };
    match v.abs() {
        0.0 => "0".to_string(),
        a if a < 0.999e-3 => format!("{v:.0e}"),
        a if a < 0.9999e4 => plain(v),
        a if a < 0.9999e6 => format!("{}k", plain(v / 1e3)),
        a if a < 0.9999e9 => format!("{}M", plain(v / 1e6)),
        _ => format!("{v:.0e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Option<Axis>) -> Vec<String> {
        axis.map(|a| a.ticks(6).into_iter().map(|(_, label)| label).collect()).unwrap_or_default()
    }

    #[test]
    fn linear_ticks_are_round() {
        let axis = Axis::around([0.0, 43_000.0].into_iter(), false, 0.0);
        assert_eq!(labels(axis), ["0", "10k", "20k", "30k", "40k"]);
        assert_eq!(axis.and_then(|a| a.place(21_500.0)), Some(0.5));
        assert_eq!(labels(Axis::around([-0.3, 0.3].into_iter(), false, 0.0)), ["-0.2", "-0.1", "0", "0.1", "0.2"]);
    }

    #[test]
    fn logarithmic_ticks_are_powers_or_near_them() {
        assert_eq!(labels(Axis::around([0.002, 80.0].into_iter(), true, 0.0)), ["0.01", "0.1", "1", "10"]);
        assert_eq!(labels(Axis::around([0.1, 2.0].into_iter(), true, 0.0)), ["0.1", "0.2", "0.5", "1", "2"]);
        assert!(labels(Axis::around([0.31, 0.38].into_iter(), true, 0.0)).len() >= 3);
        assert!(labels(Axis::around([1e-12, 1e12].into_iter(), true, 0.0)).len() <= 8);
    }

    #[test]
    fn what_cannot_be_shown_has_no_place() {
        let axis = Axis::around([f64::NAN, -1.0, 0.0, 1.0, 10.0, f64::INFINITY].into_iter(), true, 0.0);
        assert_eq!(
            axis.map(|a| [1.0, 10.0, 0.0, -1.0, f64::NAN, 11.0].map(|v| a.place(v))),
            Some([Some(0.0), Some(1.0), None, None, None, None])
        );
        assert_eq!(Axis::around([f64::NAN].into_iter(), false, 0.0), None);
        assert!(labels(Axis::around([3.0].into_iter(), false, 0.1)).len() >= 2, "one value is a range too");
    }
}
