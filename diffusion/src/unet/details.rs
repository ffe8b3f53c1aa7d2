//! What a network settles for itself where its family has a rule.

use serde::{Deserialize, Serialize};

use super::{
    config::{Heads, Resample, UNetConfig},
    plan::Direction,
};

/// Departures from the rules of the family. The networks of diffusers, whose configurations name each of them, are the family
/// `diffusers`; the defaults are those of its `UNet2DConditionModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Details {
    /// Epsilon of the norms, those of the spatial transformer excepted.
    pub eps: f64,
    /// What is taken from half the number of waves before the exponents are divided by it.
    pub wave_shift: f64,
    /// Whether the sines come before the cosines.
    pub sines_first: bool,
    /// A convolution that halves is padded at the right and below alone.
    pub pad_right_below: bool,
    /// How each level but the last is halved; empty: as `resample` says.
    pub down: Vec<Resample>,
    /// How the level below each but the last is doubled; empty: as `resample` says.
    pub up: Vec<Resample>,
    /// Number of heads at each level; empty: as `heads` says.
    pub heads: Vec<usize>,
    /// Attention between the two blocks at the lowest level.
    pub middle_attention: bool,
    /// A norm before that attention.
    pub middle_norm: bool,
    /// The maps into and out of a spatial transformer are matrices in the checkpoint, not 1×1 convolutions.
    pub linear_projection: bool,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            eps: 1e-5,
            wave_shift: 0.0,
            sines_first: false,
            pad_right_below: false,
            down: Vec::new(),
            up: Vec::new(),
            heads: Vec::new(),
            middle_attention: true,
            middle_norm: true,
            linear_projection: false,
        }
    }
}

impl Details {
    /// What cannot be built with `levels` levels.
    pub(super) fn problems(&self, levels: usize) -> Vec<String> {
        let changes = levels.saturating_sub(1);
        let lists = [("down", self.down.len(), changes), ("up", self.up.len(), changes), ("heads", self.heads.len(), levels)];
        let wrong = lists.iter().filter(|(_, got, expected)| *got != 0 && got != expected);
        let mut problems: Vec<String> = wrong
            .map(|(name, got, expected)| format!("`details.{name}`: expected {expected} values for {levels} levels, got {got}"))
            .collect();
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            problems.push(format!("`details.eps`: expected a number above 0, got {}", self.eps));
        }
        if !self.wave_shift.is_finite() {
            problems.push(format!("`details.wave_shift`: expected a number, got {}", self.wave_shift));
        }
        problems
    }
}

/// What holds for a network: its own word, else its family's.
impl UNetConfig {
    pub(super) fn eps(&self) -> f64 {
        self.details.as_ref().map_or(self.family.eps(), |d| d.eps)
    }

    pub(super) fn wave_shift(&self) -> f64 {
        self.details.as_ref().map_or(self.family.wave_shift(), |d| d.wave_shift)
    }

    pub(super) fn sines_first(&self) -> bool {
        self.details.as_ref().map_or(self.family.sines_first(), |d| d.sines_first)
    }

    pub(super) fn pads_right_below(&self) -> bool {
        self.details.as_ref().is_some_and(|d| d.pad_right_below)
    }

    pub(super) fn middle_norm(&self) -> bool {
        self.details.as_ref().is_none_or(|d| d.middle_norm)
    }

    /// Trailing dimensions of 1 that the maps around a spatial transformer have in checkpoints.
    pub(super) fn projection_trailing(&self) -> usize {
        if self.details.as_ref().is_some_and(|d| d.linear_projection) { 0 } else { 2 }
    }

    /// How the resolution changes on arrival at `level`.
    pub(crate) fn resample_to(&self, level: usize, direction: Direction) -> Resample {
        let own = self.details.as_ref().and_then(|d| match direction {
            Direction::Down => d.down.get(level.checked_sub(1)?),
            Direction::Up => d.up.get(level),
        });
        own.copied().unwrap_or(self.resample)
    }

    /// The heads at `level`, where `heads` is what is said for all.
    pub(super) fn heads_at(&self, level: usize, heads: Heads) -> Heads {
        let own = self.details.as_ref().and_then(|d| d.heads.get(level));
        own.map_or(heads, |&count| Heads::Count(count))
    }

    /// Whether there is attention between the two blocks at the lowest level.
    pub(super) fn middle_attends(&self) -> bool {
        self.details.as_ref().is_none_or(|d| d.middle_attention)
    }
}
