//! Parameters, multiply-accumulates and activations of a network, counted from its plan.

use std::ops::{Add, AddAssign};

use serde::Serialize;

use super::{
    config::{Resample, TransformerConfig, UNetConfig},
    plan::{Direction, Plan, Step},
};
use crate::Result;

/// The cost of a part of a network for one sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Scalars that are learned.
    pub parameters: u64,
    /// Multiply-accumulates of two-dimensional convolutions of any kernel, and of the maps of the noise level's embedding (one
    /// ten-thousandth of them): together what the published counts contain.
    pub macs_conv: u64,
    /// Multiply-accumulates of affine maps at every position: queries, keys, values, outputs and feed-forward layers.
    pub macs_linear: u64,
    /// Multiply-accumulates of attention itself: `q kᵀ` and the weighted sum.
    pub macs_attention: u64,
    /// Float32 numbers that the layers put out (convolutions, maps, norms, attention weights, sums): about what training keeps.
    pub activation_floats: u64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            parameters: self.parameters + other.parameters,
            macs_conv: self.macs_conv + other.macs_conv,
            macs_linear: self.macs_linear + other.macs_linear,
            macs_attention: self.macs_attention + other.macs_attention,
            activation_floats: self.activation_floats + other.activation_floats,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Cost {
    /// Multiply-accumulates of every kind.
    pub fn macs(&self) -> u64 {
        self.macs_conv + self.macs_linear + self.macs_attention
    }
}

/// The size of a sample.
#[derive(Clone, Copy, Debug)]
pub struct CostInput {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Length of the context, where there is cross attention.
    pub context_tokens: usize,
}

/// The cost of the shared encoder (embedding and middle included) and of each decoder.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// What every sample costs.
    pub shared: Cost,
    /// What a sample of each stage costs in addition.
    pub decoders: Vec<Cost>,
}

impl Costs {
    /// Scalars of the whole network.
    pub fn parameters(&self) -> u64 {
        self.shared.parameters + self.decoders.iter().map(|d| d.parameters).sum::<u64>()
    }

    /// Encoder and decoder of each stage together.
    pub fn active(&self) -> Vec<Cost> {
        self.decoders.iter().map(|&d| self.shared + d).collect()
    }
}

/// What one sample of a stage costs, shared part and the stage's decoder together.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StageCost {
    /// Parameters that take part.
    pub params_active: u64,
    /// As [`Cost::macs_conv`].
    pub macs_conv: u64,
    /// As [`Cost::macs_linear`].
    pub macs_linear: u64,
    /// As [`Cost::macs_attention`].
    pub macs_attention: u64,
    /// As [`Cost::activation_floats`].
    pub activation_floats: u64,
}

/// The cost of each stage for samples of `height` × `width`, with a context of one token.
///
/// # Errors
/// If the configuration cannot be built or the size cannot be halved as often as needed.
pub fn cost(config: &UNetConfig, height: usize, width: usize) -> Result<Vec<StageCost>> {
    let costs = costs(config, CostInput { height, width, context_tokens: 1 })?;
    let stage = |c: Cost| StageCost {
        params_active: c.parameters,
        macs_conv: c.macs_conv,
        macs_linear: c.macs_linear,
        macs_attention: c.macs_attention,
        activation_floats: c.activation_floats,
    };
    Ok(costs.active().into_iter().map(stage).collect())
}

/// The cost of the shared part and of each decoder.
///
/// # Errors
/// As [`cost`].
pub fn costs(config: &UNetConfig, input: CostInput) -> Result<Costs> {
    config.validate()?;
    config.check_size(input.height, input.width)?;
    let plan = Plan::new(config);
    let count = |steps: &[Step]| {
        let mut tally = Tally::new(config, input);
        steps.iter().for_each(|step| tally.step(step));
        tally
    };
    let mut shared = count(&plan.encoder);
    plan.middle.iter().for_each(|step| shared.step(step));
    shared.embedding();
    shared.conv(config.in_channels, config.width, 3, input.height * input.width);
    let decoders = plan.decoders.iter().zip(&plan.c_out).map(|(steps, &c)| {
        let mut tally = count(steps);
        tally.head(c);
        tally.cost
    });
    Ok(Costs { shared: shared.cost, decoders: decoders.collect() })
}

struct Tally<'a> {
    config: &'a UNetConfig,
    input: CostInput,
    cost: Cost,
}

impl<'a> Tally<'a> {
    fn new(config: &'a UNetConfig, input: CostInput) -> Self {
        Self { config, input, cost: Cost::default() }
    }

    fn positions(&self, level: usize) -> usize {
        (self.input.height >> level) * (self.input.width >> level)
    }

    fn conv(&mut self, c_in: usize, c_out: usize, kernel: usize, positions: usize) {
        let weights = (c_in * c_out * kernel * kernel) as u64;
        self.cost += Cost {
            parameters: weights + c_out as u64,
            macs_conv: weights * positions as u64,
            activation_floats: (c_out * positions) as u64,
            ..Cost::default()
        };
    }

    fn linear(&mut self, n_in: usize, n_out: usize, tokens: usize, bias: bool) {
        let weights = (n_in * n_out) as u64;
        self.cost += Cost {
            parameters: weights + if bias { n_out as u64 } else { 0 },
            macs_linear: weights * tokens as u64,
            activation_floats: (n_out * tokens) as u64,
            ..Cost::default()
        };
    }

    /// A map of the embedding, once per sample.
    fn embed(&mut self, n_in: usize, n_out: usize) {
        self.conv(n_in, n_out, 1, 1);
    }

    fn norm(&mut self, channels: usize, positions: usize) {
        self.cost.parameters += 2 * channels as u64;
        self.floats(channels * positions);
    }

    fn floats(&mut self, n: usize) {
        self.cost.activation_floats += n as u64;
    }

    fn embedding(&mut self) {
        let width = self.config.embedding_width();
        self.embed(self.config.width, width);
        self.embed(width, width);
        match (self.config.classes, self.config.condition_width) {
            (Some(classes), _) => self.cost.parameters += (classes * width) as u64,
            (None, Some(n)) => self.embed(n, width),
            (None, None) => {}
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Block { c_in, c_out, level, mixer, .. } => {
                let positions = self.positions(level);
                self.residual(c_in, c_out, positions, positions);
                let Some(heads) = mixer.and_then(|h| h.count(c_out)) else { return };
                match &self.config.transformer {
                    None => self.attention(c_out, heads, positions),
                    Some(t) => self.transformer(t, c_out, heads, positions),
                }
            }
            Step::Resample { channels, level, direction, .. } => self.resample(channels, level, direction),
        }
    }

    fn residual(&mut self, c_in: usize, c_out: usize, before: usize, after: usize) {
        self.norm(c_in, before);
        self.conv(c_in, c_out, 3, after);
        self.embed(self.config.embedding_width(), if self.config.scale_shift { 2 * c_out } else { c_out });
        self.norm(c_out, after);
        self.conv(c_out, c_out, 3, after);
        if c_in != c_out {
            self.conv(c_in, c_out, 1, after);
        }
        self.floats(2 * c_out * after);
    }

    fn resample(&mut self, c: usize, level: usize, direction: Direction) {
        let after = self.positions(level);
        let before = self.positions(match direction {
            Direction::Down => level - 1,
            Direction::Up => level + 1,
        });
        match (self.config.resample, direction) {
            (Resample::Convolution, Direction::Down) => self.conv(c, c, 3, after),
            (Resample::Convolution, Direction::Up) => {
                self.floats(c * after);
                self.conv(c, c, 3, after);
            }
            (Resample::Mean, _) => self.floats(c * after),
            (Resample::Block, _) => {
                self.residual(c, c, before, after);
                self.floats(2 * c * after);
            }
        }
    }

    fn product(&mut self, queries: usize, keys: usize, c: usize, heads: usize) {
        self.cost.macs_attention += 2 * (queries * keys * c) as u64;
        self.floats(heads * queries * keys + queries * c);
    }

    fn attention(&mut self, c: usize, heads: usize, positions: usize) {
        self.norm(c, positions);
        self.linear(c, 3 * c, positions, true);
        self.product(positions, positions, c, heads);
        self.linear(c, c, positions, true);
        self.floats(c * positions);
    }

    fn transformer(&mut self, t: &TransformerConfig, c: usize, heads: usize, positions: usize) {
        self.norm(c, positions);
        self.conv(c, c, 1, positions);
        for _ in 0..t.depth {
            for (width, tokens) in [(c, positions), (t.context_width, self.input.context_tokens)] {
                self.norm(c, positions);
                self.linear(c, c, positions, false);
                self.linear(width, c, tokens, false);
                self.linear(width, c, tokens, false);
                self.product(positions, tokens, c, heads);
                self.linear(c, c, positions, true);
                self.floats(c * positions);
            }
            self.norm(c, positions);
            self.linear(c, 8 * c, positions, true);
            self.floats(4 * c * positions);
            self.linear(4 * c, c, positions, true);
            self.floats(c * positions);
        }
        self.conv(c, c, 1, positions);
        self.floats(c * positions);
    }

    fn head(&mut self, c: usize) {
        let positions = self.positions(0);
        self.norm(c, positions);
        match self.config.codebook {
            Some(size) => self.conv(c, size, 1, positions),
            None => self.conv(c, self.config.out_channels, 3, positions),
        }
    }
}
