//! The learning rate over images and steps, as a factor on the optimizer's rate.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One cycle of latent diffusion's schedules.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycle {
    /// Steps of warm-up, from the start of the cycle.
    pub warmup_steps: u64,
    /// Factor at the first step.
    pub start: f64,
    /// Factor at the end of the warm-up.
    pub max: f64,
    /// Factor at the end of the cycle.
    pub min: f64,
    /// Steps of the whole cycle.
    pub length_steps: u64,
}

/// A factor on the learning rate, as a function of the optimizer steps done and the images seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LrSchedule {
    /// Always 1.
    #[default]
    Constant,
    /// min(seen/warmup, 1): the ramp of Karras et al. 2022. 0 before the first image.
    Warmup {
        /// Images until the full rate.
        warmup_images: u64,
    },
    /// 1/sqrt(max(seen/reference, 1)) times a linear ramp (Karras et al. 2024, Eq. 67).
    InverseSqrt {
        /// Images after which the rate falls; 0: never.
        reference_images: f64,
        /// Images of the ramp; 0: none.
        warmup_images: f64,
    },
    /// A linear ramp, then half a cosine from 1 to `min` at `total_images`.
    Cosine {
        /// Images of the ramp.
        #[serde(default)]
        warmup_images: u64,
        /// Images until the end of the cosine.
        total_images: u64,
        /// Factor at the end and afterwards.
        #[serde(default)]
        min: f64,
    },
    /// Cycles that fall linearly over the whole length of the cycle, warm-up included (latent diffusion's default).
    LdmLinear {
        /// In order; a boundary belongs to the cycle that ends there. The last factor holds afterwards.
        cycles: Vec<Cycle>,
    },
    /// Cycles that fall as half a cosine after the warm-up (latent diffusion).
    LdmCosine {
        /// In order; a boundary belongs to the cycle that ends there. The last factor holds afterwards.
        cycles: Vec<Cycle>,
    },
}

impl LrSchedule {
    /// Checks every range.
    ///
    /// # Errors
    /// The first value out of its range, with its name.
    pub fn validate(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(format!("learning-rate schedule: {message}")));
        match self {
            Self::InverseSqrt { reference_images, warmup_images } if !(*reference_images >= 0.0 && *warmup_images >= 0.0) => {
                fail(format!("expected images of at least 0, got {reference_images} and {warmup_images}"))
            }
            Self::Cosine { warmup_images, total_images, .. } if warmup_images >= total_images => {
                fail(format!("`total_images`: expected above the warm-up's {warmup_images}, got {total_images}"))
            }
            Self::LdmLinear { cycles } | Self::LdmCosine { cycles } => match cycles.iter().find(|c| c.length_steps == 0) {
                _ if cycles.is_empty() => fail("`cycles`: expected at least one, got none".to_string()),
                Some(_) => fail("`length_steps`: expected at least 1, got 0".to_string()),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The factor for the step that follows `step` steps and `seen_images` images.
    pub fn multiplier(&self, step: u64, seen_images: u64) -> f64 {
        let seen = seen_images as f64;
        match self {
            Self::Constant => 1.0,
            Self::Warmup { warmup_images } => ramp(seen, (*warmup_images as f64).max(1e-8)),
            Self::InverseSqrt { reference_images, warmup_images } => {
                let fall = if *reference_images > 0.0 { (seen / reference_images).max(1.0).sqrt().recip() } else { 1.0 };
                if *warmup_images > 0.0 { fall * ramp(seen, *warmup_images) } else { fall }
            }
            Self::Cosine { warmup_images, total_images, min } => {
                let (warmup, total) = (*warmup_images as f64, *total_images as f64);
                if seen < warmup { seen / warmup } else { half_cosine(1.0, *min, (seen - warmup) / (total - warmup)) }
            }
            Self::LdmLinear { cycles } => {
                in_cycle(cycles, step, |c, m| c.min + (c.max - c.min) * (c.length_steps as f64 - m) / c.length_steps as f64)
            }
            Self::LdmCosine { cycles } => in_cycle(cycles, step, |c, m| {
                let warmup = c.warmup_steps as f64;
                half_cosine(c.max, c.min, (m - warmup) / (c.length_steps as f64 - warmup))
            }),
        }
    }
}

fn ramp(seen: f64, length: f64) -> f64 {
    (seen / length).min(1.0)
}

/// From `max` at 0 to `min` at 1 and beyond.
fn half_cosine(max: f64, min: f64, at: f64) -> f64 {
    min + 0.5 * (max - min) * (1.0 + (std::f64::consts::PI * at.min(1.0)).cos())
}

/// The factor of the cycle that `step` lies in: its warm-up, then `fall` at the steps since the cycle's start.
fn in_cycle(cycles: &[Cycle], step: u64, fall: impl Fn(&Cycle, f64) -> f64) -> f64 {
    let mut start = 0;
    for (i, cycle) in cycles.iter().enumerate() {
        let last = i + 1 == cycles.len();
        if step <= start + cycle.length_steps || last {
            let m = (step - start).min(cycle.length_steps);
            if m < cycle.warmup_steps {
                return cycle.start + (cycle.max - cycle.start) * m as f64 / cycle.warmup_steps as f64;
            }
            return fall(cycle, m as f64);
        }
        start += cycle.length_steps;
    }
    1.0
}
