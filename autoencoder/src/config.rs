//! The configuration of the encoder and decoder that KL and VQ models share.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a level halves and doubles the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resampling {
    /// A 3×3 convolution of stride 2; nearest doubling followed by a 3×3 convolution.
    #[default]
    Convolution,
    /// A 2×2 mean; nearest doubling alone.
    Plain,
}

/// Encoder and decoder of Rombach et al. 2022. Level 0 works at the full resolution, each further level at half of the one
/// before. Every published KL model is one of these; [`crate::layouts`] translates their own configuration files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoderConfig {
    /// Channels of an image. 3: RGB.
    pub in_channels: usize,
    /// Channels of a reconstruction.
    pub out_channels: usize,
    /// Channels of each level, full resolution first.
    pub channels: Vec<usize>,
    /// Channels of the encoder's first convolution; absent: those of level 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stem_channels: Option<usize>,
    /// Side of the square of pixels that is folded into channels before the first convolution. 1: none, as published;
    /// 2 spares the costly convolutions at full resolution in small models.
    pub patch: usize,
    /// Residual blocks in a level of the encoder. 2: the published models.
    pub encoder_blocks: usize,
    /// Residual blocks in a level of the decoder. 3: the published models have one more than in the encoder.
    pub decoder_blocks: usize,
    /// Levels whose encoder blocks are each followed by attention.
    pub encoder_attention: Vec<usize>,
    /// Levels whose decoder blocks are each followed by attention.
    pub decoder_attention: Vec<usize>,
    /// Attention between the two blocks at the lowest resolution.
    pub middle_attention: bool,
    /// Groups of every group norm. 32: the published models.
    pub norm_groups: usize,
    /// How levels halve and double.
    pub resampling: Resampling,
    /// Channels between the coder and the 1×1 convolutions around the latent; absent: `latent_channels`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bottleneck_channels: Option<usize>,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// A 1×1 convolution after the encoder.
    pub quant_conv: bool,
    /// A 1×1 convolution before the decoder.
    pub post_quant_conv: bool,
    /// The decoder ends in tanh.
    pub tanh_out: bool,
}

/// A KL model has no settings beyond its coder's.
pub type KlConfig = CoderConfig;

impl Default for CoderConfig {
    /// KL f8 with 4 channels, the first stage of Stable Diffusion.
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            channels: vec![128, 256, 512, 512],
            stem_channels: None,
            patch: 1,
            encoder_blocks: 2,
            decoder_blocks: 3,
            encoder_attention: Vec::new(),
            decoder_attention: Vec::new(),
            middle_attention: true,
            norm_groups: 32,
            resampling: Resampling::Convolution,
            bottleneck_channels: None,
            latent_channels: 4,
            quant_conv: true,
            post_quant_conv: true,
            tanh_out: false,
        }
    }
}

impl CoderConfig {
    /// Pixels per latent position along one side: `patch · 2^(levels - 1)`.
    pub fn factor(&self) -> usize {
        self.patch << self.channels.len().saturating_sub(1)
    }

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.channels.len()
    }

    /// Channels between the coder and the 1×1 convolutions.
    pub fn bottleneck(&self) -> usize {
        self.bottleneck_channels.unwrap_or(self.latent_channels)
    }

    /// Channels of the encoder's first convolution.
    pub fn stem(&self) -> usize {
        self.stem_channels.or(self.channels.first().copied()).unwrap_or(0)
    }

    /// Checks that the network can be built.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first setting that cannot be used, as `model.<key>`.
    pub fn validate(&self) -> Result<()> {
        self.positive()?;
        self.norms()?;
        self.attention_levels()?;
        let quants = [("quant_conv", self.quant_conv), ("post_quant_conv", self.post_quant_conv)];
        match quants.iter().find(|(_, on)| !on && self.bottleneck() != self.latent_channels) {
            Some((key, _)) => Err(Error::config(
                format!("model.{key}"),
                format!(
                    "true where bottleneck_channels ({}) is not latent_channels ({})",
                    self.bottleneck(),
                    self.latent_channels
                ),
                false,
            )),
            None => Ok(()),
        }
    }

    fn positive(&self) -> Result<()> {
        if self.channels.is_empty() || self.channels.len() > 8 {
            return Err(Error::config("model.channels", "1 to 8 levels", self.channels.len()));
        }
        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("patch", self.patch),
            ("encoder_blocks", self.encoder_blocks),
            ("decoder_blocks", self.decoder_blocks),
            ("norm_groups", self.norm_groups),
            ("latent_channels", self.latent_channels),
            ("bottleneck_channels", self.bottleneck()),
            ("stem_channels", self.stem()),
        ];
        match counts.iter().find(|(_, n)| *n == 0) {
            Some((key, n)) => Err(Error::config(format!("model.{key}"), "1 or more", n)),
            None => Ok(()),
        }
    }

    fn norms(&self) -> Result<()> {
        let widths = self.channels.iter().map(|&c| ("channels", c)).chain([("stem_channels", self.stem())]);
        for (key, c) in widths {
            if c == 0 || !c.is_multiple_of(self.norm_groups) {
                let expected = format!("multiples of norm_groups ({})", self.norm_groups);
                return Err(Error::config(format!("model.{key}"), expected, c));
            }
        }
        Ok(())
    }

    fn attention_levels(&self) -> Result<()> {
        for (key, levels) in [("encoder_attention", &self.encoder_attention), ("decoder_attention", &self.decoder_attention)] {
            if let Some(level) = levels.iter().find(|&&level| level >= self.levels()) {
                return Err(Error::config(format!("model.{key}"), format!("levels below {}", self.levels()), level));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_setting() {
        let cases = [
            (
                CoderConfig { channels: vec![40], ..Default::default() },
                "`model.channels`: expected multiples of norm_groups (32), got 40",
            ),
            (CoderConfig { channels: vec![], ..Default::default() }, "`model.channels`"),
            (
                CoderConfig { encoder_attention: vec![4], ..Default::default() },
                "`model.encoder_attention`: expected levels below 4, got 4",
            ),
            (
                CoderConfig { bottleneck_channels: Some(8), post_quant_conv: false, ..Default::default() },
                "`model.post_quant_conv`: expected true where bottleneck_channels (8)",
            ),
            (CoderConfig { decoder_blocks: 0, ..Default::default() }, "`model.decoder_blocks`: expected 1 or more, got 0"),
        ];
        for (config, part) in cases {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        CoderConfig::default().validate().unwrap();
    }
}
