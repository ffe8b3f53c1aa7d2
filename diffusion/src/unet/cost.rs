//! Parameters, multiply-accumulates and activations of a network, counted from its plan.

use std::ops::{Add, AddAssign};

use serde::Serialize;

use super::{
    config::UNetConfig,
    plan::{Plan, Step},
    tally::Tally,
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
    /// Multiply-accumulates of filters of fixed taps and of the strided convolutions behind them in a residual image pyramid,
    /// neither of which the published counts contain.
    pub macs_filter: u64,
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
            macs_filter: self.macs_filter + other.macs_filter,
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
        self.macs_conv + self.macs_linear + self.macs_attention + self.macs_filter
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

    /// What a sample costs on average if stage k decodes the share `shares[k]` of the evaluations. The parameters are those of
    /// the whole network.
    pub fn mean(&self, shares: &[f64]) -> Cost {
        let mean = |of: fn(&Cost) -> u64| {
            let parts = self.active().iter().zip(shares).map(|(c, share)| of(c) as f64 * share).sum::<f64>();
            parts.round() as u64
        };
        Cost {
            parameters: self.parameters(),
            macs_conv: mean(|c| c.macs_conv),
            macs_linear: mean(|c| c.macs_linear),
            macs_attention: mean(|c| c.macs_attention),
            macs_filter: mean(|c| c.macs_filter),
            activation_floats: mean(|c| c.activation_floats),
        }
    }

    /// Encoder and decoder of each stage together.
    pub fn active(&self) -> Vec<Cost> {
        self.decoders.iter().map(|&d| self.shared + d).collect()
    }
}

/// The cost of the shared part and of each decoder.
///
/// # Errors
/// If the configuration cannot be built or the size cannot be halved as often as needed.
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
    shared.conv(config.in_channels, config.first_channels(), 3, input.height * input.width);
    let decoders = plan.decoders.iter().zip(&plan.c_out).map(|(steps, &c)| {
        let mut tally = count(steps);
        if !config.output_pyramid {
            tally.head(c);
        }
        tally.cost()
    });
    Ok(Costs { shared: shared.cost(), decoders: decoders.collect() })
}
