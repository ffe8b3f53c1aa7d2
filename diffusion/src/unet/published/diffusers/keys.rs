//! The names in checkpoints of diffusers' U-Nets.

use crate::unet::{
    config::{Resample, UNetConfig},
    key_map::{KeyMap, Layout},
    plan::{Direction, Plan, Step},
    published::ldm::TRANSFORMER_BLOCK,
};
use crate::{Error, Result};

const RESIDUAL: [(&str, &str); 6] = [
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("embedding", "time_emb_proj"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("skip", "conv_shortcut"),
];

/// The names in diffusers' layout of our network `config`, of any family that its classes can express.
///
/// # Errors
/// If it has several decoders.
pub fn diffusers_keys(config: &UNetConfig) -> Result<KeyMap> {
    key_map(config)
}

/// Names of 2022 and 2023 in today's words: layers of attention were called `query`, `key`, `value` and `proj_attn`.
pub fn modern_name(name: &str) -> String {
    let old = [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    if !name.contains("attentions.") {
        return name.to_string();
    }
    old.iter().fold(name.to_string(), |name, (was, is)| name.replace(was, is))
}

pub(crate) fn key_map(config: &UNetConfig) -> Result<KeyMap> {
    let plan = Plan::new(config);
    let [decoder] = plan.decoders.as_slice() else {
        return Err(Error::Config(format!("diffusers has no network of {} decoders, only of one", plan.decoders.len())));
    };
    let mut names = Names { map: KeyMap::default(), config };
    for (ours, published) in [
        ("time_embedding.linear1", "time_embedding.linear_1"),
        ("time_embedding.linear2", "time_embedding.linear_2"),
        ("class_embedding", "class_embedding"),
        ("encoder.conv_in", "conv_in"),
        ("decoders.0.norm_out", "conv_norm_out"),
        ("decoders.0.conv_out", "conv_out"),
    ] {
        names.map.insert(ours, published, Layout::Same);
    }
    names.coder(&plan.encoder, "encoder", |level| format!("down_blocks.{level}"));
    names.coder(&plan.middle, "middle", |_| "mid_block".into());
    // The decoder's blocks are numbered from the lowest resolution.
    names.coder(decoder, "decoders.0", |level| format!("up_blocks.{}", config.levels() - 1 - level));
    if config.family.middle_in_decoder() {
        return Err(Error::Config("diffusers has no network whose decoder has the middle blocks for itself".into()));
    }
    Ok(names.map)
}

/// Our names beside the published ones.
struct Names<'a> {
    map: KeyMap,
    config: &'a UNetConfig,
}

impl Names<'_> {
    /// Steps below `ours`; `published` names the block of a level, whose parts are counted anew in each.
    fn coder(&mut self, steps: &[Step], ours: &str, published: impl Fn(usize) -> String) {
        let (mut at, mut n) = (usize::MAX, 0);
        for step in steps {
            let here = format!("{ours}.{}", step.name());
            match *step {
                Step::Block { level, mixer, .. } => {
                    n = if level == at { n + 1 } else { 0 };
                    at = level;
                    let block = published(level);
                    self.residual(&here, &format!("{block}.resnets.{n}"));
                    if mixer.is_some() {
                        let index = if ours == "middle" { 0 } else { n };
                        self.mixer(&here, &format!("{block}.attentions.{index}"));
                    }
                }
                Step::Resample { level, direction, .. } => {
                    let place = match direction {
                        Direction::Down => format!("{}.downsamplers.0", published(level - 1)),
                        Direction::Up => format!("{}.upsamplers.0", published(level + 1)),
                    };
                    match self.config.resample_to(level, direction) {
                        Resample::Block => self.residual(&here, &place),
                        _ => self.map.insert(format!("{here}.conv"), format!("{place}.conv"), Layout::Same),
                    }
                }
                // diffusers' two classes have no image pyramids.
                Step::Join { .. } | Step::ToImage { .. } => {}
            }
        }
    }

    fn residual(&mut self, ours: &str, published: &str) {
        for (a, b) in RESIDUAL {
            self.map.insert(format!("{ours}.{a}"), format!("{published}.{b}"), Layout::Same);
        }
    }

    fn mixer(&mut self, ours: &str, published: &str) {
        let Some(transformer) = &self.config.transformer else {
            let ours = format!("{ours}.attention");
            let parts = ["to_q", "to_k", "to_v"].map(|part| format!("{published}.{part}"));
            self.map.insert(format!("{ours}.norm"), format!("{published}.group_norm"), Layout::Same);
            self.map.insert_parts(format!("{ours}.qkv"), parts.to_vec(), Layout::Rows);
            return self.map.insert_parts(format!("{ours}.out"), vec![format!("{published}.to_out.0")], Layout::Rows);
        };
        let ours = format!("{ours}.transformer");
        for name in ["norm", "proj_in", "proj_out"] {
            self.map.insert(format!("{ours}.{name}"), format!("{published}.{name}"), Layout::Same);
        }
        for i in 0..transformer.depth {
            for (a, b) in TRANSFORMER_BLOCK {
                let (a, b) = (format!("{ours}.block{i}.{a}"), format!("{published}.transformer_blocks.{i}.{b}"));
                self.map.insert(a, b, Layout::Same);
            }
        }
    }
}
