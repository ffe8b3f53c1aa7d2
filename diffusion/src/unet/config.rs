//! What a U-Net is built from, and what cannot be built.

use serde::{Deserialize, Serialize};

use super::{details::Details, family::Family};
use crate::{Error, Result};

/// Configuration of a U-Net with one decoder per stage (Zhang, Lu et al. 2024). Level 0 is the full resolution; each further level
/// halves it. One decoder is the published original of its family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Whose rules it follows where the published networks differ.
    pub family: Family,
    /// Side of the samples that it is meant for; costs are shown for it. Samples of other sizes work as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Channels of the input, those of `Condition::concat` included.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the encoder at level 0. Even.
    pub width: usize,
    /// How the noise level becomes a vector of waves.
    pub waves: Waves,
    /// Waves for each of `width`.
    pub wave_multiplier: usize,
    /// Channels of the embedding of the noise level for each of `width`.
    pub embedding_multiplier: usize,
    /// Factor on the width at each level; as many as there are levels.
    pub multipliers: Vec<usize>,
    /// Residual blocks per level of the encoder; a decoder has one more.
    pub blocks: usize,
    /// Levels of the encoder whose blocks are followed by attention. The middle always has it.
    pub attention: Vec<usize>,
    /// How channels are divided into attention heads.
    pub heads: Heads,
    /// Spatial transformers with cross attention to `Condition::context` in place of attention.
    pub transformer: Option<TransformerConfig>,
    /// The embedding scales and shifts the second norm's output instead of being added before it.
    pub scale_shift: bool,
    /// The sum of a block's two branches is divided by sqrt(2).
    pub rescale: bool,
    /// How the resolution changes between levels.
    pub resample: Resample,
    /// Taps of the filter that halves and doubles inside blocks and pyramids; [1, 1] is the mean and the nearest neighbour.
    pub filter: Vec<f64>,
    /// How the input joins the encoder's lower levels.
    pub input_pyramid: InputPyramid,
    /// Every level of a decoder adds to the image that is its answer.
    pub output_pyramid: bool,
    /// Classes that the network itself embeds (see `UNet::embed_classes`).
    pub classes: Option<usize>,
    /// Numbers that describe an augmentation, embedded from `Condition::augment`.
    pub augment: Option<usize>,
    /// Width of `Condition::vector` where it is not [`UNetConfig::vector_width`]: it is then projected.
    pub condition_width: Option<usize>,
    /// Size of a codebook whose logits are the output, instead of `out_channels` channels.
    pub codebook: Option<usize>,
    /// Probability that an activation before a block's second convolution is dropped in training.
    pub dropout: f64,
    /// Groups of the group norms; 32 as published, fewer for narrow networks (see [`Family`]).
    pub groups: usize,
    /// Blocks begin as the identity and the output at zero, as published.
    pub zero_init: bool,
    /// What it settles for itself where its family has a rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// One decoder per stage, stage 1 (nearest the data) first.
    pub decoders: Vec<DecoderConfig>,
}

impl Default for UNetConfig {
    /// The published celebahq256 network of latent diffusion.
    fn default() -> Self {
        Self {
            family: Family::Ldm,
            size: None,
            in_channels: 3,
            out_channels: 3,
            width: 224,
            waves: Waves::Sinusoidal,
            wave_multiplier: 1,
            embedding_multiplier: 4,
            multipliers: vec![1, 2, 3, 4],
            blocks: 2,
            attention: vec![1, 2, 3],
            heads: Heads::Width(32),
            transformer: None,
            scale_shift: false,
            rescale: false,
            resample: Resample::Convolution,
            filter: vec![1.0, 1.0],
            input_pyramid: InputPyramid::None,
            output_pyramid: false,
            classes: None,
            augment: None,
            condition_width: None,
            codebook: None,
            dropout: 0.0,
            groups: 32,
            zero_init: true,
            details: None,
            decoders: vec![DecoderConfig { width: 224, attention: vec![1, 2, 3], heads: None }],
        }
    }
}

/// One decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels at level 0.
    pub width: usize,
    /// Levels whose blocks are followed by attention.
    #[serde(default)]
    pub attention: Vec<usize>,
    /// Heads, where they differ from the encoder's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<Heads>,
}

/// How channels are divided into attention heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heads {
    /// This many heads, whatever the channels.
    Count(usize),
    /// Heads of this many channels.
    Width(usize),
    /// As many heads of this many channels or more as there can be; none where there are fewer channels.
    AtLeast(usize),
}

impl Heads {
    /// Number of heads at `channels`; `None` if they cannot be divided.
    pub fn count(self, channels: usize) -> Option<usize> {
        let divide = |n: usize| (n > 0 && channels.is_multiple_of(n)).then(|| channels / n);
        match self {
            Self::Count(n) => divide(n).map(|_| n),
            Self::Width(d) => divide(d),
            Self::AtLeast(d) => channels.checked_div(d).filter(|&n| divide(n).is_some()),
        }
    }
}

/// Spatial transformer (Rombach et al. 2022).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// Transformer blocks in each.
    #[serde(default = "one")]
    pub depth: usize,
    /// Width of the context `[B, T, width]`.
    pub context_width: usize,
}

fn one() -> usize {
    1
}

/// How the noise level becomes a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waves {
    /// Cosines and sines of fixed frequencies (Vaswani et al. 2017).
    #[default]
    Sinusoidal,
    /// Of random frequencies, which are kept with the weights (Song et al. 2021).
    Fourier,
}

/// How the input, halved from level to level, joins the encoder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputPyramid {
    /// Only at level 0.
    #[default]
    None,
    /// The halved image, through a 1×1 convolution, is added.
    Skip,
    /// A filtered and strided convolution of what the level above had is added; the sum is what the next level takes.
    Residual,
}

/// How the resolution changes between levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resample {
    /// A convolution of stride 2 down; nearest doubling and a convolution up.
    #[default]
    Convolution,
    /// 2×2 mean down, nearest doubling up; no parameters.
    Mean,
    /// A residual block that resamples inside (BigGAN).
    Block,
}

impl UNetConfig {
    /// A published or recommended network by name; see [`UNetConfig::PRESETS`].
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn preset(name: &str) -> Result<Self> {
        let text = Self::PRESETS.iter().find(|(n, _)| *n == name).map(|(_, text)| *text).ok_or_else(|| {
            let names: Vec<&str> = Self::PRESETS.iter().map(|(n, _)| *n).collect();
            Error::Config(format!("no U-Net preset `{name}`; there are {}", names.join(", ")))
        })?;
        let document: Preset = toml::from_str(text).map_err(|e| Error::Config(format!("preset `{name}`: {e}")))?;
        document.unet.validate()?;
        Ok(document.unet)
    }

    /// Names and texts of the presets; the section `[unet]` of each is a [`UNetConfig`].
    pub const PRESETS: &'static [(&'static str, &'static str)] = &[
        ("celebahq256-ldm", include_str!("../../presets/celebahq256-ldm.toml")),
        ("celebahq256-ldm-multistage", include_str!("../../presets/celebahq256-ldm-multistage.toml")),
        ("imagenet-ldm-multistage", include_str!("../../presets/imagenet-ldm-multistage.toml")),
        ("cifar10-edm-multistage", include_str!("../../presets/cifar10-edm-multistage.toml")),
        ("celeba32-edm-multistage", include_str!("../../presets/celeba32-edm-multistage.toml")),
        ("cifar10-ddpmpp-multistage", include_str!("../../presets/cifar10-ddpmpp-multistage.toml")),
        ("small-multistage", include_str!("../../presets/small-multistage.toml")),
        ("small-edm-multistage", include_str!("../../presets/small-edm-multistage.toml")),
        ("emoji-32-edm-multistage", include_str!("../../presets/emoji-32-edm-multistage.toml")),
        ("emoji-32-ldm-multistage", include_str!("../../presets/emoji-32-ldm-multistage.toml")),
        ("emoji-32-ddpmpp-multistage", include_str!("../../presets/emoji-32-ddpmpp-multistage.toml")),
        ("small-ddpmpp-multistage", include_str!("../../presets/small-ddpmpp-multistage.toml")),
    ];

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.multipliers.len()
    }

    /// Waves that the noise level becomes.
    pub fn wave_width(&self) -> usize {
        self.width * self.wave_multiplier
    }

    /// Width of the embedding of the noise level.
    pub fn embedding_width(&self) -> usize {
        self.width * self.embedding_multiplier
    }

    /// Width of `Condition::vector`: that of the waves or of the embedding, to which it is added.
    pub fn vector_width(&self) -> usize {
        if self.family.vector_joins_waves() { self.wave_width() } else { self.embedding_width() }
    }
}

#[derive(Deserialize)]
struct Preset {
    unet: UNetConfig,
}
