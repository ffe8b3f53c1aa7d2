//! Parameters, multiply-accumulates and activations, added up step by step.

use super::{
    config::{InputPyramid, Resample, TransformerConfig, UNetConfig},
    cost::{Cost, CostInput},
    family::Family,
    plan::{Direction, Step},
    residual::maps_skip,
};

/// Sums up the costs of steps.
pub(super) struct Tally<'a> {
    config: &'a UNetConfig,
    input: CostInput,
    cost: Cost,
}

impl<'a> Tally<'a> {
    pub(super) fn new(config: &'a UNetConfig, input: CostInput) -> Self {
        Self { config, input, cost: Cost::default() }
    }

    pub(super) fn cost(&self) -> Cost {
        self.cost
    }

    fn positions(&self, level: usize) -> usize {
        (self.input.height >> level) * (self.input.width >> level)
    }

    pub(super) fn conv(&mut self, c_in: usize, c_out: usize, kernel: usize, positions: usize) {
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

    pub(super) fn embedding(&mut self) {
        let (waves, width, vector) = (self.config.wave_width(), self.config.embedding_width(), self.config.vector_width());
        self.embed(waves, width);
        self.embed(width, width);
        match (self.config.classes, self.config.condition_width, self.config.family) {
            (Some(classes), _, Family::Song) => self.embed(classes, vector),
            (Some(classes), _, _) => self.cost.parameters += (classes * vector) as u64,
            (None, Some(n), _) => self.embed(n, vector),
            (None, None, _) => {}
        }
        self.cost.parameters += (self.config.augment.unwrap_or(0) * waves) as u64;
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Block { c_in, c_out, level, mixer, .. } => {
                let positions = self.positions(level);
                self.residual(c_in, c_out, positions, positions);
                let (Some(heads), norm) = (mixer.and_then(|m| m.count(c_out)), mixer.is_some_and(|m| m.norm)) else { return };
                match &self.config.transformer {
                    None => self.attention(c_out, heads, positions, norm),
                    Some(t) => self.transformer(t, c_out, heads, positions),
                }
            }
            Step::Resample { channels, level, direction, .. } => self.resample(channels, level, direction),
            Step::Join { c_in, c_out, level, .. } => self.join(c_in, c_out, level),
            Step::ToImage { channels, level, .. } => self.image(channels, level),
        }
    }

    fn residual(&mut self, c_in: usize, c_out: usize, before: usize, after: usize) {
        self.norm(c_in, before);
        self.conv(c_in, c_out, 3, after);
        self.embed(self.config.embedding_width(), if self.config.scale_shift { 2 * c_out } else { c_out });
        self.norm(c_out, after);
        self.conv(c_out, c_out, 3, after);
        if maps_skip(self.config, c_in, c_out, before != after) {
            self.conv(c_in, c_out, 1, after);
        }
        self.rescale(c_out * after);
        self.floats(2 * c_out * after);
    }

    fn rescale(&mut self, n: usize) {
        if self.config.rescale {
            self.floats(n);
        }
    }

    /// A separable filter that puts out `positions` pixels; two equal taps are counted as the mean or the copy that they are.
    fn filter(&mut self, channels: usize, positions: usize) {
        let taps = self.config.filter.len();
        if taps > 2 {
            self.cost.macs_filter += (2 * taps * channels * positions) as u64;
        }
        self.floats(channels * positions);
    }

    fn join(&mut self, c_in: usize, c_out: usize, level: usize) {
        let positions = self.positions(level);
        match self.config.input_pyramid {
            InputPyramid::Residual => {
                self.filter(c_in, self.positions(level - 1));
                let conv = self.cost.macs_conv;
                self.conv(c_in, c_out, 3, positions);
                self.cost.macs_filter += self.cost.macs_conv - conv;
                self.cost.macs_conv = conv;
                self.rescale(c_out * positions);
            }
            InputPyramid::Skip | InputPyramid::None => {
                self.filter(c_in, positions);
                self.conv(c_in, c_out, 1, positions);
            }
        }
        self.floats(c_out * positions);
    }

    fn image(&mut self, channels: usize, level: usize) {
        let positions = self.positions(level);
        self.norm(channels, positions);
        self.conv(channels, self.config.out_channels, 3, positions);
        if level + 1 < self.config.levels() {
            self.filter(self.config.out_channels, positions);
            self.floats(self.config.out_channels * positions);
        }
    }

    fn resample(&mut self, c: usize, level: usize, direction: Direction) {
        let after = self.positions(level);
        let before = self.positions(match direction {
            Direction::Down => level - 1,
            Direction::Up => level + 1,
        });
        match (self.config.resample_to(level, direction), direction) {
            (Resample::Convolution, Direction::Down) => self.conv(c, c, 3, after),
            (Resample::Convolution, Direction::Up) => {
                self.floats(c * after);
                self.conv(c, c, 3, after);
            }
            (Resample::Mean, _) => self.floats(c * after),
            (Resample::Block, _) => {
                self.residual(c, c, before, after);
                self.filter(c, after);
                self.filter(c, after);
            }
        }
    }

    fn product(&mut self, queries: usize, keys: usize, c: usize, heads: usize) {
        self.cost.macs_attention += 2 * (queries * keys * c) as u64;
        self.floats(heads * queries * keys + queries * c);
    }

    fn attention(&mut self, c: usize, heads: usize, positions: usize, norm: bool) {
        if norm {
            self.norm(c, positions);
        }
        self.linear(c, 3 * c, positions, true);
        self.product(positions, positions, c, heads);
        self.linear(c, c, positions, true);
        self.rescale(c * positions);
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

    pub(super) fn head(&mut self, c: usize) {
        let positions = self.positions(0);
        self.norm(c, positions);
        match self.config.codebook {
            Some(size) => self.conv(c, size, 1, positions),
            None => self.conv(c, self.config.out_channels, 3, positions),
        }
    }
}
