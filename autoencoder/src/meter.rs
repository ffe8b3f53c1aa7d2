//! Means of what training steps report, between two lines of the log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Sums since the last line. Part of a checkpoint, so that a run that goes on writes the lines that it would have written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Meter {
    /// By name: sum and count.
    sums: BTreeMap<String, (f64, u64)>,
}

impl Meter {
    /// Adds one value of `name`.
    pub(crate) fn add(&mut self, name: &str, value: f64) {
        let (sum, count) = self.sums.entry(name.to_string()).or_default();
        *sum += value;
        *count += 1;
    }

    /// The mean of `name`, if there was a value.
    pub(crate) fn mean(&self, name: &str) -> Option<f64> {
        self.sums.get(name).map(|(sum, count)| sum / *count as f64)
    }

    /// A few words for a progress bar.
    pub(crate) fn message(&self) -> String {
        format!("loss {:.4}", self.mean("loss").unwrap_or(f64::NAN))
    }

    /// The means as a record; the sums begin anew.
    pub(crate) fn take(&mut self) -> serde_json::Map<String, Value> {
        std::mem::take(self).sums.into_iter().map(|(name, (sum, count))| (name, json!(sum / count as f64))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_over_the_steps_that_reported() {
        let mut meter = Meter::default();
        for (step, loss) in [1.0, 2.0, 6.0].into_iter().enumerate() {
            meter.add("loss", loss);
            if step == 2 {
                meter.add("adversarial", 5.0);
            }
        }
        assert_eq!((meter.mean("loss"), meter.mean("adversarial"), meter.mean("kl")), (Some(3.0), Some(5.0), None));
        assert_eq!(meter.message(), "loss 3.0000");
        assert_eq!(Value::from(meter.take()), json!({ "loss": 3.0, "adversarial": 5.0 }));
        assert_eq!(meter, Meter::default());
    }
}
