//! The layout of CompVis' latent-diffusion: `ddconfig` and the names below `encoder.down.0.block.0`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use strata_nn::params::ParamStore;

use super::KeyMap;
use crate::{AutoencoderConfig, CoderConfig, Error, Resampling, Result, VqConfig};

/// `params` of a first stage in a published YAML file; further keys (`lossconfig`, `monitor`, ...) are not the network's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FirstStage {
    /// The coder.
    pub ddconfig: DdConfig,
    /// Channels of a latent.
    pub embed_dim: usize,
    /// Entries of the codebook of a VQ model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_embed: Option<usize>,
}

/// The coder, in the published words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct DdConfig {
    pub double_z: bool,
    pub z_channels: usize,
    pub resolution: usize,
    pub in_channels: usize,
    pub out_ch: usize,
    pub ch: usize,
    pub ch_mult: Vec<usize>,
    pub num_res_blocks: usize,
    pub attn_resolutions: Vec<usize>,
    /// Has no effect outside their training.
    #[serde(default)]
    pub dropout: f64,
    #[serde(default = "yes")]
    pub resamp_with_conv: bool,
    #[serde(default = "vanilla")]
    pub attn_type: String,
    #[serde(default)]
    pub tanh_out: bool,
}

fn yes() -> bool {
    true
}

fn vanilla() -> String {
    "vanilla".into()
}

impl FirstStage {
    /// The KL model it describes.
    ///
    /// # Errors
    /// If a value has no counterpart.
    pub fn kl(&self) -> Result<CoderConfig> {
        if !self.ddconfig.double_z {
            return Err(Error::config("ddconfig.double_z", "true for a KL model", false));
        }
        self.coder()
    }

    /// The VQ model it describes.
    ///
    /// # Errors
    /// If a value has no counterpart, or there is no codebook.
    pub fn vq(&self) -> Result<VqConfig> {
        if self.ddconfig.double_z {
            return Err(Error::config("ddconfig.double_z", "false for a VQ model", true));
        }
        let codes = self.n_embed.ok_or_else(|| Error::config("n_embed", "the size of the codebook", "nothing"))?;
        Ok(VqConfig { codes, coder: self.coder()? })
    }

    fn coder(&self) -> Result<CoderConfig> {
        let d = &self.ddconfig;
        let attention = match d.attn_type.as_str() {
            "vanilla" => true,
            "none" => false,
            other => return Err(Error::config("ddconfig.attn_type", "\"vanilla\" or \"none\"", other)),
        };
        // Attention is placed by the nominal resolution, whatever the size of an image.
        let placed = |level: &usize| attention && d.attn_resolutions.contains(&(d.resolution >> level));
        let levels: Vec<usize> = (0..d.ch_mult.len()).filter(placed).collect();
        let channels: Vec<usize> = d.ch_mult.iter().map(|m| m * d.ch).collect();
        let config = CoderConfig {
            in_channels: d.in_channels,
            out_channels: d.out_ch,
            stem_channels: (channels.first() != Some(&d.ch)).then_some(d.ch),
            channels,
            patch: 1,
            encoder_blocks: d.num_res_blocks,
            decoder_blocks: d.num_res_blocks + 1,
            encoder_attention: levels.clone(),
            decoder_attention: levels,
            middle_attention: attention,
            norm_groups: 32,
            resampling: if d.resamp_with_conv { Resampling::Convolution } else { Resampling::Plain },
            bottleneck_channels: (d.z_channels != self.embed_dim).then_some(d.z_channels),
            latent_channels: self.embed_dim,
            quant_conv: true,
            post_quant_conv: true,
            tanh_out: d.tanh_out,
        };
        config.validate()?;
        Ok(config)
    }
}

/// The KL or VQ model that tensors of these names and shapes belong to; `None` where they are not such a model's. All of a
/// published configuration but `tanh_out`, which none of them has, shows in its tensors.
///
/// # Errors
/// If they are, but no network can be built like that.
pub fn infer<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize])>) -> Result<Option<AutoencoderConfig>> {
    let shapes: HashMap<String, &[usize]> = tensors.filter_map(|(name, dims)| Some((modernise(name)?, dims))).collect();
    let width = |name: &str, axis: usize| shapes.get(name).and_then(|dims| dims.get(axis)).copied();
    let count = |name: &dyn Fn(usize) -> String| (0..).take_while(|&i| shapes.contains_key(&name(i))).count();
    let channels: Vec<usize> = (0..).map_while(|i| width(&format!("encoder.down.{i}.block.0.conv1.weight"), 0)).collect();
    let widths = || {
        Some([
            width("encoder.conv_in.weight", 1)?,
            width("encoder.conv_in.weight", 0)?,
            width("decoder.conv_out.weight", 0)?,
            width("decoder.conv_in.weight", 1)?,
            width("post_quant_conv.weight", 1)?,
            width("encoder.conv_out.weight", 0)?,
        ])
    };
    if channels.is_empty() {
        return Ok(None);
    }
    let Some([in_channels, stem, out_channels, z, latent_channels, encoded]) = widths() else { return Ok(None) };
    let with_attention = |side: &str| -> Vec<usize> {
        (0..channels.len()).filter(|i| shapes.contains_key(&format!("{side}.{i}.attn.0.q.weight"))).collect()
    };
    let plain = channels.len() > 1 && !shapes.contains_key("encoder.down.0.downsample.conv.weight");
    let coder = CoderConfig {
        in_channels,
        out_channels,
        stem_channels: (channels.first() != Some(&stem)).then_some(stem),
        encoder_blocks: count(&|j| format!("encoder.down.0.block.{j}.conv1.weight")),
        decoder_blocks: count(&|j| format!("decoder.up.0.block.{j}.conv1.weight")),
        encoder_attention: with_attention("encoder.down"),
        decoder_attention: with_attention("decoder.up"),
        middle_attention: shapes.contains_key("encoder.mid.attn_1.q.weight"),
        resampling: if plain { Resampling::Plain } else { Resampling::Convolution },
        bottleneck_channels: (z != latent_channels).then_some(z),
        latent_channels,
        channels,
        ..CoderConfig::default()
    };
    let config = match width("quantize.embedding.weight", 0) {
        Some(codes) if encoded == z => AutoencoderConfig::Vq(VqConfig { codes, coder }),
        _ => AutoencoderConfig::Kl(coder),
    };
    config.validate()?;
    Ok(Some(config))
}

/// Names and shapes of a KL or VQ model whose parameters are in `store`. Files may carry `loss.*`, `model_ema.*`, or a whole
/// latent diffusion model with the prefix `first_stage_model.`; what is not the autoencoder's is passed over.
pub fn key_map(store: &ParamStore) -> KeyMap {
    KeyMap::new(store, translate, modernise)
}

fn translate(ours: &str, dims: &[usize]) -> (String, Vec<usize>) {
    let theirs = rename(ours);
    let mut dims = dims.to_vec();
    if theirs.contains(".attn") && dims.len() == 2 {
        dims.extend([1, 1]);
    }
    (theirs, dims)
}

fn rename(ours: &str) -> String {
    let parts: Vec<&str> = ours.split('.').collect();
    let side = |coder: &str| if coder == "encoder" { "down" } else { "up" };
    match parts.as_slice() {
        [coder, "levels", i, "blocks", j, layer, leaf] => {
            format!("{coder}.{}.{i}.block.{j}.{}.{leaf}", side(coder), block_layer(layer))
        }
        [coder, "levels", i, "attentions", j, layer, leaf] => {
            format!("{coder}.{}.{i}.attn.{j}.{}.{leaf}", side(coder), attention_layer(layer))
        }
        [coder, "levels", i, resample, leaf] => format!("{coder}.{}.{i}.{resample}.conv.{leaf}", side(coder)),
        [coder, "middle", "attention", layer, leaf] => format!("{coder}.mid.attn_1.{}.{leaf}", attention_layer(layer)),
        [coder, "middle", "block1", layer, leaf] => format!("{coder}.mid.block_1.{}.{leaf}", block_layer(layer)),
        [coder, "middle", "block2", layer, leaf] => format!("{coder}.mid.block_2.{}.{leaf}", block_layer(layer)),
        ["codebook", leaf] => format!("quantize.embedding.{leaf}"),
        _ => ours.to_string(),
    }
}

fn block_layer(ours: &str) -> &str {
    if ours == "shortcut" { "nin_shortcut" } else { ours }
}

fn attention_layer(ours: &str) -> &str {
    if ours == "out" { "proj_out" } else { ours }
}

fn modernise(name: &str) -> Option<String> {
    let name = name.strip_prefix("first_stage_model.").unwrap_or(name);
    let networks = ["encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize."];
    networks.iter().any(|prefix| name.starts_with(prefix)).then(|| name.to_string())
}
