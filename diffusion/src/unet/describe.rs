//! What a network is and costs, as numbers and as a table for people.

use std::fmt::{Display, Write};

use serde::Serialize;

use super::{
    config::{Resample, UNetConfig},
    cost::{Cost, CostInput, costs},
    plan::Direction,
};
use crate::{Result, grid, noise::stage_of, schedule::Schedule};

/// What is described.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The network.
    pub unet: &'a UNetConfig,
    /// The size of a sample.
    pub input: CostInput,
    /// The schedule in whose time boundaries are shown.
    pub schedule: &'a Schedule,
    /// Sigmas between the stages. If there are not one fewer than decoders, stages have costs but no bounds.
    pub boundaries: &'a [f64],
}

/// Costs, stages and levels of a network.
#[derive(Clone, Debug, Serialize)]
pub struct Description {
    /// Scalars of the whole network.
    pub parameters: u64,
    /// Side lengths and channels of a sample.
    pub sample: [usize; 3],
    /// The embedding and the encoder, which every sample goes through.
    pub shared: Cost,
    /// Decoders and bounds of each stage.
    pub stages: Vec<Stage>,
    /// What an evaluation costs on average in the sampler's default steps, and what it holds.
    pub mean: Option<Cost>,
    /// Each level's layout.
    pub levels: Vec<Level>,
}

/// One stage.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// The decoder by itself.
    pub decoder: Cost,
    /// Encoder and decoder.
    pub active: Cost,
    /// Its noise levels.
    pub bounds: Option<Bounds>,
}

/// The noise levels of a stage: above `low`, up to `high` inclusive.
#[derive(Clone, Debug, Serialize)]
pub struct Bounds {
    /// The end near the data; 0 at stage 1.
    pub low: Point,
    /// The end near pure noise; none at the last stage.
    pub high: Option<Point>,
    /// The share of the sampler's default steps that it gets.
    pub share: f64,
}

/// One noise level in three coordinates.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// Noise level.
    pub sigma: f64,
    /// -2 ln sigma; none at 0.
    pub log_snr: Option<f64>,
    /// The schedule's own time; none at 0.
    pub t: Option<f64>,
}

/// One resolution.
#[derive(Clone, Debug, Serialize)]
pub struct Level {
    /// Rows and columns.
    pub size: [usize; 2],
    /// Sides of the square of the input that a position of the encoder's last layer at this level depends on without attention.
    pub sees: usize,
    /// Channels of the encoder, and whether its blocks attend to all positions.
    pub encoder: (usize, bool),
    /// The same of each decoder.
    pub decoders: Vec<(usize, bool)>,
}

/// Steps, smallest and largest sigma and rho of the sampler's default grid.
const STEPS: usize = 20;
const SIGMAS: [f64; 2] = [0.01, 80.0];
const RHO: f64 = 7.0;

impl Description {
    /// # Errors
    /// As [`costs`].
    pub fn new(subject: Subject<'_>) -> Result<Self> {
        let Subject { unet, input, schedule, boundaries } = subject;
        let costs = costs(unet, input)?;
        let bounds = (boundaries.len() + 1 == unet.decoders.len()).then(|| bounds(schedule, boundaries)).transpose()?;
        let mean = bounds.as_ref().map(|bounds| costs.mean(&bounds.iter().map(|b| b.share).collect::<Vec<_>>()));
        let stage = |(i, (decoder, active)): (usize, (&Cost, Cost))| {
            let bounds = bounds.as_ref().and_then(|bounds| bounds.get(i).cloned());
            Stage { decoder: *decoder, active, bounds }
        };
        Ok(Self {
            parameters: costs.parameters(),
            sample: [input.height, input.width, unet.in_channels],
            shared: costs.shared,
            stages: costs.decoders.iter().zip(costs.active()).enumerate().map(stage).collect(),
            mean,
            levels: levels(unet, input),
        })
    }

    /// The table.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let [height, width, channels] = self.sample;
        let title = format!("U-Net for {height}x{width}x{channels}: {} parameters", millions(self.parameters));
        line(&mut text, title);
        line(&mut text, format_args!("{:<22}{HEAD}", "one sample"));
        line(&mut text, format_args!("{:<22}{}", "shared encoder", row(&self.shared)));
        for (i, stage) in self.stages.iter().enumerate() {
            line(&mut text, format_args!("{:<22}{}", format!("decoder of stage {}", i + 1), row(&stage.decoder)));
            line(&mut text, format_args!("{:<22}{}", format!("stage {} active", i + 1), row(&stage.active)));
        }
        if let Some(mean) = &self.mean {
            line(&mut text, format_args!("{:<22}{}", "mean of a sampler step", row(mean)));
        }
        line(&mut text, NOTE);
        for (i, stage) in self.stages.iter().enumerate() {
            if let Some(bounds) = &stage.bounds {
                line(&mut text, format_args!("stage {}: {}", i + 1, bounds.text()));
            }
        }
        for (i, level) in self.levels.iter().enumerate() {
            line(&mut text, format_args!("level {i}: {}", level.text()));
        }
        text
    }
}

impl Bounds {
    fn text(&self) -> String {
        let value = |v: Option<f64>, none: &str| v.map_or(none.to_string(), |v| format!("{v:.4}"));
        let high = |of: fn(&Point) -> Option<f64>, none: &str| value(self.high.as_ref().and_then(of), none);
        format!(
            "sigma {:.4} to {}, log-SNR {} to {}, t {} to {}, {:.0} % of {STEPS} sampler steps",
            self.low.sigma,
            high(|p| Some(p.sigma), "end"),
            value(self.low.log_snr, "inf"),
            high(|p| p.log_snr, "end"),
            value(self.low.t, "0"),
            high(|p| p.t, "end"),
            100.0 * self.share
        )
    }
}

impl Level {
    fn text(&self) -> String {
        let [height, width] = self.size;
        let part = |&(channels, attends): &(usize, bool)| format!("{channels}{}", if attends { "+attention" } else { "" });
        let decoders: Vec<String> = self.decoders.iter().map(part).collect();
        format!(
            "{height}x{width}, convolutions see {}x{} of the input  encoder {}  decoders {}",
            self.sees,
            self.sees,
            part(&self.encoder),
            decoders.join(", ")
        )
    }
}

const HEAD: &str = " parameters   conv GMACs  linear GMACs  attention GMACs  filter GMACs  activations";
const NOTE: &str = "multiply-accumulates; conv: 2-d convolutions and the embedding's maps, linear: maps at every position,\n  attention: q k^T and the weighted sum, filter: resampling filters and the strided convolutions of a residual image pyramid\n  activations: what training keeps of one sample in float32; the sampler keeps less";

/// A table of parameters, multiply-accumulates and activations of the shared part and each stage, then stages and levels.
///
/// # Errors
/// As [`costs`].
pub fn describe(subject: Subject<'_>) -> Result<String> {
    Ok(Description::new(subject)?.text())
}

fn bounds(schedule: &Schedule, boundaries: &[f64]) -> Result<Vec<Bounds>> {
    let [smallest, largest] = SIGMAS;
    let sigmas = grid::karras(STEPS, smallest, largest, RHO)?;
    let mut counts = vec![0usize; boundaries.len() + 1];
    for &sigma in sigmas.iter().filter(|&&s| s > 0.0) {
        counts[stage_of(boundaries, sigma)] += 1;
    }
    let point = |sigma: f64| Point {
        sigma,
        log_snr: (sigma > 0.0).then(|| -2.0 * sigma.ln()),
        t: (sigma > 0.0).then(|| schedule.t(sigma)),
    };
    let total = counts.iter().sum::<usize>().max(1) as f64;
    let stage = |(i, &count): (usize, &usize)| Bounds {
        low: point(if i == 0 { 0.0 } else { boundaries[i - 1] }),
        high: boundaries.get(i).map(|&sigma| point(sigma)),
        share: count as f64 / total,
    };
    Ok(counts.iter().enumerate().map(stage).collect())
}

/// A 3×3 convolution at level l adds 2^l input pixels on each side; a filter or convolution that halves adds its own.
fn levels(config: &UNetConfig, input: CostInput) -> Vec<Level> {
    let mut sees = 3;
    let one = |(level, multiplier): (usize, &usize)| {
        if level > 0 {
            let how = config.resample_to(level, Direction::Down);
            sees += halving(config, how) << (level - 1);
            if how == Resample::Block {
                sees += 4 << level;
            }
        }
        sees += (4 * config.blocks) << level;
        let decoder = |d: &super::DecoderConfig| (d.width * multiplier, d.attention.contains(&level));
        Level {
            size: [input.height >> level, input.width >> level],
            sees,
            encoder: (config.width * multiplier, config.attention.contains(&level)),
            decoders: config.decoders.iter().map(decoder).collect(),
        }
    };
    config.multipliers.iter().enumerate().map(one).collect()
}

/// What one more position of the level below needs of the level above, less one.
fn halving(config: &UNetConfig, how: Resample) -> usize {
    match how {
        Resample::Convolution => 2,
        Resample::Mean => 1,
        Resample::Block => config.filter.len() - 1,
    }
}

fn row(c: &Cost) -> String {
    let mib = c.activation_floats as f64 * 4.0 / f64::from(1 << 20);
    format!(
        "{:>11}{:>13.2}{:>14.2}{:>17.2}{:>14.2}{mib:>9.1} MiB",
        millions(c.parameters),
        giga(c.macs_conv),
        giga(c.macs_linear),
        giga(c.macs_attention),
        giga(c.macs_filter)
    )
}

fn line(text: &mut String, content: impl Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{content}");
}

fn millions(n: u64) -> String {
    format!("{:.2}M", n as f64 / 1e6)
}

fn giga(n: u64) -> f64 {
    n as f64 / 1e9
}
