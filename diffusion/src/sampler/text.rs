//! Samplers as text: a name, and where it has settings, `name:key=value,key=value`.

use std::{fmt, str::FromStr};

use super::{
    choice::{NAMED, Sampler},
    edm::Churn,
    predictor_corrector::PredictorCorrector,
    restart::Restart,
};
use crate::{Error, Result};

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, settings) = text.split_once(':').unwrap_or((text, ""));
        let Some((_, sampler)) = NAMED.iter().find(|(n, _)| *n == name) else {
            let nearest = NAMED.iter().map(|(n, _)| *n).min_by_key(|n| edit_distance(n, name)).unwrap_or_default();
            let all = Self::names().join(", ");
            return Err(Error::Config(format!("unknown sampler `{name}`, did you mean `{nearest}`? known: {all}")));
        };
        let mut sampler = *sampler;
        for item in settings.split(',').filter(|item| !item.is_empty()) {
            set(&mut sampler, name, item)?;
        }
        Ok(sampler)
    }
}

/// Sets one `key=value`.
fn set(sampler: &mut Sampler, name: &str, item: &str) -> Result<()> {
    let (key, value) = item.split_once('=').unwrap_or((item, ""));
    let mut settings = sampler.settings();
    let known: Vec<&str> = settings.iter().map(|(k, _)| *k).collect();
    let Some((_, slot)) = settings.iter_mut().find(|(k, _)| *k == key.trim()) else {
        let known = if known.is_empty() { "no settings".to_owned() } else { known.join(", ") };
        return Err(Error::Config(format!("sampler `{name}`: unknown setting `{key}`; it has {known}")));
    };
    if slot.set(value.trim()) {
        return Ok(());
    }
    let expected = slot.expected();
    Err(Error::Config(format!("sampler `{name}`: `{key}` expected {expected}, got `{value}`")))
}

/// A setting in its place.
enum Slot<'a> {
    Number(&'a mut f64),
    Count(&'a mut usize),
}

impl Slot<'_> {
    fn get(&self) -> f64 {
        match self {
            Self::Number(value) => **value,
            Self::Count(value) => **value as f64,
        }
    }

    /// Whether the text is a value for it.
    fn set(&mut self, text: &str) -> bool {
        match self {
            Self::Number(slot) => text.parse().ok().filter(|v| *v >= 0.0).map(|v| **slot = v),
            Self::Count(slot) => text.parse().ok().map(|v| **slot = v),
        }
        .is_some()
    }

    fn expected(&self) -> &'static str {
        match self {
            Self::Number(_) => "a number of at least 0",
            Self::Count(_) => "a whole number",
        }
    }
}

impl Sampler {
    /// The settings that may follow the name.
    fn settings(&mut self) -> Vec<(&'static str, Slot<'_>)> {
        use Slot::{Count, Number};
        match self {
            Self::Ddim { eta } | Self::EulerAncestral { eta } | Self::Dpm2 { eta } => vec![("eta", Number(eta))],
            Self::Ddpm { beta_share } => vec![("beta_share", Number(beta_share))],
            Self::Adaptive { atol, rtol, .. } => vec![("atol", Number(atol)), ("rtol", Number(rtol))],
            Self::Edm(churn) => churn_settings(churn),
            Self::EdmGeneral { alpha, churn } => {
                let mut settings = churn_settings(churn);
                settings.insert(0, ("alpha", Number(alpha)));
                settings
            }
            Self::Restart(Restart { count, low, high, steps }) => {
                vec![("count", Count(count)), ("low", Number(low)), ("high", Number(high)), ("steps", Count(steps))]
            }
            Self::PredictorCorrector(PredictorCorrector { snr, corrections, .. }) => {
                vec![("snr", Number(snr)), ("corrections", Count(corrections))]
            }
            _ => Vec::new(),
        }
    }
}

fn churn_settings(churn: &mut Churn) -> Vec<(&'static str, Slot<'_>)> {
    let Churn { s_churn, s_min, s_max, s_noise } = churn;
    [("s_churn", s_churn), ("s_min", s_min), ("s_max", s_max), ("s_noise", s_noise)]
        .map(|(name, value)| (name, Slot::Number(value)))
        .into()
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = NAMED.iter().find(|(_, sampler)| sampler == self) {
            return f.write_str(name);
        }
        let mut own = *self;
        let values: Vec<(&str, f64)> = own.settings().into_iter().map(|(k, slot)| (k, slot.get())).collect();
        for (name, sampler) in NAMED {
            let mut with_own = sampler;
            let defaults: Vec<f64> = with_own.settings().iter().map(|(_, slot)| slot.get()).collect();
            with_own.settings().iter_mut().zip(&values).for_each(|((_, slot), (_, value))| {
                slot.set(&value.to_string());
            });
            if with_own != *self {
                continue;
            }
            let differing: Vec<String> =
                values.iter().zip(defaults).filter(|((_, v), d)| v != d).map(|((k, v), _)| format!("{k}={v}")).collect();
            let colon = if differing.is_empty() { "" } else { ":" };
            return write!(f, "{name}{colon}{}", differing.join(","));
        }
        write!(f, "{self:?}")
    }
}

impl TryFrom<String> for Sampler {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Sampler> for String {
    fn from(sampler: Sampler) -> Self {
        sampler.to_string()
    }
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in Sampler::names() {
            assert_eq!(name.parse::<Sampler>().unwrap().to_string(), name);
        }
        for text in [
            "ddim:eta=0.5",
            "edm:s_churn=40,s_noise=1.003",
            "edm-general:alpha=0.5,s_churn=10",
            "restart:count=3,high=1.5",
            "pc-ancestral:snr=0.1,corrections=2",
        ] {
            assert_eq!(text.parse::<Sampler>().unwrap().to_string(), text);
        }
        assert_eq!(Sampler::default().to_string(), Sampler::names()[0]);
    }

    #[test]
    fn errors_name_the_nearest() {
        let message = |text: &str| text.parse::<Sampler>().unwrap_err().to_string();
        assert!(message("dpmp-2m").contains("did you mean `dpmpp-2m`?"));
        assert!(message("ddim:etta=1").contains("unknown setting `etta`; it has eta"));
        assert!(message("ddim:eta=x").contains("expected a number"));
        assert!(message("restart:count=1.5").contains("a whole number"));
        assert!(message("euler:eta=1").contains("no settings"));
    }
}
