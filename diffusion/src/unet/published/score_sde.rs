//! The published configuration of score-SDE's NCSN++ and DDPM++, and the names in their checkpoints.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::{Intervals, ascending_boundaries, decoder_widths, levels_of_sizes, stage_by_intervals};
use crate::{
    Error, Result,
    schedule::Schedule,
    unet::{
        config::{DecoderConfig, Heads, InputPyramid, Resample, UNetConfig},
        family::Family,
        key_map::{KeyMap, Layout},
        plan::{Plan, Step},
    },
};

/// The sections `model` and `data` of a configuration of `NCSNpp` (one decoder, `nf`) or `NCSNpp_multimodel` (`en_nf`, `de_nfs`), in
/// the names of score-SDE's code. Attention is placed by size there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreSdeConfig {
    /// The network.
    pub model: ScoreSdeModel,
    /// What it is for.
    pub data: ScoreSdeData,
}

/// The section `model`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the published names; explained by the fields of UNetConfig
pub struct ScoreSdeModel {
    #[serde(default)]
    pub nf: Option<usize>,
    #[serde(default)]
    pub en_nf: Option<usize>,
    #[serde(default)]
    pub de_nfs: Option<Vec<usize>>,
    #[serde(default)]
    pub stage_num: Option<usize>,
    /// Intervals (lo, hi] of t per stage.
    #[serde(default)]
    pub stage_interval: Option<Intervals>,
    pub ch_mult: Vec<usize>,
    pub num_res_blocks: usize,
    pub attn_resolutions: Vec<usize>,
    #[serde(default)]
    pub dropout: f64,
    #[serde(default = "groups")]
    pub group: usize,
    #[serde(default = "yes")]
    pub fir: bool,
    #[serde(default = "kernel")]
    pub fir_kernel: Vec<f64>,
    #[serde(default = "yes")]
    pub skip_rescale: bool,
    #[serde(default = "biggan")]
    pub resblock_type: String,
    #[serde(default = "none")]
    pub progressive: String,
    #[serde(default = "none")]
    pub progressive_input: String,
    #[serde(default = "sum")]
    pub progressive_combine: String,
    #[serde(default = "positional")]
    pub embedding_type: String,
    #[serde(default = "swish")]
    pub nonlinearity: String,
    #[serde(default = "yes")]
    pub conditional: bool,
    #[serde(default)]
    pub scale_by_sigma: bool,
    /// Of the unused table of noise levels.
    #[serde(default = "sigma_min")]
    pub sigma_min: f64,
    #[serde(default = "sigma_max")]
    pub sigma_max: f64,
    #[serde(default = "num_scales")]
    pub num_scales: usize,
    #[serde(default = "beta_min")]
    pub beta_min: f64,
    #[serde(default = "beta_max")]
    pub beta_max: f64,
    /// Has no effect.
    #[serde(default)]
    pub name: String,
    /// Has no effect.
    #[serde(default)]
    pub normalization: String,
    /// Has no effect with the blocks of BigGAN.
    #[serde(default)]
    pub resamp_with_conv: bool,
    /// Of training alone.
    #[serde(default)]
    pub ema_rate: f64,
    /// Of the beginning alone.
    #[serde(default)]
    pub init_scale: f64,
    /// Of the Fourier embedding alone.
    #[serde(default)]
    pub fourier_scale: f64,
    /// Has no effect.
    #[serde(default)]
    pub conv_size: usize,
}

/// The section `data`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ScoreSdeData {
    pub image_size: usize,
    #[serde(default = "three")]
    pub num_channels: usize,
    /// Whether images are in [-1, 1] already; otherwise they are in [0, 1] and the published network brings them there.
    #[serde(default)]
    pub centered: bool,
    /// Has no effect.
    #[serde(default)]
    pub dataset: String,
    /// Has no effect.
    #[serde(default)]
    pub random_flip: bool,
    /// Has no effect.
    #[serde(default)]
    pub uniform_dequantization: bool,
}

fn groups() -> usize {
    32
}

fn three() -> usize {
    3
}

fn yes() -> bool {
    true
}

fn kernel() -> Vec<f64> {
    vec![1.0, 3.0, 3.0, 1.0]
}

fn biggan() -> String {
    "biggan".into()
}

fn none() -> String {
    "none".into()
}

fn sum() -> String {
    "sum".into()
}

fn positional() -> String {
    "positional".into()
}

fn swish() -> String {
    "swish".into()
}

fn sigma_min() -> f64 {
    0.01
}

fn sigma_max() -> f64 {
    50.0
}

fn num_scales() -> usize {
    1000
}

fn beta_min() -> f64 {
    0.1
}

fn beta_max() -> f64 {
    20.0
}

/// Labels of the network per unit of t in the comparison with the stages' intervals; the labels themselves are 999 t.
const STAGE_LABELS: f64 = 1000.0;

impl ScoreSdeConfig {
    /// Our configuration of the same network.
    ///
    /// # Errors
    /// If the published one contradicts itself, asks for what is not here, or cannot be built.
    pub fn translate(&self) -> Result<UNetConfig> {
        let m = &self.model;
        m.check()?;
        let (width, decoders) = m.widths()?;
        let attention = levels_of_sizes(self.data.image_size, m.ch_mult.len(), &m.attn_resolutions);
        let decoder = |width| DecoderConfig { width, attention: attention.clone(), heads: None };
        let config = UNetConfig {
            family: Family::Ncsnpp,
            size: Some(self.data.image_size),
            in_channels: self.data.num_channels,
            out_channels: self.data.num_channels,
            width,
            multipliers: m.ch_mult.clone(),
            blocks: m.num_res_blocks,
            heads: Heads::Count(1),
            rescale: m.skip_rescale,
            resample: Resample::Block,
            filter: if m.fir { m.fir_kernel.clone() } else { vec![1.0, 1.0] },
            input_pyramid: match m.progressive_input.as_str() {
                "residual" => InputPyramid::Residual,
                "input_skip" => InputPyramid::Skip,
                _ => InputPyramid::None,
            },
            output_pyramid: m.progressive == "output_skip",
            dropout: m.dropout,
            groups: m.group,
            decoders: decoders.into_iter().map(decoder).collect(),
            attention: attention.clone(),
            ..UNetConfig::default()
        };
        config.validate()?;
        Ok(config)
    }

    /// The decoder (counted from 0) that the published code uses for a batch that begins with the label `time` (999 t): the last
    /// with an interval (lo, hi] of t such that 1000 lo < time <= 1000 hi.
    ///
    /// # Errors
    /// If there is none.
    pub fn stage_of(&self, time: f64) -> Result<usize> {
        let Some(intervals) = &self.model.stage_interval else { return Ok(0) };
        let scaled = |&(lo, hi): &(f64, Option<f64>)| (STAGE_LABELS * lo, hi.map(|hi| STAGE_LABELS * hi));
        let scaled: Intervals = intervals.iter().map(|one| one.iter().map(scaled).collect()).collect();
        stage_by_intervals(&scaled, time)
    }

    /// Sigmas between the stages, if each stage is one interval and they follow each other.
    pub fn boundaries(&self) -> Option<Vec<f64>> {
        let Some(intervals) = &self.model.stage_interval else { return Some(Vec::new()) };
        let schedule = self.schedule();
        Some(ascending_boundaries(intervals)?.into_iter().map(|t| schedule.sigma(t)).collect())
    }

    /// The VP schedule.
    pub fn schedule(&self) -> Schedule {
        Schedule::VpLinear { beta_min: self.model.beta_min, beta_max: self.model.beta_max, t_min: 1e-5 }
    }

    /// Images as the network is handed them here, in [-1, 1], from images as the published one is.
    pub fn centred(&self, x: &Tensor) -> Result<Tensor> {
        if self.data.centered { Ok(x.clone()) } else { Ok(x.affine(2.0, -1.0)?) }
    }

    /// Names of the bare module's state dict; published checkpoints have `module.` in front ([`KeyMap::with_prefix`]).
    ///
    /// # Errors
    /// As [`ScoreSdeConfig::translate`].
    pub fn key_map(&self) -> Result<KeyMap> {
        let mut map = key_map(&self.translate()?, self.model.de_nfs.is_some());
        map.insert_unused("sigmas", self.model.sigmas()?);
        Ok(map)
    }
}

/// The names of the bare module's state dict of our network `config`: of the `several` decoders of the multistage code or of the
/// original one.
pub(crate) fn key_map(config: &UNetConfig, several: bool) -> KeyMap {
    let plan = Plan::new(config);
    let mut names = Names { map: KeyMap::default(), list: if several { "en_modules" } else { "all_modules" }.into(), next: 0 };
    for ours in ["time_embedding.linear1", "time_embedding.linear2", "encoder.conv_in"] {
        let entry = names.entry();
        names.map.insert(ours, entry, Layout::Same);
    }
    names.steps(&plan.encoder, "encoder", config.input_pyramid);
    names.steps(&plan.middle, "middle", config.input_pyramid);
    for (stage, steps) in plan.decoders.iter().enumerate() {
        if several {
            (names.list, names.next) = (format!("de_modules.{stage}"), 0);
        }
        names.steps(steps, &format!("decoders.{stage}"), config.input_pyramid);
        if !config.output_pyramid {
            names.image(&format!("decoders.{stage}"), ["norm_out", "conv_out"]);
        }
    }
    names.map
}

impl ScoreSdeModel {
    /// What this implementation of the network does not have.
    fn check(&self) -> Result<()> {
        let words: [(&str, &str, &[&str]); 6] = [
            ("resblock_type", &self.resblock_type, &["biggan"]),
            ("progressive", &self.progressive, &["none", "output_skip"]),
            ("progressive_input", &self.progressive_input, &["none", "input_skip", "residual"]),
            ("progressive_combine", &self.progressive_combine, &["sum"]),
            ("embedding_type", &self.embedding_type, &["positional"]),
            ("nonlinearity", &self.nonlinearity, &["swish"]),
        ];
        let wrong = |(key, got, known): &(&str, &str, &[&str])| {
            (!known.contains(got)).then(|| format!("`{key}`: expected {}, got `{got}`", known.join(" or ")))
        };
        let mut problems: Vec<String> = words.iter().filter_map(wrong).collect();
        if !self.conditional {
            problems.push("`conditional`: expected true, got false".into());
        }
        if self.scale_by_sigma {
            problems.push("`scale_by_sigma`: expected false, got true".into());
        }
        if self.progressive_input == "residual" && !self.fir {
            problems.push("`progressive_input` residual: expected `fir` true, got false".into());
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::Config(problems.join("; "))) }
    }

    /// Widths of the encoder and of each decoder.
    fn widths(&self) -> Result<(usize, Vec<usize>)> {
        match (self.nf, self.en_nf, &self.de_nfs) {
            (Some(width), None, None) => Ok((width, vec![width])),
            (_, Some(width), Some(decoders)) => {
                let intervals = self.stage_interval.as_ref().map_or(0, Vec::len);
                Ok((width, decoder_widths(self.stage_num.unwrap_or(0), decoders, intervals, "de_nfs")?))
            }
            _ => Err(Error::Config("expected `nf`, or `en_nf` and `de_nfs`".into())),
        }
    }

    /// The table of noise levels that the state dict carries and nothing uses: float64, the largest first.
    fn sigmas(&self) -> Result<Tensor> {
        let last = self.num_scales.saturating_sub(1).max(1) as f64;
        let (from, to) = (self.sigma_max.ln(), self.sigma_min.ln());
        let table: Vec<f64> = (0..self.num_scales).map(|i| (from + (to - from) * i as f64 / last).exp()).collect();
        Ok(Tensor::from_vec(table, self.num_scales, &Device::Cpu)?)
    }
}

const BLOCK: [(&str, &str); 6] = [
    ("norm1", "GroupNorm_0"),
    ("conv1", "Conv_0"),
    ("embedding", "Dense_0"),
    ("norm2", "GroupNorm_1"),
    ("conv2", "Conv_1"),
    ("skip", "Conv_2"),
];

/// Our names beside the published ones, which are counted in the order of execution.
struct Names {
    map: KeyMap,
    list: String,
    next: usize,
}

impl Names {
    fn entry(&mut self) -> String {
        self.next += 1;
        format!("{}.{}", self.list, self.next - 1)
    }

    fn steps(&mut self, steps: &[Step], ours: &str, pyramid: InputPyramid) {
        for step in steps {
            let here = format!("{ours}.{}", step.name());
            match step {
                Step::Block { mixer, .. } => {
                    self.block(&here);
                    if mixer.is_some() {
                        self.attention(&here);
                    }
                }
                Step::Resample { .. } => self.block(&here),
                Step::Join { .. } => {
                    let conv = if pyramid == InputPyramid::Residual { "Conv2d_0" } else { "Conv_0" };
                    let entry = self.entry();
                    self.map.insert(format!("{here}.conv"), format!("{entry}.{conv}"), Layout::Same);
                }
                Step::ToImage { .. } => self.image(&here, ["norm", "conv"]),
            }
        }
    }

    fn block(&mut self, ours: &str) {
        let entry = self.entry();
        for (a, b) in BLOCK {
            self.map.insert(format!("{ours}.{a}"), format!("{entry}.{b}"), Layout::Same);
        }
    }

    fn attention(&mut self, ours: &str) {
        let entry = self.entry();
        let ours = format!("{ours}.attention");
        self.map.insert(format!("{ours}.norm"), format!("{entry}.GroupNorm_0"), Layout::Same);
        let qkv = (0..3).map(|i| format!("{entry}.NIN_{i}")).collect();
        self.map.insert_parts(format!("{ours}.qkv"), qkv, Layout::Nin);
        self.map.insert(format!("{ours}.out"), format!("{entry}.NIN_3"), Layout::Nin);
    }

    /// A norm and a convolution, two entries.
    fn image(&mut self, ours: &str, names: [&str; 2]) {
        for name in names {
            let entry = self.entry();
            self.map.insert(format!("{ours}.{name}"), entry, Layout::Same);
        }
    }
}
