//! The layout of a network, computed once from its configuration: what the builder, the cost table and the key maps walk.

use super::config::{Heads, UNetConfig};

/// One step of an encoder or decoder.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A residual block, then attention or a spatial transformer where `mixer` says with which heads.
    Block { name: String, c_in: usize, c_out: usize, level: usize, mixer: Option<Heads> },
    /// A change of resolution; `level` is where it arrives.
    Resample { name: String, channels: usize, c_out: usize, level: usize, direction: Direction },
}

impl Step {
    /// Name below its encoder or decoder: `block3`, `down1`, `up0`.
    pub(crate) fn name(&self) -> &str {
        let (Self::Block { name, .. } | Self::Resample { name, .. }) = self;
        name
    }

    fn block(n: usize, c_in: usize, c_out: usize, level: usize, mixer: Option<Heads>) -> Self {
        Self::Block { name: format!("block{n}"), c_in, c_out, level, mixer }
    }

    fn resample(direction: Direction, channels: usize, level: usize) -> Self {
        let name = match direction {
            Direction::Down => format!("down{level}"),
            Direction::Up => format!("up{level}"),
        };
        Self::Resample { name, channels, c_out: channels, level, direction }
    }
}

/// Which way the resolution changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// All steps of a network. Each block of a decoder takes one skip, the last made first.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) encoder: Vec<Step>,
    pub(crate) middle: [Step; 2],
    pub(crate) decoders: Vec<Vec<Step>>,
    /// Channels that leave each decoder's last block.
    pub(crate) c_out: Vec<usize>,
}

impl Plan {
    pub(crate) fn new(config: &UNetConfig) -> Self {
        let mut skips = vec![config.width];
        let encoder = encoder(config, &mut skips);
        let (c, level) = (skips.last().copied().unwrap_or(config.width), config.levels().saturating_sub(1));
        let middle = [Step::block(0, c, c, level, Some(config.heads)), Step::block(1, c, c, level, None)];
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

fn encoder(config: &UNetConfig, skips: &mut Vec<usize>) -> Vec<Step> {
    let (mut steps, mut c, mut n) = (Vec::new(), config.width, 0);
    for (level, multiplier) in config.multipliers.iter().enumerate() {
        let mixer = config.attention.contains(&level).then_some(config.heads);
        for _ in 0..config.blocks {
            steps.push(Step::block(n, c, config.width * multiplier, level, mixer));
            c = config.width * multiplier;
            n += 1;
            skips.push(c);
        }
        if level + 1 < config.levels() {
            steps.push(Step::resample(Direction::Down, c, level + 1));
            skips.push(c);
        }
    }
    steps
}

fn decoder(config: &UNetConfig, stage: usize, mut c: usize, skips: &[usize]) -> Vec<Step> {
    let decoder = &config.decoders[stage];
    let heads = decoder.heads.unwrap_or(config.heads);
    let (mut steps, mut skips, mut n) = (Vec::new(), skips.iter().rev(), 0);
    for (level, multiplier) in config.multipliers.iter().enumerate().rev() {
        let mixer = decoder.attention.contains(&level).then_some(heads);
        for skip in skips.by_ref().take(config.blocks + 1) {
            steps.push(Step::block(n, c + skip, decoder.width * multiplier, level, mixer));
            c = decoder.width * multiplier;
            n += 1;
        }
        if level > 0 {
            steps.push(Step::resample(Direction::Up, c, level - 1));
        }
    }
    steps
}
