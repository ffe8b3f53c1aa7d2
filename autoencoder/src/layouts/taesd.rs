//! The layout of diffusers' `AutoencoderTiny`: config.json and the flat lists `encoder.layers.0`, `decoder.layers.0`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strata_nn::params::ParamStore;

use super::KeyMap;
use crate::{Error, Result, TinyConfig};

/// `config.json`. Absent keys have the defaults of diffusers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Config {
    pub in_channels: usize,
    pub out_channels: usize,
    pub encoder_block_out_channels: Vec<usize>,
    pub decoder_block_out_channels: Vec<usize>,
    pub act_fn: String,
    pub upsample_fn: String,
    pub latent_channels: usize,
    pub upsampling_scaling_factor: usize,
    pub num_encoder_blocks: Vec<usize>,
    pub num_decoder_blocks: Vec<usize>,
    pub latent_magnitude: f64,
    pub latent_shift: f64,
    pub force_upcast: bool,
    pub scaling_factor: f64,
    pub shift_factor: f64,
    pub block_out_channels: Option<Vec<usize>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            act_fn: "relu".into(),
            upsample_fn: "nearest".into(),
            latent_channels: 4,
            upsampling_scaling_factor: 2,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_magnitude: 3.0,
            latent_shift: 0.5,
            force_upcast: false,
            scaling_factor: 1.0,
            shift_factor: 0.0,
            block_out_channels: None,
        }
    }
}

impl Config {
    /// Reads a `config.json`; keys that begin with `_` are diffusers' own notes.
    ///
    /// # Errors
    /// If a key or value is not one that diffusers writes.
    pub fn from_json(json: &Value) -> Result<Self> {
        let wrong = |got: String| Error::config("config.json", "an AutoencoderTiny", got);
        let Value::Object(map) = json else { return Err(wrong(json.to_string())) };
        let own = map.iter().filter(|(key, _)| !key.starts_with('_')).map(|(k, v)| (k.clone(), v.clone())).collect();
        serde_json::from_value(Value::Object(own)).map_err(|e| wrong(e.to_string()))
    }

    /// The model it describes.
    ///
    /// # Errors
    /// If a value has no counterpart.
    pub fn tiny(&self) -> Result<TinyConfig> {
        let words = [("act_fn", self.act_fn.as_str(), "relu"), ("upsample_fn", self.upsample_fn.as_str(), "nearest")];
        if let Some((key, got, expected)) = words.iter().find(|(_, got, expected)| got != expected) {
            return Err(Error::config(*key, *expected, got));
        }
        if self.upsampling_scaling_factor != 2 {
            return Err(Error::config("upsampling_scaling_factor", "2", self.upsampling_scaling_factor));
        }
        let blocks = [self.num_encoder_blocks.len(), self.num_decoder_blocks.len()];
        let config = TinyConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            latent_channels: self.latent_channels,
            encoder_channels: one_width("encoder_block_out_channels", &self.encoder_block_out_channels, blocks[0])?,
            decoder_channels: one_width("decoder_block_out_channels", &self.decoder_block_out_channels, blocks[1])?,
            encoder_blocks: self.num_encoder_blocks.clone(),
            decoder_blocks: self.num_decoder_blocks.iter().rev().copied().collect(),
            latent_magnitude: self.latent_magnitude,
            latent_shift: self.latent_shift,
        };
        config.validate()?;
        Ok(config)
    }
}

/// Their convolutions keep the width, so that a list of different widths cannot be run.
fn one_width(key: &str, channels: &[usize], levels: usize) -> Result<usize> {
    match channels {
        [first, rest @ ..] if channels.len() == levels && rest.iter().all(|c| c == first) => Ok(*first),
        _ => Err(Error::config(key, format!("{levels} equal widths, as many as blocks"), format!("{channels:?}"))),
    }
}

/// `config.json` that diffusers loads together with the exported weights. `scaling_factor`: what a pipeline multiplies latents with.
pub fn config_json(config: &TinyConfig, scaling_factor: f64) -> Value {
    json!({
        "_class_name": "AutoencoderTiny",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "encoder_block_out_channels": vec![config.encoder_channels; config.encoder_blocks.len()],
        "decoder_block_out_channels": vec![config.decoder_channels; config.decoder_blocks.len()],
        "act_fn": "relu",
        "latent_channels": config.latent_channels,
        "upsampling_scaling_factor": 2,
        "num_encoder_blocks": config.encoder_blocks,
        "num_decoder_blocks": config.decoder_blocks.iter().rev().collect::<Vec<_>>(),
        "latent_magnitude": config.latent_magnitude,
        "latent_shift": config.latent_shift,
        "scaling_factor": scaling_factor,
    })
}

/// Names and shapes of an `AutoencoderTiny` of `config` whose parameters are in `store`.
pub fn key_map(store: &ParamStore, config: &TinyConfig) -> KeyMap {
    let numbers = numbers(config);
    let rename = |ours: &str| -> Option<String> {
        let (module, leaf) = ours.rsplit_once('.')?;
        let coder = ours.split('.').next()?;
        // A block holds three convolutions, with ReLUs between them that take a number.
        let in_block = [(".conv1", ".conv.0"), (".conv2", ".conv.2"), (".conv3", ".conv.4")];
        let (module, inner) =
            in_block.iter().find_map(|(name, inner)| Some((module.strip_suffix(name)?, *inner))).unwrap_or((module, ""));
        Some(format!("{coder}.layers.{}{inner}.{leaf}", numbers.get(module)?))
    };
    KeyMap::new(
        store,
        |ours, dims| (rename(ours).unwrap_or_else(|| ours.to_string()), dims.to_vec()),
        |name| Some(name.to_string()),
    )
}

/// The place of each of our modules in the flat lists.
fn numbers(config: &TinyConfig) -> HashMap<String, usize> {
    let mut encoder = vec!["encoder.conv_in".to_string()];
    for (i, &n) in config.encoder_blocks.iter().enumerate() {
        encoder.extend((i > 0).then(|| format!("encoder.levels.{i}.downsample")));
        encoder.extend((0..n).map(|j| format!("encoder.levels.{i}.blocks.{j}")));
    }
    encoder.push("encoder.conv_out".into());
    let mut decoder = vec!["decoder.conv_in".to_string(), "relu".into()];
    for (i, &n) in config.decoder_blocks.iter().enumerate().rev() {
        decoder.extend((0..n).map(|j| format!("decoder.levels.{i}.blocks.{j}")));
        if i > 0 {
            decoder.extend(["doubling".to_string(), format!("decoder.levels.{i}.upsample")]);
        }
    }
    decoder.push("decoder.conv_out".into());
    let numbered = |names: Vec<String>| names.into_iter().enumerate().map(|(n, name)| (name, n));
    numbered(encoder).chain(numbered(decoder)).collect()
}
