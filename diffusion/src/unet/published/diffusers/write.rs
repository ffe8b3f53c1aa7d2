//! `config.json` of diffusers' U-Nets for networks of ours that its classes can express.

use serde_json::{Value, json};

use crate::unet::{
    config::{InputPyramid, Resample, UNetConfig, Waves},
    family::Family,
    plan::Direction,
};
use crate::{Error, Result};

/// `config.json` of the `UNet2DModel`, or with cross attention `UNet2DConditionModel`, that is the network `config`.
///
/// # Errors
/// One that lists every part that diffusers' class has not.
pub fn diffusers_config_json(config: &UNetConfig) -> Result<Value> {
    config.validate()?;
    let problems = inexpressible(config);
    if !problems.is_empty() {
        return Err(Error::Config(format!("diffusers has no such network:\n  {}", problems.join("\n  "))));
    }
    let widths: Vec<usize> = config.multipliers.iter().map(|m| m * config.width).collect();
    let mut json = json!({
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "sample_size": config.size,
        "block_out_channels": widths,
        "layers_per_block": config.blocks,
        "act_fn": "silu",
        "dropout": config.dropout,
        "norm_num_groups": config.groups,
        "norm_eps": config.eps(),
        "flip_sin_to_cos": !config.sines_first(),
        "freq_shift": config.wave_shift(),
        "downsample_padding": usize::from(!config.pads_right_below()),
        "resnet_time_scale_shift": if config.scale_shift { "scale_shift" } else { "default" },
        "time_embedding_dim": config.embedding_width(),
        "num_class_embeds": config.classes,
        "down_block_types": block_types(config, Direction::Down),
        "up_block_types": block_types(config, Direction::Up),
    });
    let heads = head_counts(config);
    match &config.transformer {
        Some(transformer) => {
            json["_class_name"] = "UNet2DConditionModel".into();
            json["mid_block_type"] = "UNetMidBlock2DCrossAttn".into();
            json["attention_head_dim"] = heads.into();
            json["cross_attention_dim"] = transformer.context_width.into();
            json["transformer_layers_per_block"] = transformer.depth.into();
            json["use_linear_projection"] = (config.projection_trailing() == 0).into();
        }
        None => {
            json["_class_name"] = "UNet2DModel".into();
            json["attention_head_dim"] = head_width(config).unwrap_or_default();
            json["add_attention"] = config.middle_attends().into();
            json["downsample_type"] = kind(attending(config, Direction::Down).next()).into();
            json["upsample_type"] = kind(attending(config, Direction::Up).next()).into();
            if config.scale_shift && config.middle_norm() {
                json["attn_norm_num_groups"] = config.groups.into();
            }
        }
    }
    Ok(json)
}

/// What diffusers' classes have no place for.
fn inexpressible(config: &UNetConfig) -> Vec<String> {
    let of_family = matches!(config.family, Family::Ldm | Family::Diffusers);
    let [decoder] = config.decoders.as_slice() else {
        return vec![format!("`decoders`: expected one, got {}", config.decoders.len())];
    };
    let conditional = config.transformer.is_some();
    let ways: Vec<Resample> = [Direction::Down, Direction::Up].into_iter().flat_map(|d| changes(config, d)).collect();
    let one_way = |direction| {
        let mut ways = attending(config, direction);
        let first = ways.next();
        ways.all(|way| Some(way) == first)
    };
    let as_convolution = |direction| attending(config, direction).all(|way| way == Resample::Convolution);
    let both = |check: &dyn Fn(Direction) -> bool| check(Direction::Down) && check(Direction::Up);
    let needs = [
        ("family", of_family, "`ldm` or `diffusers`"),
        ("decoders.0.width", decoder.width == config.width, "that of the encoder"),
        ("decoders.0.heads", decoder.heads.is_none_or(|h| h == config.heads), "those of the encoder"),
        ("waves", config.waves == Waves::Sinusoidal, "sinusoidal"),
        ("wave_multiplier", config.wave_width() == config.first_channels(), "waves for each channel of the first convolution"),
        ("multipliers", config.first_channels() == config.width * config.multipliers[0], "1 for level 0"),
        ("rescale", !config.rescale, "false"),
        ("input_pyramid", config.input_pyramid == InputPyramid::None, "none"),
        ("output_pyramid", !config.output_pyramid, "false"),
        ("augment", config.augment.is_none(), "none"),
        ("condition_width", config.condition_width.is_none(), "none"),
        ("codebook", config.codebook.is_none(), "none"),
        ("filter", config.filter == [1.0, 1.0], "[1, 1]"),
        ("resample", !ways.contains(&Resample::Mean), "`convolution` or `block`"),
        ("details.down and details.up", conditional || both(&one_way), "one way for all levels with attention"),
        ("resample", !conditional || both(&as_convolution), "`convolution` where there is cross attention"),
        ("heads", conditional || head_width(config).is_some(), "heads of the same width in all levels, or one head"),
        ("details.middle_attention", !conditional || config.middle_attends(), "true where there is cross attention"),
        ("details.middle_norm", conditional || config.middle_norm() || config.scale_shift, "true unless `scale_shift`"),
    ];
    needs.iter().filter(|(_, fits, _)| !fits).map(|(key, _, expected)| format!("`{key}`: expected {expected}")).collect()
}

fn attention(config: &UNetConfig, direction: Direction) -> &[usize] {
    match direction {
        Direction::Down => &config.attention,
        Direction::Up => config.decoders.first().map_or(&[], |d| d.attention.as_slice()),
    }
}

/// How the resolution changes after each level's blocks; the last has no change.
fn change(config: &UNetConfig, level: usize, direction: Direction) -> Option<Resample> {
    match direction {
        Direction::Down => (level + 1 < config.levels()).then(|| config.resample_to(level + 1, direction)),
        Direction::Up => Some(config.resample_to(level.checked_sub(1)?, direction)),
    }
}

fn changes(config: &UNetConfig, direction: Direction) -> impl Iterator<Item = Resample> {
    (0..config.levels()).filter_map(move |level| change(config, level, direction))
}

/// The same of the levels with attention.
fn attending(config: &UNetConfig, direction: Direction) -> impl Iterator<Item = Resample> {
    attention(config, direction).iter().filter_map(move |&level| change(config, level, direction))
}

/// The way of the levels with attention in diffusers' words.
fn kind(way: Option<Resample>) -> &'static str {
    if way == Some(Resample::Block) { "resnet" } else { "conv" }
}

fn block_types(config: &UNetConfig, direction: Direction) -> Vec<&'static str> {
    let [attends, crosses, plain, block] = match direction {
        Direction::Down => ["AttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D"],
        Direction::Up => ["AttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "ResnetUpsampleBlock2D"],
    };
    let one = |level: usize| match (attention(config, direction).contains(&level), change(config, level, direction)) {
        (true, _) if config.transformer.is_some() => crosses,
        (true, _) => attends,
        (false, Some(Resample::Block)) => block,
        (false, _) => plain,
    };
    let levels = 0..config.levels();
    if direction == Direction::Down { levels.map(one).collect() } else { levels.rev().map(one).collect() }
}

fn head_counts(config: &UNetConfig) -> Vec<usize> {
    let one = |(level, m): (usize, &usize)| config.heads_at(level, config.heads).count(m * config.width).unwrap_or(1);
    config.multipliers.iter().enumerate().map(one).collect()
}

/// The channels of each head, if they are the same wherever there is attention; null: one head everywhere.
fn head_width(config: &UNetConfig) -> Option<Value> {
    let lowest = config.levels().checked_sub(1).filter(|_| config.middle_attends());
    let mut levels: Vec<usize> = attention(config, Direction::Down).to_vec();
    levels.extend(attention(config, Direction::Up).iter().copied().chain(lowest));
    let counts = head_counts(config);
    let mut widths = levels.iter().map(|&level| config.multipliers[level] * config.width / counts[level].max(1));
    // Without attention any number will do.
    let first = widths.next().unwrap_or(8);
    if widths.all(|width| width == first) {
        return Some(first.into());
    }
    levels.iter().all(|&level| counts[level] == 1).then_some(Value::Null)
}
