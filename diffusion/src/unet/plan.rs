//! The layout of a network, computed once from its configuration: what the builder, the cost table and the key maps walk.

use super::config::{Heads, InputPyramid, UNetConfig};

/// One step of an encoder or decoder.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A residual block, then attention or a spatial transformer where there is a `mixer`. `skip`: it takes one from
    /// the encoder, whose channels are counted in `c_in`.
    Block { name: String, c_in: usize, c_out: usize, level: usize, mixer: Option<Mixing>, skip: bool },
    /// A change of resolution; `level` is where it arrives.
    Resample { name: String, channels: usize, level: usize, direction: Direction },
    /// The image of the level above joins the encoder.
    Join { name: String, c_in: usize, c_out: usize, level: usize },
    /// Adds to the image that is a decoder's answer.
    ToImage { name: String, channels: usize, level: usize },
}

impl Step {
    /// Name below its encoder or decoder: `block3`, `down1`, `up0`.
    pub(crate) fn name(&self) -> &str {
        let (Self::Block { name, .. } | Self::Resample { name, .. } | Self::Join { name, .. } | Self::ToImage { name, .. }) =
            self;
        name
    }

    /// Channels that a norm of this step, or the sum with a level's image, is over.
    pub(crate) fn normed(&self) -> Vec<usize> {
        match *self {
            Self::Block { c_in, c_out, .. } => vec![c_in, c_out],
            Self::Resample { channels, .. } | Self::ToImage { channels, .. } => vec![channels],
            Self::Join { .. } => Vec::new(),
        }
    }

    fn block(name: String, [c_in, c_out]: [usize; 2], level: usize, mixer: Option<Mixing>) -> Self {
        Self::Block { name, c_in, c_out, level, mixer, skip: false }
    }

    fn resample(direction: Direction, channels: usize, level: usize) -> Self {
        let name = match direction {
            Direction::Down => format!("down{level}"),
            Direction::Up => format!("up{level}"),
        };
        Self::Resample { name, channels, level, direction }
    }
}

/// What mixes positions after a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mixing {
    pub(crate) heads: Heads,
    /// Whether there is a norm before.
    pub(crate) norm: bool,
}

impl Mixing {
    /// Number of heads at `channels`; `None` if they cannot be divided.
    pub(crate) fn count(self, channels: usize) -> Option<usize> {
        self.heads.count(channels)
    }
}

/// Which way the resolution changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// All steps of a network. Each block of a decoder that takes a skip takes the last one made first.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) encoder: Vec<Step>,
    /// Shared blocks at the lowest level; none where each decoder has its own.
    pub(crate) middle: Vec<Step>,
    pub(crate) decoders: Vec<Vec<Step>>,
    /// Channels that leave each decoder's last block.
    pub(crate) c_out: Vec<usize>,
}

impl Plan {
    pub(crate) fn new(config: &UNetConfig) -> Self {
        let mut skips = vec![config.first_channels()];
        let encoder = encoder(config, &mut skips);
        let c = skips.last().copied().unwrap_or(config.width);
        let middle = if config.family.middle_in_decoder() { Vec::new() } else { pair(config, config.heads, c, "block") };
        let decoders = (0..config.decoders.len()).map(|stage| decoder(config, stage, c, &skips)).collect();
        let first = config.multipliers.first().copied().unwrap_or(1);
        Self { encoder, middle, decoders, c_out: config.decoders.iter().map(|d| d.width * first).collect() }
    }

    /// Every step with its path.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (String, &Step)> {
        let encoder = self.encoder.iter().map(|s| (format!("encoder.{}", s.name()), s));
        let middle = self.middle.iter().map(|s| (format!("middle.{}", s.name()), s));
        let decoders = self.decoders.iter().enumerate();
        let decoders = decoders.flat_map(|(i, steps)| steps.iter().map(move |s| (format!("decoders.{i}.{}", s.name()), s)));
        encoder.chain(middle).chain(decoders)
    }
}

/// The two blocks at the lowest level; attention follows the first.
fn pair(config: &UNetConfig, heads: Heads, c: usize, name: &str) -> Vec<Step> {
    let level = config.levels().saturating_sub(1);
    let block = |n: usize, mixer: Option<Mixing>| Step::block(format!("{name}{n}"), [c, c], level, mixer);
    let mixer = config.mixer(heads, c, level).filter(|_| config.middle_attends());
    vec![block(0, mixer.map(|mixer| Mixing { norm: config.middle_norm(), ..mixer })), block(1, None)]
}

fn encoder(config: &UNetConfig, skips: &mut Vec<usize>) -> Vec<Step> {
    let (mut steps, mut c, mut n, mut image) = (Vec::new(), config.first_channels(), 0, config.in_channels);
    for (level, multiplier) in config.multipliers.iter().enumerate() {
        let c_out = config.width * multiplier;
        let mixer = config.attention.contains(&level).then(|| config.mixer(config.heads, c_out, level)).flatten();
        for _ in 0..config.blocks {
            steps.push(Step::block(format!("block{n}"), [c, c_out], level, mixer));
            c = c_out;
            n += 1;
            skips.push(c);
        }
        if level + 1 < config.levels() {
            steps.push(Step::resample(Direction::Down, c, level + 1));
            if config.input_pyramid != InputPyramid::None {
                steps.push(Step::Join { name: format!("join{}", level + 1), c_in: image, c_out: c, level: level + 1 });
            }
            if config.input_pyramid == InputPyramid::Residual {
                image = c;
            }
            skips.push(c);
        }
    }
    steps
}

fn decoder(config: &UNetConfig, stage: usize, mut c: usize, skips: &[usize]) -> Vec<Step> {
    let decoder = &config.decoders[stage];
    let heads = decoder.heads.unwrap_or(config.heads);
    let (mut steps, mut skips, mut n) = (Vec::new(), skips.iter().rev(), 0);
    if config.family.middle_in_decoder() {
        steps.extend(pair(config, heads, c, "middle"));
    }
    for (level, multiplier) in config.multipliers.iter().enumerate().rev() {
        let c_out = decoder.width * multiplier;
        for (i, skip) in skips.by_ref().take(config.blocks + 1).enumerate() {
            let attends = decoder.attention.contains(&level) && (i == config.blocks || !config.family.attends_last());
            let mixer = attends.then(|| config.mixer(heads, c_out, level)).flatten();
            steps.push(Step::Block { name: format!("block{n}"), c_in: c + skip, c_out, level, mixer, skip: true });
            c = c_out;
            n += 1;
        }
        if config.output_pyramid {
            steps.push(Step::ToImage { name: format!("image{level}"), channels: c, level });
        }
        if level > 0 {
            steps.push(Step::resample(Direction::Up, c, level - 1));
        }
    }
    steps
}
