//! The published configuration of latent diffusion's U-Nets, and the names in their checkpoints.

use serde::{Deserialize, Serialize};

use crate::unet::{
    config::{DecoderConfig, Heads, Resample, TransformerConfig, UNetConfig},
    key_map::{KeyMap, Layout},
    plan::{Direction, Plan, Step},
};
use crate::{Error, Result};

/// Configuration of `UNetModel` and `UNetModel_multistage` in the names of latent diffusion's code; -1 means "not given".
/// Attention is placed by downsampling factor there. With several decoders the counter of that factor is not reset between them,
/// so that later decoders have little or no attention; [`LdmUNetConfig::translate`] reproduces the placement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // the published names; explained by the fields of UNetConfig
pub struct LdmUNetConfig {
    #[serde(default)]
    pub image_size: Option<serde_json::Value>,
    pub in_channels: usize,
    pub model_channels: usize,
    pub out_channels: usize,
    pub num_res_blocks: usize,
    pub attention_resolutions: Vec<usize>,
    #[serde(default)]
    pub dropout: f64,
    pub channel_mult: Vec<usize>,
    #[serde(default = "yes")]
    pub conv_resample: bool,
    #[serde(default)]
    pub num_classes: Option<usize>,
    #[serde(default = "not_given")]
    pub num_heads: i64,
    #[serde(default = "not_given")]
    pub num_head_channels: i64,
    #[serde(default = "not_given")]
    pub num_heads_upsample: i64,
    #[serde(default)]
    pub use_scale_shift_norm: bool,
    #[serde(default)]
    pub resblock_updown: bool,
    #[serde(default)]
    pub use_new_attention_order: bool,
    #[serde(default)]
    pub use_spatial_transformer: bool,
    #[serde(default = "one")]
    pub transformer_depth: usize,
    #[serde(default)]
    pub context_dim: Option<usize>,
    #[serde(default)]
    pub n_embed: Option<usize>,
    #[serde(default = "yes")]
    pub legacy: bool,
    /// Multistage only: number of decoders.
    #[serde(default)]
    pub stage_num: Option<usize>,
    /// Multistage only: width of each decoder.
    #[serde(default)]
    pub de_nfs: Option<Vec<usize>>,
    /// Multistage only: upper bound of the timestep of each stage.
    #[serde(default)]
    pub stage_interval: Option<Vec<f64>>,
}

fn yes() -> bool {
    true
}

fn not_given() -> i64 {
    -1
}

fn one() -> usize {
    1
}

impl LdmUNetConfig {
    /// Our configuration of the same network.
    ///
    /// # Errors
    /// If the published one contradicts itself or cannot be built.
    pub fn translate(&self) -> Result<UNetConfig> {
        let widths = self.decoder_widths()?;
        let placement = self.decoder_attention(widths.len());
        let heads = self.heads()?;
        let decoder = |(width, attention)| DecoderConfig { width, attention, heads: self.decoder_heads() };
        let config = UNetConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            width: self.model_channels,
            multipliers: self.channel_mult.clone(),
            blocks: self.num_res_blocks,
            attention: self.levels_of(&(0..self.channel_mult.len()).map(|level| 1 << level).collect::<Vec<_>>()),
            heads,
            transformer: self.transformer()?,
            scale_shift: self.use_scale_shift_norm,
            resample: match (self.resblock_updown, self.conv_resample) {
                (true, _) => Resample::Block,
                (false, true) => Resample::Convolution,
                (false, false) => Resample::Mean,
            },
            classes: self.num_classes,
            codebook: self.n_embed,
            dropout: self.dropout,
            decoders: widths.into_iter().zip(placement).map(decoder).collect(),
            ..UNetConfig::default()
        };
        config.validate()?;
        Ok(config)
    }

    /// The decoder (counted from 0) that the published code uses for a batch that begins with `timestep`: the first whose bound
    /// is above it, else the last.
    pub fn stage_of(&self, timestep: f64) -> usize {
        let bounds = self.stage_interval.as_deref().unwrap_or_default();
        let last = self.stage_num.unwrap_or(1).saturating_sub(1);
        bounds.iter().position(|bound| timestep < *bound).unwrap_or(last)
    }

    /// Names of the published checkpoint, without the prefix `model.diffusion_model.`.
    ///
    /// # Errors
    /// As [`LdmUNetConfig::translate`].
    pub fn key_map(&self) -> Result<KeyMap> {
        key_map(&self.translate()?, self.stage_num.is_some(), self.use_new_attention_order)
    }

    fn decoder_widths(&self) -> Result<Vec<usize>> {
        match (self.stage_num, &self.de_nfs) {
            (None, None) => Ok(vec![self.model_channels]),
            (Some(n), Some(widths)) if widths.len() == n => {
                let bounds = self.stage_interval.as_ref().map_or(n, Vec::len);
                if bounds != n {
                    return Err(Error::Config(format!("`stage_interval`: expected {n} bounds (`stage_num`), got {bounds}")));
                }
                Ok(widths.clone())
            }
            (n, widths) => Err(Error::Config(format!("`stage_num` {n:?} and `de_nfs` {widths:?} do not agree"))),
        }
    }

    /// Levels whose factor is among `attention_resolutions`; `factors[level]` is what the published counter says there.
    fn levels_of(&self, factors: &[usize]) -> Vec<usize> {
        let attends = |level: &usize| self.attention_resolutions.contains(&factors[*level]);
        (0..factors.len()).filter(attends).collect()
    }

    /// The counter starts at the deepest level's factor, is halved (rounding down) after every level but the first, and goes on
    /// from one decoder to the next.
    fn decoder_attention(&self, decoders: usize) -> Vec<Vec<usize>> {
        let levels = self.channel_mult.len();
        let mut counter = 1usize << levels.saturating_sub(1);
        let mut one = || {
            let mut factors = vec![0; levels];
            for level in (0..levels).rev() {
                factors[level] = counter;
                if level > 0 {
                    counter /= 2;
                }
            }
            self.levels_of(&factors)
        };
        (0..decoders).map(|_| one()).collect()
    }

    fn heads(&self) -> Result<Heads> {
        match (given(self.num_heads), given(self.num_head_channels)) {
            (_, Some(width)) => Ok(Heads::Width(width)),
            (Some(count), None) => Ok(Heads::Count(count)),
            (None, None) => Err(Error::Config("`num_heads` or `num_head_channels` must be given".into())),
        }
    }

    fn decoder_heads(&self) -> Option<Heads> {
        if self.use_spatial_transformer || !self.legacy || given(self.num_head_channels).is_some() {
            return None;
        }
        given(self.num_heads_upsample).map(Heads::Count)
    }

    fn transformer(&self) -> Result<Option<TransformerConfig>> {
        match (self.use_spatial_transformer, self.context_dim) {
            (true, Some(context_width)) => Ok(Some(TransformerConfig { depth: self.transformer_depth, context_width })),
            (false, None) => Ok(None),
            (true, None) => Err(Error::Config("`use_spatial_transformer` needs `context_dim`".into())),
            (false, Some(_)) => Err(Error::Config("`context_dim` needs `use_spatial_transformer`".into())),
        }
    }
}

/// The names of the published checkpoint of our network `config`: of the `several` decoders of the multistage code or of the original
/// one; `in_order`: whether rows are all q, all k, all v rather than head by head.
pub(crate) fn key_map(config: &UNetConfig, several: bool, in_order: bool) -> Result<KeyMap> {
    let plan = Plan::new(config);
    let names = Names { config, several, in_order };
    let mut map = KeyMap::default();
    for (ours, published) in [
        ("time_embedding.linear1", "time_embed.0"),
        ("time_embedding.linear2", "time_embed.2"),
        ("class_embedding", "label_emb"),
        ("encoder.conv_in", "input_blocks.0.0"),
    ] {
        map.insert(ours, published, Layout::Same);
    }
    for (i, step) in plan.encoder.iter().enumerate() {
        names.step(&mut map, step, "encoder", &format!("input_blocks.{}", i + 1), 0);
    }
    for (step, first) in plan.middle.iter().zip([0, 2]) {
        names.step(&mut map, step, "middle", "middle_block", first);
    }
    for (stage, steps) in plan.decoders.iter().enumerate() {
        names.decoder(&mut map, stage, steps, plan.c_out[stage])?;
    }
    Ok(map)
}

fn given(n: i64) -> Option<usize> {
    usize::try_from(n).ok()
}

/// Our names beside the published ones.
struct Names<'a> {
    config: &'a UNetConfig,
    several: bool,
    in_order: bool,
}

const RESIDUAL: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("embedding", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("skip", "skip_connection"),
];

pub(super) const TRANSFORMER_BLOCK: [(&str, &str); 13] = [
    ("norm1", "norm1"),
    ("attention1.q", "attn1.to_q"),
    ("attention1.k", "attn1.to_k"),
    ("attention1.v", "attn1.to_v"),
    ("attention1.out", "attn1.to_out.0"),
    ("norm2", "norm2"),
    ("attention2.q", "attn2.to_q"),
    ("attention2.k", "attn2.to_k"),
    ("attention2.v", "attn2.to_v"),
    ("attention2.out", "attn2.to_out.0"),
    ("norm3", "norm3"),
    ("feed_in", "ff.net.0.proj"),
    ("feed_out", "ff.net.2"),
];

impl Names<'_> {
    /// A step of ours below `ours`, published as the entries `first`, `first + 1` of the block `published`. Answers the next.
    fn step(&self, map: &mut KeyMap, step: &Step, ours: &str, published: &str, first: usize) -> usize {
        let ours = format!("{ours}.{}", step.name());
        match *step {
            Step::Block { c_out, mixer, .. } => {
                residual(map, &ours, &format!("{published}.{first}"));
                let Some(heads) = mixer else { return first + 1 };
                self.mixer(map, &ours, &format!("{published}.{}", first + 1), heads.count(c_out).unwrap_or(1));
                first + 2
            }
            Step::Resample { direction, .. } => {
                match (self.config.resample, direction) {
                    (Resample::Block, _) => residual(map, &ours, &format!("{published}.{first}")),
                    (_, Direction::Down) => map.insert(format!("{ours}.conv"), format!("{published}.{first}.op"), Layout::Same),
                    (_, Direction::Up) => map.insert(format!("{ours}.conv"), format!("{published}.{first}.conv"), Layout::Same),
                }
                first + 1
            }
            // Latent diffusion has no image pyramids.
            Step::Join { .. } | Step::ToImage { .. } => first,
        }
    }

    fn mixer(&self, map: &mut KeyMap, ours: &str, published: &str, heads: usize) {
        if let Some(transformer) = &self.config.transformer {
            return self.transformer(map, &format!("{ours}.transformer"), published, transformer.depth);
        }
        let layout = if self.in_order { Layout::Same } else { Layout::QkvPerHead(heads) };
        map.insert(format!("{ours}.attention.norm"), format!("{published}.norm"), Layout::Same);
        map.insert(format!("{ours}.attention.qkv"), format!("{published}.qkv"), layout);
        map.insert(format!("{ours}.attention.out"), format!("{published}.proj_out"), Layout::Same);
    }

    fn transformer(&self, map: &mut KeyMap, ours: &str, published: &str, depth: usize) {
        for name in ["norm", "proj_in", "proj_out"] {
            map.insert(format!("{ours}.{name}"), format!("{published}.{name}"), Layout::Same);
        }
        for i in 0..depth {
            for (a, b) in TRANSFORMER_BLOCK {
                map.insert(format!("{ours}.block{i}.{a}"), format!("{published}.transformer_blocks.{i}.{b}"), Layout::Same);
            }
        }
    }

    /// Published decoders put a level's upsampler into the entry of its last block.
    fn decoder(&self, map: &mut KeyMap, stage: usize, steps: &[Step], c_out: usize) -> Result<()> {
        let ours = format!("decoders.{stage}");
        let (blocks, out, ids) = if self.several {
            (format!("de_modules.{stage}"), format!("outs.{stage}"), format!("id_predictors.{stage}"))
        } else {
            ("output_blocks".into(), "out".into(), "id_predictor".into())
        };
        let (mut n, mut next) = (0, 0);
        for step in steps {
            if let Step::Block { .. } = step {
                next = self.step(map, step, &ours, &format!("{blocks}.{n}"), 0);
                n += 1;
            } else {
                self.step(map, step, &ours, &format!("{blocks}.{}", n - 1), next);
            }
        }
        if self.config.codebook.is_some() {
            map.insert(format!("{ours}.codebook.norm"), format!("{ids}.0"), Layout::Same);
            map.insert(format!("{ours}.codebook.out"), format!("{ids}.1"), Layout::Same);
            unused_head(map, &out, c_out, self.config.out_channels)?;
        } else {
            map.insert(format!("{ours}.norm_out"), format!("{out}.0"), Layout::Same);
            map.insert(format!("{ours}.conv_out"), format!("{out}.2"), Layout::Same);
        }
        Ok(())
    }
}

fn residual(map: &mut KeyMap, ours: &str, published: &str) {
    for (a, b) in RESIDUAL {
        map.insert(format!("{ours}.{a}"), format!("{published}.{b}"), Layout::Same);
    }
}

/// With a codebook the published network still has its image head, which nothing uses.
fn unused_head(map: &mut KeyMap, out: &str, channels: usize, out_channels: usize) -> Result<()> {
    map.insert_unused_zeros(format!("{out}.0.weight"), &[channels])?;
    map.insert_unused_zeros(format!("{out}.0.bias"), &[channels])?;
    map.insert_unused_zeros(format!("{out}.2.weight"), &[out_channels, channels, 3, 3])?;
    map.insert_unused_zeros(format!("{out}.2.bias"), &[out_channels])
}
