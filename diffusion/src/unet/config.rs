//! What a U-Net is built from, and what cannot be built.

use serde::{Deserialize, Serialize};

use super::plan::{Plan, Step};
use crate::{Error, Result};

/// Configuration of the latent-diffusion U-Net (Rombach et al. 2022; Dhariwal & Nichol 2021) with one decoder per stage
/// (Zhang, Lu et al. 2024). Level 0 is the full resolution; each further level halves it. One decoder is the published original.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels of the input, those of `Condition::concat` included.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of the encoder at level 0; the embedding of the noise level has 4 times as many. Even.
    pub width: usize,
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
    /// How the resolution changes between levels.
    pub resample: Resample,
    /// Classes of a label table `[classes, 4 width]` (see `UNet::embed_classes`).
    pub classes: Option<usize>,
    /// Width of `Condition::vector` where it is not 4 times the width: it is then projected.
    pub condition_width: Option<usize>,
    /// Size of a codebook whose logits are the output, instead of `out_channels` channels.
    pub codebook: Option<usize>,
    /// Probability that an activation before a block's second convolution is dropped in training.
    pub dropout: f64,
    /// Groups of every group norm; 32 as published, fewer for narrow networks.
    pub groups: usize,
    /// Blocks begin as the identity and the output at zero, as published.
    pub zero_init: bool,
    /// One decoder per stage, stage 1 (nearest the data) first.
    pub decoders: Vec<DecoderConfig>,
}

impl Default for UNetConfig {
    /// The published celebahq256 network of latent diffusion.
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            width: 224,
            multipliers: vec![1, 2, 3, 4],
            blocks: 2,
            attention: vec![1, 2, 3],
            heads: Heads::Width(32),
            transformer: None,
            scale_shift: false,
            resample: Resample::Convolution,
            classes: None,
            condition_width: None,
            codebook: None,
            dropout: 0.0,
            groups: 32,
            zero_init: true,
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
}

impl Heads {
    /// Number of heads at `channels`; `None` if they cannot be divided.
    pub fn count(self, channels: usize) -> Option<usize> {
        let divide = |n: usize| (n > 0 && channels.is_multiple_of(n)).then(|| channels / n);
        match self {
            Self::Count(n) => divide(n).map(|_| n),
            Self::Width(d) => divide(d),
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
        ("small-multistage", include_str!("../../presets/small-multistage.toml")),
    ];

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.multipliers.len()
    }

    /// Width of the embedding of the noise level, to which `Condition::vector` is added.
    pub fn embedding_width(&self) -> usize {
        4 * self.width
    }

    /// Checks everything that can be known before an image is seen.
    ///
    /// # Errors
    /// One that lists every problem with the value and the reason.
    pub fn validate(&self) -> Result<()> {
        let mut problems = self.basic_problems();
        if problems.is_empty() {
            problems.extend(self.division_problems());
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Config(format!("the U-Net cannot be built:\n  {}", problems.join("\n  "))))
    }

    /// Checks that there is a decoder for each of `stages` stages.
    ///
    /// # Errors
    /// If the counts differ.
    pub fn check_stages(&self, stages: usize) -> Result<()> {
        if self.decoders.len() == stages {
            return Ok(());
        }
        let widths: Vec<usize> = self.decoders.iter().map(|d| d.width).collect();
        Err(Error::Config(format!("{stages} stages need {stages} decoders, `decoders` has {} (widths {widths:?})", widths.len())))
    }

    /// Checks that images of this size can be halved as often as there are levels below the first.
    ///
    /// # Errors
    /// If a side is not a multiple of 2^(levels - 1).
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        let multiple = 1usize << (self.levels().max(1) - 1);
        match [("height", height), ("width", width)].into_iter().find(|(_, n)| *n == 0 || n % multiple != 0) {
            None => Ok(()),
            Some((side, n)) => Err(Error::Config(format!(
                "{side} {n}: {} levels halve it {} times, so it must be a multiple of {multiple}",
                self.levels(),
                self.levels() - 1
            ))),
        }
    }

    fn basic_problems(&self) -> Vec<String> {
        let positive = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("width", self.width),
            ("blocks", self.blocks),
            ("groups", self.groups),
            ("multipliers", self.multipliers.iter().copied().min().unwrap_or(0)),
            ("classes", self.classes.unwrap_or(1)),
            ("condition_width", self.condition_width.unwrap_or(1)),
            ("codebook", self.codebook.unwrap_or(1)),
            ("transformer.depth", self.transformer.as_ref().map_or(1, |t| t.depth)),
            ("transformer.context_width", self.transformer.as_ref().map_or(1, |t| t.context_width)),
            ("decoders", self.decoders.len()),
        ];
        let mut problems: Vec<String> =
            positive.iter().filter(|(_, n)| *n == 0).map(|(name, _)| format!("`{name}`: expected 1 or more, got 0")).collect();
        if !self.width.is_multiple_of(2) {
            problems.push(format!("`width`: expected an even number (half are cosines, half sines), got {}", self.width));
        }
        if self.classes.is_some() && self.condition_width.is_some() {
            problems.push("`classes` and `condition_width`: only one of them can make the vector".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(format!("`dropout`: expected a probability in [0, 1), got {}", self.dropout));
        }
        problems.extend(self.level_problems("attention", &self.attention));
        for (i, d) in self.decoders.iter().enumerate() {
            if d.width == 0 {
                problems.push(format!("`decoders.{i}.width`: expected 1 or more, got 0"));
            }
            problems.extend(self.level_problems(&format!("decoders.{i}.attention"), &d.attention));
        }
        problems
    }

    fn level_problems(&self, name: &str, levels: &[usize]) -> Vec<String> {
        let last = self.levels().saturating_sub(1);
        let bad = levels.iter().filter(|&&level| level > last);
        bad.map(|level| format!("`{name}`: expected levels 0 to {last} (there are {} multipliers), got {level}", last + 1))
            .collect()
    }

    fn division_problems(&self) -> Vec<String> {
        let plan = Plan::new(self);
        let mut problems = Vec::new();
        for (path, step) in plan.steps() {
            let (Step::Block { c_in, c_out, .. } | Step::Resample { channels: c_in, c_out, .. }) = step;
            if let Some(c) = [c_in, c_out].into_iter().find(|&c| c % self.groups != 0) {
                problems.push(format!("{path}: {c} channels cannot be divided into {} groups", self.groups));
            }
            if let Step::Block { c_out, mixer: Some(heads), .. } = step
                && heads.count(*c_out).is_none()
            {
                problems.push(format!("{path}: {c_out} channels cannot be divided into heads ({heads:?})"));
            }
        }
        problems
    }
}

#[derive(Deserialize)]
struct Preset {
    unet: UNetConfig,
}
