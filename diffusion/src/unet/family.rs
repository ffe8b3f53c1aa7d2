//! The rules in which the published networks differ and which have no setting of their own.

use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::{Conv2d, GroupNorm, Linear},
    ops::Conv2dConfig,
    params::{Init, Scope},
};

use super::{
    config::{Heads, UNetConfig},
    plan::Mixing,
};
use crate::Result;

/// Whose rules a network follows. Widths, levels, attention, resampling and the rest are settings in every family.
///
/// | | `ldm` | `song` | `adm` | `ncsnpp` |
/// |---|---|---|---|---|
/// | source | Rombach et al. 2022 | Karras et al. 2022, DDPM++ and NCSN++ | Karras et al. 2022, ADM | Song et al. 2021 |
/// | groups of a norm | `groups` | at most `groups`, 4 channels or more each | as `song` | as `song` |
/// | epsilon of a norm | 1e-5 | 1e-6 | 1e-5 | 1e-6 |
/// | two blocks at the lowest level | shared | one pair per decoder | one pair per decoder | shared |
/// | attention in a decoder's level | after every block | after the last | after every block | after the last |
/// | vector of the condition joins | the embedding | the waves | the embedding | the embedding |
///
/// `diffusers` is as `ldm` in all of these but what [`Details`](super::Details) says, and its first convolution is as wide as level 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Latent diffusion, and the ADM of Dhariwal & Nichol 2021 that it comes from.
    #[default]
    Ldm,
    /// `SongUNet` and `MultistageUNet` of EDM.
    Song,
    /// `DhariwalUNet` of EDM.
    Adm,
    /// NCSN++ and DDPM++ of score-SDE.
    Ncsnpp,
    /// `UNet2DModel` and `UNet2DConditionModel` of diffusers.
    Diffusers,
}

/// Channels that a group of a norm has at least, outside latent diffusion.
const GROUP_CHANNELS: usize = 4;

impl Family {
    /// Epsilon of the norms, those of the spatial transformer excepted.
    pub(crate) fn eps(self) -> f64 {
        match self {
            Self::Ldm | Self::Adm | Self::Diffusers => 1e-5,
            Self::Song | Self::Ncsnpp => 1e-6,
        }
    }

    /// Groups of a norm over `channels`.
    pub(crate) fn groups(self, groups: usize, channels: usize) -> usize {
        match self {
            Self::Ldm | Self::Diffusers => groups,
            Self::Song | Self::Adm | Self::Ncsnpp => groups.min(channels / GROUP_CHANNELS),
        }
    }

    /// What is taken from half the number of waves before the exponents are divided by it.
    pub(crate) fn wave_shift(self) -> f64 {
        match self {
            Self::Ldm | Self::Adm | Self::Diffusers => 0.0,
            Self::Song | Self::Ncsnpp => 1.0,
        }
    }

    /// Whether the sines come before the cosines.
    pub(crate) fn sines_first(self) -> bool {
        matches!(self, Self::Song | Self::Ncsnpp)
    }

    /// Whether the vector of the condition is added to the waves, not to the embedding.
    pub(crate) fn vector_joins_waves(self) -> bool {
        self == Self::Song
    }

    /// Whether each decoder has the two blocks at the lowest level for itself.
    pub(crate) fn middle_in_decoder(self) -> bool {
        matches!(self, Self::Song | Self::Adm)
    }

    /// Whether only the last block of a decoder's level is followed by attention.
    pub(crate) fn attends_last(self) -> bool {
        matches!(self, Self::Song | Self::Ncsnpp)
    }

    /// Whether a block that resamples has a map in its skip even if the channels stay.
    pub(crate) fn maps_resampled_skip(self) -> bool {
        matches!(self, Self::Song | Self::Ncsnpp)
    }

    fn init(self) -> Init {
        match self {
            Self::Ldm | Self::Adm | Self::Diffusers => Init::FanIn,
            Self::Song | Self::Ncsnpp => Init::Xavier { scale: 1.0 },
        }
    }

    /// Of layers that begin at, or next to, nothing.
    fn last_init(self) -> Init {
        match self {
            Self::Ldm | Self::Adm | Self::Diffusers => Init::ZEROS,
            Self::Song | Self::Ncsnpp => Init::Xavier { scale: 1e-5 },
        }
    }

    /// Of queries, keys and values as one matrix of 3 C rows. In NCSN++ each of the three has 0.1 of the variance of a square
    /// matrix, which is 0.2 of the variance of this one.
    fn qkv_init(self) -> Init {
        match self {
            Self::Ldm | Self::Adm | Self::Diffusers => Init::FanIn,
            Self::Song | Self::Ncsnpp => Init::Xavier { scale: 0.2f64.sqrt() },
        }
    }

    /// Trailing dimensions of 1 that the maps of attention have in checkpoints.
    fn attention_trailing(self) -> usize {
        match self {
            Self::Ldm => 1,
            Self::Diffusers => 0,
            Self::Song | Self::Adm | Self::Ncsnpp => 2,
        }
    }
}

/// The layers that all parts are made of.
impl UNetConfig {
    pub(super) fn norm(&self, scope: &Scope, channels: usize) -> Result<GroupNorm> {
        Ok(GroupNorm::new(scope, channels, self.family.groups(self.groups, channels), self.eps())?)
    }

    pub(super) fn conv3(&self, scope: &Scope, c_in: usize, c_out: usize) -> Result<Conv2d> {
        Ok(Conv2d::with(scope, [c_in, c_out, 3], Conv2dConfig::same(3), self.family.init())?)
    }

    /// A convolution that a residual branch or a decoder ends with.
    pub(super) fn last_conv3(&self, scope: &Scope, c_in: usize, c_out: usize) -> Result<Conv2d> {
        Ok(Conv2d::with(scope, [c_in, c_out, 3], Conv2dConfig::same(3), self.last_init())?)
    }

    /// A convolution of any stride and padding, `[c_in, c_out, kernel]`.
    pub(super) fn conv(&self, scope: &Scope, shape: [usize; 3], config: Conv2dConfig) -> Result<Conv2d> {
        Ok(Conv2d::with(scope, shape, config, self.family.init())?)
    }

    pub(super) fn linear(&self, scope: &Scope, n_in: usize, n_out: usize) -> Result<Linear> {
        Ok(Linear::with(scope, n_in, n_out, self.family.init())?)
    }

    /// A 1×1 convolution.
    pub(super) fn pointwise(&self, scope: &Scope, n_in: usize, n_out: usize) -> Result<Linear> {
        Ok(Linear::pointwise(scope, n_in, n_out, 2, self.family.init())?)
    }

    /// The maps of self-attention: into queries, keys and values, and out.
    pub(super) fn attention_maps(&self, scope: &Scope, c: usize) -> Result<[Linear; 2]> {
        let trailing = self.family.attention_trailing();
        let map = |name: &str, n_out: usize, init: Init| Linear::pointwise(&scope.pp(name), c, n_out, trailing, init);
        Ok([map("qkv", 3 * c, self.family.qkv_init())?, map("out", c, self.last_init())?])
    }

    pub(super) fn last_init(&self) -> Init {
        if self.zero_init { self.family.last_init() } else { self.family.init() }
    }

    /// Channels of the first convolution.
    pub(crate) fn first_channels(&self) -> usize {
        match self.family {
            Family::Adm | Family::Diffusers => self.width * self.multipliers.first().copied().unwrap_or(1),
            Family::Ldm | Family::Song | Family::Ncsnpp => self.width,
        }
    }

    /// Attention over `channels` at `level` where it is placed; `None` where blocks so narrow have none.
    pub(crate) fn mixer(&self, heads: Heads, channels: usize, level: usize) -> Option<Mixing> {
        match self.heads_at(level, heads) {
            Heads::AtLeast(width) if channels < width => None,
            heads => Some(Mixing { heads, norm: true }),
        }
    }
}
