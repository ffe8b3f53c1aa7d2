//! The layout of diffusers' `AutoencoderKL` and `VQModel`: config.json and the names below `encoder.down_blocks.0.resnets.0`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strata_nn::params::ParamStore;

use super::KeyMap;
use crate::{CoderConfig, Error, Resampling, Result, VqConfig};

/// `config.json` of either class. Absent keys have the defaults of diffusers; files of 2022 lack the later ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Config {
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub latent_channels: Option<usize>,
    pub norm_num_groups: usize,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    pub num_vq_embeddings: usize,
    pub vq_embed_dim: Option<usize>,
    pub norm_type: String,
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    pub latents_mean: Option<Vec<f64>>,
    pub latents_std: Option<Vec<f64>>,
    pub sample_size: Value,
    pub force_upcast: bool,
    pub lookup_from_codebook: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: None,
            norm_num_groups: 32,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            num_vq_embeddings: 256,
            vq_embed_dim: None,
            norm_type: "group".into(),
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            sample_size: Value::from(32),
            force_upcast: true,
            lookup_from_codebook: false,
        }
    }
}

impl Config {
    /// Reads a `config.json`; keys that begin with `_` are diffusers' own notes.
    ///
    /// # Errors
    /// If a key or value is not one that diffusers writes.
    pub fn from_json(json: &Value) -> Result<Self> {
        let wrong = |got: String| Error::config("config.json", "an AutoencoderKL or VQModel", got);
        let Value::Object(map) = json else { return Err(wrong(json.to_string())) };
        let own = map.iter().filter(|(key, _)| !key.starts_with('_')).map(|(k, v)| (k.clone(), v.clone())).collect();
        serde_json::from_value(Value::Object(own)).map_err(|e| wrong(e.to_string()))
    }

    /// The KL model it describes.
    ///
    /// # Errors
    /// If a value has no counterpart.
    pub fn kl(&self) -> Result<CoderConfig> {
        let z = self.latent_channels.unwrap_or(4);
        self.coder(z, z, self.use_quant_conv, self.use_post_quant_conv)
    }

    /// The VQ model it describes.
    ///
    /// # Errors
    /// If a value has no counterpart.
    pub fn vq(&self) -> Result<VqConfig> {
        if self.norm_type != "group" {
            return Err(Error::config("norm_type", "\"group\"", &self.norm_type));
        }
        let z = self.latent_channels.unwrap_or(3);
        Ok(VqConfig { codes: self.num_vq_embeddings, coder: self.coder(z, self.vq_embed_dim.unwrap_or(z), true, true)? })
    }

    fn coder(&self, bottleneck: usize, latent: usize, quant_conv: bool, post_quant_conv: bool) -> Result<CoderConfig> {
        if !["silu", "swish"].contains(&self.act_fn.as_str()) {
            return Err(Error::config("act_fn", "\"silu\"", &self.act_fn));
        }
        let n = self.block_out_channels.len();
        for (key, got) in [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())] {
            if got != n {
                return Err(Error::config(key, format!("{n} blocks, as block_out_channels"), got));
            }
        }
        let types = self.up_block_types.iter().rev();
        let config = CoderConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            channels: self.block_out_channels.clone(),
            stem_channels: None,
            patch: 1,
            encoder_blocks: self.layers_per_block,
            decoder_blocks: self.layers_per_block + 1,
            encoder_attention: levels(
                self.down_block_types.iter(),
                "down_block_types",
                ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
            )?,
            decoder_attention: levels(types, "up_block_types", ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"])?,
            middle_attention: self.mid_block_add_attention,
            norm_groups: self.norm_num_groups,
            resampling: Resampling::Convolution,
            bottleneck_channels: (bottleneck != latent).then_some(bottleneck),
            latent_channels: latent,
            quant_conv,
            post_quant_conv,
            tanh_out: false,
        };
        config.validate()?;
        Ok(config)
    }
}

/// The levels whose block type is the second of `[plain, attention]`.
fn levels<'a>(types: impl Iterator<Item = &'a String>, key: &str, [plain, attention]: [&str; 2]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for (level, name) in types.enumerate() {
        if name == attention {
            found.push(level);
        } else if name != plain {
            return Err(Error::config(key, format!("{plain} or {attention}"), name));
        }
    }
    Ok(found)
}

/// `config.json` of an `AutoencoderKL` that diffusers loads together with the exported weights. `size`: side of the images it
/// was trained on; `scaling_factor`: what a pipeline multiplies latents with.
///
/// # Errors
/// If the model has a part that diffusers' class has not.
pub fn kl_config_json(config: &CoderConfig, size: usize, scaling_factor: f64) -> Result<Value> {
    expressible(config, &[("bottleneck_channels", config.bottleneck() == config.latent_channels, "those of the latent")])?;
    let mut json = coder_json(config, size, scaling_factor);
    json["_class_name"] = "AutoencoderKL".into();
    json["latent_channels"] = config.latent_channels.into();
    json["use_quant_conv"] = config.quant_conv.into();
    json["use_post_quant_conv"] = config.post_quant_conv.into();
    Ok(json)
}

/// The same of a `VQModel`.
///
/// # Errors
/// If the model has a part that diffusers' class has not.
pub fn vq_config_json(config: &VqConfig, size: usize, scaling_factor: f64) -> Result<Value> {
    let coder = &config.coder;
    let needs = [("quant_conv", coder.quant_conv, "true"), ("post_quant_conv", coder.post_quant_conv, "true")];
    expressible(coder, &needs)?;
    let mut json = coder_json(coder, size, scaling_factor);
    json["_class_name"] = "VQModel".into();
    json["latent_channels"] = coder.bottleneck().into();
    json["vq_embed_dim"] = coder.latent_channels.into();
    json["num_vq_embeddings"] = config.codes.into();
    json["norm_type"] = "group".into();
    Ok(json)
}

/// What both classes have.
fn coder_json(config: &CoderConfig, size: usize, scaling_factor: f64) -> Value {
    let block = |level: usize, with: &[usize], names: [&str; 2]| names[usize::from(with.contains(&level))].to_string();
    let down = |i: usize| block(i, &config.encoder_attention, ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]);
    let up = |i: usize| block(i, &config.decoder_attention, ["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]);
    json!({
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "down_block_types": (0..config.levels()).map(down).collect::<Vec<_>>(),
        "up_block_types": (0..config.levels()).rev().map(up).collect::<Vec<_>>(),
        "block_out_channels": config.channels,
        "layers_per_block": config.encoder_blocks,
        "act_fn": "silu",
        "norm_num_groups": config.norm_groups,
        "sample_size": size,
        "scaling_factor": scaling_factor,
        "mid_block_add_attention": config.middle_attention,
    })
}

/// `more`: what the class needs beside what both need: the setting, whether it fits, and what would.
fn expressible(config: &CoderConfig, more: &[(&str, bool, &str)]) -> Result<()> {
    let needs: [(&str, bool, &str); 5] = [
        ("patch", config.patch == 1, "1"),
        ("decoder_blocks", config.decoder_blocks == config.encoder_blocks + 1, "one more than encoder_blocks"),
        ("resampling", config.resampling == Resampling::Convolution, "\"convolution\""),
        ("tanh_out", !config.tanh_out, "false"),
        ("stem_channels", Some(&config.stem()) == config.channels.first(), "those of level 0"),
    ];
    match needs.iter().chain(more).find(|(_, fits, _)| !fits) {
        Some((key, _, expected)) => {
            Err(Error::config(format!("model.{key}"), format!("{expected} (diffusers)"), "another value"))
        }
        None => Ok(()),
    }
}

/// Names and shapes of a KL or VQ model with `levels` levels whose parameters are in `store`. Files of 2022 and 2023 call the
/// attention's layers `query`, `key`, `value` and `proj_attn`.
pub fn key_map(store: &ParamStore, levels: usize) -> KeyMap {
    KeyMap::new(store, |ours, dims| (rename(ours, levels), dims.to_vec()), modernise)
}

fn rename(ours: &str, levels: usize) -> String {
    let parts: Vec<&str> = ours.split('.').collect();
    // The decoder's blocks are numbered from the lowest resolution.
    let side = |coder: &str, i: &str| match (coder, i.parse::<usize>()) {
        ("decoder", Ok(level)) => format!("up_blocks.{}", levels.saturating_sub(level + 1)),
        _ => format!("down_blocks.{i}"),
    };
    match parts.as_slice() {
        [coder, "levels", i, "blocks", j, layer, leaf] => {
            format!("{coder}.{}.resnets.{j}.{}.{leaf}", side(coder, i), block_layer(layer))
        }
        [coder, "levels", i, "attentions", j, layer, leaf] => {
            format!("{coder}.{}.attentions.{j}.{}.{leaf}", side(coder, i), attention_layer(layer))
        }
        [coder, "levels", i, resample, leaf] => format!("{coder}.{}.{resample}rs.0.conv.{leaf}", side(coder, i)),
        [coder, "middle", "attention", layer, leaf] => {
            format!("{coder}.mid_block.attentions.0.{}.{leaf}", attention_layer(layer))
        }
        [coder, "middle", "block1", layer, leaf] => format!("{coder}.mid_block.resnets.0.{}.{leaf}", block_layer(layer)),
        [coder, "middle", "block2", layer, leaf] => format!("{coder}.mid_block.resnets.1.{}.{leaf}", block_layer(layer)),
        [coder, "norm_out", leaf] => format!("{coder}.conv_norm_out.{leaf}"),
        ["codebook", leaf] => format!("quantize.embedding.{leaf}"),
        _ => ours.to_string(),
    }
}

fn block_layer(ours: &str) -> &str {
    if ours == "shortcut" { "conv_shortcut" } else { ours }
}

fn attention_layer(ours: &str) -> &str {
    match ours {
        "norm" => "group_norm",
        "q" => "to_q",
        "k" => "to_k",
        "v" => "to_v",
        "out" => "to_out.0",
        other => other,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "the signature is shared by the layouts")]
fn modernise(name: &str) -> Option<String> {
    let old = [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    let mut name = name.to_string();
    if name.contains("attentions") {
        for (was, is) in old {
            name = name.replace(was, is);
        }
    }
    Some(name)
}
