//! The published configuration of EDM's networks, and the names in their checkpoints.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{EdmPrecond, Intervals, ascending_boundaries, decoder_widths, levels_of_sizes};
use crate::{
    Error, Result,
    unet::{
        config::{DecoderConfig, Heads, InputPyramid, Resample, UNetConfig, Waves},
        family::Family,
        key_map::{KeyMap, Layout},
        plan::{Direction, Plan, Step},
    },
};

/// Keyword arguments of `SongUNet`, `DhariwalUNet` and `MultistageUNet` together with those of the wrapper around them, in the names
/// of EDM's code. Attention is placed by size there. `num_groups` is a constant of the code: 32 in EDM, 16 in the multistage code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the published names; explained by the fields of UNetConfig
pub struct EdmUNetConfig {
    pub precond: String,
    pub model_type: String,
    #[serde(default = "groups")]
    pub num_groups: usize,
    pub img_resolution: usize,
    pub img_channels: usize,
    #[serde(default)]
    pub label_dim: usize,
    #[serde(default)]
    pub augment_dim: usize,
    #[serde(default)]
    pub model_channels: Option<usize>,
    pub channel_mult: Vec<usize>,
    #[serde(default = "four")]
    pub channel_mult_emb: usize,
    pub num_blocks: usize,
    pub attn_resolutions: Vec<usize>,
    #[serde(default)]
    pub dropout: f64,
    /// Of training alone.
    #[serde(default)]
    pub label_dropout: f64,
    #[serde(default = "positional")]
    pub embedding_type: String,
    #[serde(default = "one")]
    pub channel_mult_noise: usize,
    #[serde(default = "standard")]
    pub encoder_type: String,
    #[serde(default = "standard")]
    pub decoder_type: String,
    #[serde(default = "pair")]
    pub resample_filter: Vec<f64>,
    /// Multistage only: width of the encoder.
    #[serde(default)]
    pub en_model_channels: Option<usize>,
    /// Multistage only: width of each decoder.
    #[serde(default)]
    pub de_model_channels: Option<Vec<usize>>,
    /// Multistage only: number of decoders.
    #[serde(default)]
    pub stage_num: Option<usize>,
    /// Multistage only: intervals (lo, hi] of sigma per stage; null is infinity.
    #[serde(default)]
    pub stage_interval: Option<Intervals>,
    /// Has no effect here.
    #[serde(default)]
    pub use_fp16: bool,
    /// Bounds of sampling; no effect here.
    #[serde(default)]
    pub sigma_min: Option<f64>,
    /// Bounds of sampling; no effect here.
    #[serde(default)]
    pub sigma_max: Option<f64>,
    #[serde(default)]
    pub sigma_data: Option<f64>,
    #[serde(default)]
    pub beta_d: Option<f64>,
    #[serde(default)]
    pub beta_min: Option<f64>,
    #[serde(default, rename = "M")]
    pub m: Option<usize>,
    #[serde(default)]
    pub epsilon_t: Option<f64>,
    #[serde(default, rename = "C_1")]
    pub c_1: Option<f64>,
    #[serde(default, rename = "C_2")]
    pub c_2: Option<f64>,
}

fn groups() -> usize {
    32
}

fn four() -> usize {
    4
}

fn one() -> usize {
    1
}

fn positional() -> String {
    "positional".into()
}

fn standard() -> String {
    "standard".into()
}

fn pair() -> Vec<f64> {
    vec![1.0, 1.0]
}

/// A value that must be one of a few words.
fn word<T: Copy>(key: &str, got: &str, known: &[(&str, T)]) -> Result<T> {
    let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
    let found = known.iter().find(|(name, _)| *name == got).map(|(_, value)| *value);
    found.ok_or_else(|| Error::Config(format!("`{key}`: expected one of {}, got `{got}`", names.join(", "))))
}

impl EdmUNetConfig {
    /// From what a snapshot tells beside its tensors (see [`strata_nn::checkpoint::Checkpoint::metadata`]): the arguments with which
    /// the wrapper and the network in it were made; those that were left out are EDM's defaults.
    ///
    /// # Errors
    /// If it tells none, or some that have no counterpart.
    pub fn of_snapshot(metadata: &BTreeMap<String, Value>) -> Result<Self> {
        let class = |key: &str| metadata.get(key).and_then(Value::as_str);
        let Some(precond) = class("ema.class_name") else {
            return Err(Error::Config("the file does not tell how its network was made (`ema.class_name`)".into()));
        };
        let mut table: Map<String, Value> = match class("ema.model.class_name") {
            Some("DhariwalUNet") => json!({ "model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3,
                "attn_resolutions": [32, 16, 8] }),
            Some("SongUNet") => json!({ "model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4,
                "attn_resolutions": [16] }),
            _ => json!({}),
        }
        .as_object()
        .cloned()
        .unwrap_or_default();
        for prefix in ["ema.model._init_kwargs.", "ema._init_kwargs."] {
            let given = metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_string(), value.clone())));
            // The channels of the inner network follow from the wrapper's; infinity is no number of JSON.
            table
                .extend(given.filter(|(key, value)| !["in_channels", "out_channels"].contains(&key.as_str()) && *value != "inf"));
        }
        table.insert("precond".into(), precond.into());
        if let Some(class) = class("ema.model.class_name") {
            table.entry("model_type").or_insert_with(|| class.into());
        }
        serde_json::from_value(Value::Object(table)).map_err(|e| Error::Config(format!("the arguments of an EDM network: {e}")))
    }

    /// Our configuration of the same network.
    ///
    /// # Errors
    /// If the published one contradicts itself or cannot be built.
    pub fn translate(&self) -> Result<UNetConfig> {
        let family = word("model_type", &self.model_type, FAMILIES)?;
        let adm = family == Family::Adm;
        let (width, decoders) = self.widths()?;
        let attention = levels_of_sizes(self.img_resolution, self.channel_mult.len(), &self.attn_resolutions);
        let decoder = |width| DecoderConfig { width, attention: attention.clone(), heads: None };
        let doubled = self.precond == "iDDPMPrecond";
        let config = UNetConfig {
            family,
            size: Some(self.img_resolution),
            in_channels: self.img_channels,
            out_channels: if doubled { 2 * self.img_channels } else { self.img_channels },
            width,
            waves: word("embedding_type", &self.embedding_type, WAVES)?,
            wave_multiplier: self.channel_mult_noise,
            embedding_multiplier: self.channel_mult_emb,
            multipliers: self.channel_mult.clone(),
            blocks: self.num_blocks,
            heads: if adm { Heads::AtLeast(64) } else { Heads::Count(1) },
            scale_shift: adm,
            rescale: !adm,
            resample: Resample::Block,
            filter: self.resample_filter.clone(),
            input_pyramid: word("encoder_type", &self.encoder_type, ENCODERS)?,
            output_pyramid: word("decoder_type", &self.decoder_type, DECODERS)?,
            classes: (self.label_dim > 0).then_some(self.label_dim),
            augment: (self.augment_dim > 0).then_some(self.augment_dim),
            dropout: self.dropout,
            groups: self.num_groups,
            decoders: decoders.into_iter().map(decoder).collect(),
            attention: attention.clone(),
            ..UNetConfig::default()
        };
        config.validate()?;
        Ok(config)
    }

    /// The wrapper around the network.
    ///
    /// # Errors
    /// If it is not one of EDM's four.
    pub fn preconditioning(&self) -> Result<EdmPrecond> {
        EdmPrecond::new(self)
    }

    /// The decoder (counted from 0) that the published code uses for a batch that begins with `sigma`: the last with an interval
    /// whose lower end is below sigma and whose upper end is not below ln(sigma) / 4, since that is what the code compares. With
    /// ascending intervals it is the stage that holds sigma; with others it may be a later one.
    ///
    /// # Errors
    /// If there is none.
    pub fn stage_of(&self, sigma: f64) -> Result<usize> {
        let Some(intervals) = &self.stage_interval else { return Ok(0) };
        let label = 0.25 * sigma.ln();
        let holds = |one: &Vec<(f64, Option<f64>)>| one.iter().any(|&(lo, hi)| sigma > lo && hi.is_none_or(|hi| label <= hi));
        let found = intervals.iter().rposition(holds);
        found.ok_or_else(|| Error::Config(format!("no stage has sigma {sigma}: `stage_interval` is {intervals:?}")))
    }

    /// Sigmas between the stages, if each stage is one interval and they follow each other.
    pub fn boundaries(&self) -> Option<Vec<f64>> {
        self.stage_interval.as_ref().map_or(Some(Vec::new()), |intervals| ascending_boundaries(intervals))
    }

    /// Names of the published checkpoint, the `model.` of the wrapper included.
    ///
    /// # Errors
    /// As [`EdmUNetConfig::translate`].
    pub fn key_map(&self) -> Result<KeyMap> {
        let mut map = key_map(&self.translate()?, self.img_resolution, self.de_model_channels.is_some())?;
        if let EdmPrecond::Iddpm { u, .. } = self.preconditioning()? {
            let u: Vec<f32> = u.iter().map(|u| *u as f32).collect();
            map.insert_unused("u", Tensor::from_slice(&u, u.len(), &Device::Cpu)?);
        }
        Ok(map)
    }

    /// Widths of the encoder and of each decoder.
    fn widths(&self) -> Result<(usize, Vec<usize>)> {
        let several = self.model_type == "MultistageUNet";
        match (several, self.model_channels, self.en_model_channels, &self.de_model_channels) {
            (false, Some(width), None, None) => Ok((width, vec![width])),
            (true, None, Some(width), Some(decoders)) => {
                let intervals = self.stage_interval.as_ref().map_or(0, Vec::len);
                Ok((width, decoder_widths(self.stage_num.unwrap_or(0), decoders, intervals, "de_model_channels")?))
            }
            _ => Err(Error::Config(format!(
                "`{}` needs {}",
                self.model_type,
                if several { "`en_model_channels` and `de_model_channels` alone" } else { "`model_channels` alone" }
            ))),
        }
    }
}

/// The names of the published checkpoint of our network `config` for images of `size`: of the `several` decoders of the multistage
/// code or of the original one.
pub(crate) fn key_map(config: &UNetConfig, size: usize, several: bool) -> Result<KeyMap> {
    let plan = Plan::new(config);
    let mut names = Names { map: KeyMap::default(), config, size };
    for (ours, published) in EMBEDDINGS {
        names.map.insert(*ours, *published, Layout::Same);
    }
    names.map.insert_tensor("time_embedding.frequencies", "model.map_noise.freqs");
    names.map.insert("encoder.conv_in", names.at("model.enc", 0, "conv"), Layout::Same);
    names.steps(&plan.encoder, "encoder", "model.enc", config.blocks)?;
    for (stage, steps) in plan.decoders.iter().enumerate() {
        let published = if several { format!("model.decs.{stage}") } else { "model.dec".into() };
        names.steps(steps, &format!("decoders.{stage}"), &published, config.blocks + 1)?;
        names.head(&format!("decoders.{stage}"), &published);
    }
    Ok(names.map)
}

const FAMILIES: &[(&str, Family)] =
    &[("SongUNet", Family::Song), ("DhariwalUNet", Family::Adm), ("MultistageUNet", Family::Song)];
const WAVES: &[(&str, Waves)] = &[("positional", Waves::Sinusoidal), ("fourier", Waves::Fourier)];
const ENCODERS: &[(&str, InputPyramid)] =
    &[("standard", InputPyramid::None), ("skip", InputPyramid::Skip), ("residual", InputPyramid::Residual)];
const DECODERS: &[(&str, bool)] = &[("standard", false), ("skip", true)];

const EMBEDDINGS: &[(&str, &str)] = &[
    ("time_embedding.linear1", "model.map_layer0"),
    ("time_embedding.linear2", "model.map_layer1"),
    ("label_embedding", "model.map_label"),
    ("augment_embedding", "model.map_augment"),
];

const BLOCK: [(&str, &str); 8] = [
    ("norm1", "norm0"),
    ("conv1", "conv0"),
    ("embedding", "affine"),
    ("norm2", "norm1"),
    ("conv2", "conv1"),
    ("skip", "skip"),
    ("attention.norm", "norm2"),
    ("attention.out", "proj"),
];

/// Our names beside the published ones.
struct Names<'a> {
    map: KeyMap,
    config: &'a UNetConfig,
    size: usize,
}

impl Names<'_> {
    /// `enc.16x16_block0`.
    fn at(&self, coder: &str, level: usize, name: &str) -> String {
        let size = self.size >> level;
        format!("{coder}.{size}x{size}_{name}")
    }

    /// Steps below `ours`; published blocks are counted anew at each of their levels, which have `per_level` of them.
    fn steps(&mut self, steps: &[Step], ours: &str, published: &str, per_level: usize) -> Result<()> {
        let mut blocks = 0;
        for step in steps {
            let here = format!("{ours}.{}", step.name());
            match *step {
                Step::Block { c_out, level, mixer, .. } => {
                    let name = match step.name() {
                        "middle0" => "in0".to_string(),
                        "middle1" => "in1".to_string(),
                        _ => {
                            blocks += 1;
                            format!("block{}", (blocks - 1) % per_level)
                        }
                    };
                    let heads = mixer.and_then(|heads| heads.count(c_out)).unwrap_or(1);
                    self.block(&here, &self.at(published, level, &name), heads);
                }
                Step::Resample { level, direction, .. } => {
                    let name = if direction == Direction::Down { "down" } else { "up" };
                    self.block(&here, &self.at(published, level, name), 1);
                    for layer in ["conv0", "skip"] {
                        self.filter(&format!("{}.{layer}", self.at(published, level, name)))?;
                    }
                }
                Step::Join { level, .. } => self.join(&here, published, level)?,
                Step::ToImage { level, .. } => {
                    self.image(&here, published, level, ["norm", "conv"]);
                    if level + 1 < self.config.levels() {
                        self.filter(&self.at(published, level, "aux_up"))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn block(&mut self, ours: &str, published: &str, heads: usize) {
        for (a, b) in BLOCK {
            self.map.insert(format!("{ours}.{a}"), format!("{published}.{b}"), Layout::Same);
        }
        self.map.insert(format!("{ours}.attention.qkv"), format!("{published}.qkv"), Layout::QkvInterleaved(heads));
    }

    fn join(&mut self, ours: &str, published: &str, level: usize) -> Result<()> {
        let (conv, filter) = match self.config.input_pyramid {
            InputPyramid::Residual => ("aux_residual", "aux_residual"),
            _ => ("aux_skip", "aux_down"),
        };
        self.map.insert(format!("{ours}.conv"), self.at(published, level, conv), Layout::Same);
        self.filter(&self.at(published, level, filter))
    }

    fn image(&mut self, ours: &str, published: &str, level: usize, [norm, conv]: [&str; 2]) {
        self.map.insert(format!("{ours}.{norm}"), self.at(published, level, "aux_norm"), Layout::Same);
        self.map.insert(format!("{ours}.{conv}"), self.at(published, level, "aux_conv"), Layout::Same);
    }

    fn head(&mut self, ours: &str, published: &str) {
        if self.config.family == Family::Adm {
            self.map.insert(format!("{ours}.norm_out"), "model.out_norm", Layout::Same);
            self.map.insert(format!("{ours}.conv_out"), "model.out_conv", Layout::Same);
        } else {
            self.image(ours, published, 0, ["norm_out", "conv_out"]);
        }
    }

    /// The filter, which the published network keeps in every layer that resamples.
    fn filter(&mut self, layer: &str) -> Result<()> {
        let taps = &self.config.filter;
        let sum: f64 = taps.iter().sum();
        let square: Vec<f32> = taps.iter().flat_map(|a| taps.iter().map(move |b| (a * b / (sum * sum)) as f32)).collect();
        let square = Tensor::from_vec(square, (1, 1, taps.len(), taps.len()), &Device::Cpu)?;
        self.map.insert_unused(format!("{layer}.resample_filter"), square);
        Ok(())
    }
}
