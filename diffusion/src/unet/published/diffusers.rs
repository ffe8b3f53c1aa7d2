//! The published configuration of diffusers' U-Nets: read, and written for networks that their classes can express.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::unet::{
    config::{DecoderConfig, Heads, Resample, TransformerConfig, UNetConfig},
    details::Details,
    family::Family,
};
use crate::{Error, Result};

mod keys;
mod write;

pub(crate) use keys::key_map;
pub use keys::{diffusers_keys, modern_name};
pub use write::diffusers_config_json;

/// `config.json` of a `UNet2DModel` or `UNet2DConditionModel`. Absent keys have the defaults of diffusers; keys that Strata has no
/// counterpart for must say what those networks have that do without.
#[derive(Clone, Debug, Deserialize)]
#[allow(missing_docs)] // the published names; explained by the fields of UNetConfig and Details
pub struct DiffusersUNet {
    #[serde(skip)]
    conditional: bool,
    #[serde(default)]
    sample_size: Value,
    in_channels: Option<usize>,
    out_channels: Option<usize>,
    down_block_types: Option<Vec<String>>,
    up_block_types: Option<Vec<String>>,
    /// Null is none at all.
    #[serde(default = "of_class")]
    mid_block_type: Value,
    block_out_channels: Option<Vec<usize>>,
    layers_per_block: Option<OneOrMany>,
    transformer_layers_per_block: Option<OneOrMany>,
    /// Null is one head.
    #[serde(default = "of_class")]
    attention_head_dim: Value,
    num_attention_heads: Option<OneOrMany>,
    cross_attention_dim: Option<OneOrMany>,
    norm_num_groups: Option<usize>,
    attn_norm_num_groups: Option<usize>,
    norm_eps: Option<f64>,
    #[serde(default)]
    dropout: f64,
    flip_sin_to_cos: Option<bool>,
    #[serde(default)]
    freq_shift: f64,
    downsample_padding: Option<usize>,
    downsample_type: Option<String>,
    upsample_type: Option<String>,
    resnet_time_scale_shift: Option<String>,
    time_embedding_dim: Option<usize>,
    num_class_embeds: Option<usize>,
    add_attention: Option<bool>,
    use_linear_projection: Option<bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// What stands for a key that is absent where null means something else: the class has its own value.
fn of_class() -> Value {
    Value::String("of the class".into())
}

/// A number for all levels, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(usize),
    Many(Vec<usize>),
}

impl OneOrMany {
    /// The number that holds for all levels.
    fn single(&self, key: &str) -> Result<usize> {
        match self {
            Self::One(n) => Ok(*n),
            Self::Many(all) => match all.as_slice() {
                [first, rest @ ..] if rest.iter().all(|n| n == first) => Ok(*first),
                _ => Err(wrong(key, "the same number for all levels", format!("{all:?}"))),
            },
        }
    }

    fn levels(&self, key: &str, levels: usize) -> Result<Vec<usize>> {
        match self {
            Self::One(n) => Ok(vec![*n; levels]),
            Self::Many(all) if all.len() == levels => Ok(all.clone()),
            Self::Many(all) => Err(wrong(key, &format!("{levels} numbers, as block_out_channels"), format!("{all:?}"))),
        }
    }
}

fn wrong(key: &str, expected: &str, got: impl std::fmt::Display) -> Error {
    Error::Config(format!("`{key}` of diffusers' config.json: expected {expected}, got {got}"))
}

/// Keys beyond those of the struct, each with the values under which it changes nothing; none: it never does.
const NEUTRAL: [(&str, &[&str]); 27] = [
    ("act_fn", &["\"silu\"", "\"swish\""]),
    ("addition_embed_type", &["null"]),
    ("addition_embed_type_num_heads", &[]),
    ("addition_time_embed_dim", &["null"]),
    ("attention_type", &["\"default\""]),
    ("center_input_sample", &["false"]),
    ("class_embed_type", &["null"]),
    ("class_embeddings_concat", &["false"]),
    ("conv_in_kernel", &["3"]),
    ("conv_out_kernel", &["3"]),
    ("cross_attention_norm", &["null"]),
    ("dual_cross_attention", &["false"]),
    ("encoder_hid_dim", &["null"]),
    ("encoder_hid_dim_type", &["null"]),
    ("mid_block_only_cross_attention", &["null", "false"]),
    ("mid_block_scale_factor", &["1", "1.0"]),
    ("num_train_timesteps", &[]),
    ("only_cross_attention", &["false"]),
    ("projection_class_embeddings_input_dim", &["null"]),
    ("resnet_out_scale_factor", &["1", "1.0"]),
    ("resnet_skip_time_act", &["false"]),
    ("reverse_transformer_layers_per_block", &["null"]),
    ("time_cond_proj_dim", &["null"]),
    ("time_embedding_act_fn", &["null"]),
    ("time_embedding_type", &["\"positional\""]),
    ("timestep_post_act", &["null"]),
    ("upcast_attention", &[]),
];

impl DiffusersUNet {
    /// Reads a `config.json`; keys that begin with `_` are diffusers' own notes, of which `_class_name` says what it is.
    ///
    /// # Errors
    /// One that lists every key that has no counterpart.
    pub fn from_json(json: &Value) -> Result<Self> {
        let class = json["_class_name"].as_str().unwrap_or("nothing");
        if !["UNet2DModel", "UNet2DConditionModel"].contains(&class) {
            return Err(wrong("_class_name", "UNet2DModel or UNet2DConditionModel", class));
        }
        let table = json.as_object().into_iter().flatten().filter(|(key, _)| !key.starts_with('_'));
        let table: Map<String, Value> = table.map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut config: Self = serde_json::from_value(Value::Object(table))
            .map_err(|e| Error::Config(format!("diffusers' config.json of a {class}: {e}")))?;
        config.conditional = class == "UNet2DConditionModel";
        let problems: Vec<String> = config.rest.iter().filter_map(|(key, value)| beyond(key, value)).collect();
        if problems.is_empty() {
            return Ok(config);
        }
        Err(Error::Config(format!("diffusers' config.json of a {class}:\n  {}", problems.join("\n  "))))
    }

    /// Our configuration of the same network.
    ///
    /// # Errors
    /// If a value has no counterpart, or the network cannot be built.
    pub fn translate(&self) -> Result<UNetConfig> {
        let widths = self.block_out_channels.clone().unwrap_or(if self.conditional {
            vec![320, 640, 1280, 1280]
        } else {
            vec![224, 448, 672, 896]
        });
        let (levels, first) = (widths.len(), widths.first().copied().unwrap_or(0));
        let embedded = self.time_embedding_dim.unwrap_or(4 * first);
        let width = widths.iter().copied().chain([embedded]).fold(0, greatest_common_divisor);
        if width == 0 {
            return Err(wrong("block_out_channels", "numbers above 0", format!("{widths:?}")));
        }
        let blocks = self.blocks(levels)?;
        let scale_shift = self.scale_shift()?;
        let channels = if self.conditional { 4 } else { 3 };
        let config = UNetConfig {
            family: Family::Diffusers,
            size: side(&self.sample_size),
            in_channels: self.in_channels.unwrap_or(channels),
            out_channels: self.out_channels.unwrap_or(channels),
            width,
            wave_multiplier: first / width,
            embedding_multiplier: embedded / width,
            multipliers: widths.iter().map(|w| w / width).collect(),
            blocks: self.layers_per_block.as_ref().map_or(Ok(2), |n| n.single("layers_per_block"))?,
            attention: blocks.down_attention,
            heads: Heads::Count(1),
            transformer: self.transformer()?,
            scale_shift,
            classes: self.num_class_embeds,
            dropout: self.dropout,
            groups: self.norm_num_groups.unwrap_or(32),
            zero_init: false,
            details: Some(Details {
                eps: self.norm_eps.unwrap_or(1e-5),
                wave_shift: self.freq_shift,
                sines_first: !self.flip_sin_to_cos.unwrap_or(true),
                pad_right_below: self.pad_right_below()?,
                down: blocks.down,
                up: blocks.up,
                heads: self.heads(&widths)?,
                middle_attention: self.middle_attention()?,
                middle_norm: self.middle_norm(scale_shift)?,
                linear_projection: self.use_linear_projection.unwrap_or(false),
            }),
            decoders: vec![DecoderConfig { width, attention: blocks.up_attention, heads: None }],
            ..UNetConfig::default()
        };
        config.validate()?;
        Ok(config)
    }

    fn scale_shift(&self) -> Result<bool> {
        match self.resnet_time_scale_shift.as_deref() {
            None | Some("default") => Ok(false),
            Some("scale_shift") => Ok(true),
            Some(other) => Err(wrong("resnet_time_scale_shift", "default or scale_shift", other)),
        }
    }

    fn pad_right_below(&self) -> Result<bool> {
        match self.downsample_padding {
            None | Some(1) => Ok(false),
            Some(0) => Ok(true),
            Some(other) => Err(wrong("downsample_padding", "0 or 1", other)),
        }
    }

    fn transformer(&self) -> Result<Option<TransformerConfig>> {
        if !self.conditional {
            return Ok(None);
        }
        let context_width = self.cross_attention_dim.as_ref().map_or(Ok(1280), |n| n.single("cross_attention_dim"))?;
        let depth = self.transformer_layers_per_block.as_ref().map_or(Ok(1), |n| n.single("transformer_layers_per_block"))?;
        Ok(Some(TransformerConfig { depth, context_width }))
    }

    fn middle_attention(&self) -> Result<bool> {
        let expected = if self.conditional { "UNetMidBlock2DCrossAttn" } else { "UNetMidBlock2D" };
        if self.mid_block_type != of_class() && self.mid_block_type != expected {
            return Err(wrong("mid_block_type", expected, &self.mid_block_type));
        }
        Ok(self.conditional || self.add_attention.unwrap_or(true))
    }

    /// The middle's attention has no norm in a network that scales and shifts, unless its groups are given.
    fn middle_norm(&self, scale_shift: bool) -> Result<bool> {
        let groups = self.norm_num_groups.unwrap_or(32);
        match self.attn_norm_num_groups {
            None => Ok(self.conditional || !scale_shift),
            Some(n) if n == groups => Ok(true),
            Some(n) => Err(wrong("attn_norm_num_groups", &format!("norm_num_groups ({groups}) or null"), n)),
        }
    }

    /// The number of heads at each level. What the conditional class calls `attention_head_dim` is their number; in the other it is
    /// the channels of each.
    fn heads(&self, widths: &[usize]) -> Result<Vec<usize>> {
        const KEY: &str = "attention_head_dim";
        let given: Option<OneOrMany> = match &self.attention_head_dim {
            Value::Null => None,
            value if *value == of_class() => Some(OneOrMany::One(8)),
            value => {
                Some(serde_json::from_value(value.clone()).map_err(|_| wrong(KEY, "a number or one for each level", value))?)
            }
        };
        match (self.conditional, &self.num_attention_heads, given) {
            (true, Some(heads), _) => heads.levels("num_attention_heads", widths.len()),
            (true, None, Some(heads)) => heads.levels(KEY, widths.len()),
            (true, None, None) => Err(wrong(KEY, "a number or one for each level", "null")),
            (false, _, None) => Ok(vec![1; widths.len()]),
            (false, _, Some(head)) => {
                let head = head.single(KEY)?;
                // Where channels cannot be divided into heads there may be no attention.
                Ok(widths.iter().map(|w| w.checked_div(head).unwrap_or(0).max(1)).collect())
            }
        }
    }

    fn blocks(&self, levels: usize) -> Result<Blocks> {
        let attention =
            if self.conditional { ["CrossAttnDownBlock2D", "CrossAttnUpBlock2D"] } else { ["AttnDownBlock2D", "AttnUpBlock2D"] };
        let of_attention = |key: &str, given: &Option<String>| match given.as_deref() {
            None | Some("conv") => Ok(Resample::Convolution),
            Some("resnet") if !self.conditional => Ok(Resample::Block),
            Some(other) => Err(wrong(key, "conv or resnet", other)),
        };
        let down_names = [attention[0], "DownBlock2D", "ResnetDownsampleBlock2D"];
        let up_names = [attention[1], "UpBlock2D", "ResnetUpsampleBlock2D"];
        let default = |names: [&str; 3], with: &[bool]| -> Vec<String> {
            with.iter().map(|&with| names[usize::from(!with)].to_string()).collect()
        };
        // The two classes attend in complementary levels by default: all but the lowest, and all but the first.
        let attends = if self.conditional { [true, true, true, false] } else { [false, true, true, true] };
        let reversed: Vec<bool> = attends.iter().rev().copied().collect();
        let down = self.down_block_types.clone().unwrap_or_else(|| default(down_names, &attends));
        let mut up = self.up_block_types.clone().unwrap_or_else(|| default(up_names, &reversed));
        up.reverse();
        let (down_attention, mut down) =
            sides("down_block_types", &down, levels, (down_names, of_attention("downsample_type", &self.downsample_type)?))?;
        let (up_attention, mut up) =
            sides("up_block_types", &up, levels, (up_names, of_attention("upsample_type", &self.upsample_type)?))?;
        // The lowest level is not halved, and level 0 is not doubled.
        down.pop();
        up.drain(..up.len().min(1));
        Ok(Blocks { down_attention, up_attention, down, up })
    }
}

/// Which levels attend, and how they change the resolution.
struct Blocks {
    down_attention: Vec<usize>,
    up_attention: Vec<usize>,
    down: Vec<Resample>,
    up: Vec<Resample>,
}

/// Of block types, level 0 first: with attention (which resamples as said), plain, and resampling in a block.
fn sides(
    key: &str,
    types: &[String],
    levels: usize,
    ([attention, plain, block], how): ([&str; 3], Resample),
) -> Result<(Vec<usize>, Vec<Resample>)> {
    if types.len() != levels {
        return Err(wrong(key, &format!("{levels} blocks, as block_out_channels"), types.len()));
    }
    let (mut attends, mut resample) = (Vec::new(), Vec::new());
    for (level, name) in types.iter().enumerate() {
        resample.push(match name.as_str() {
            name if name == attention => {
                attends.push(level);
                how
            }
            name if name == plain => Resample::Convolution,
            name if name == block => Resample::Block,
            other => return Err(wrong(key, &format!("{attention}, {plain} or {block}"), other)),
        });
    }
    Ok((attends, resample))
}

/// What is wrong with a key that the struct has not.
fn beyond(key: &str, value: &Value) -> Option<String> {
    let Some((_, neutral)) = NEUTRAL.iter().find(|(name, _)| *name == key) else {
        return Some(format!("`{key}` is unknown"));
    };
    // A list says the same for each level.
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let fits = neutral.is_empty() || values.iter().all(|v| neutral.contains(&v.to_string().as_str()));
    (!fits).then(|| format!("`{key}`: expected {}, got {value}", neutral.join(" or ")))
}

/// The side of square samples: a number, or two that agree.
fn side(size: &Value) -> Option<usize> {
    let of = |n: &Value| n.as_u64().map(|n| n as usize).filter(|&n| n > 0);
    match size.as_array().map(Vec::as_slice) {
        Some([height, width]) if height == width => of(height),
        Some(_) => None,
        None => of(size),
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}
