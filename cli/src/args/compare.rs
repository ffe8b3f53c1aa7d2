//! Arguments of the commands that compare models by many measurements.

use std::path::PathBuf;

use clap::Args;

use super::{
    Reading,
    eval::{Against, Network},
    sample::{Levels, Told},
};

/// Models that are compared, and with what.
#[derive(Debug, Args)]
pub struct Compared {
    /// Run directory or weight file; several times for several
    #[arg(long = "run", value_name = "RUN|FILE", required = true)]
    pub runs: Vec<PathBuf>,
    /// Samples behind each number: seeds 0 to N - 1, drawn and not stored
    #[arg(long, value_name = "N")]
    pub num: usize,
    /// Folder for the measured numbers, table and plots: created, or continued
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    /// The reference.
    #[command(flatten)]
    pub against: Against,
    /// The network.
    #[command(flatten)]
    pub network: Network,
    /// Noise levels.
    #[command(flatten)]
    pub levels: Levels,
    /// What is drawn.
    #[command(flatten)]
    pub told: Told,
    /// How --reference is read.
    #[command(flatten)]
    pub reading: Reading,
}

/// `strata eval sweep`
#[derive(Debug, Args)]
pub struct EvalSweep {
    /// Numbers of steps
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "20")]
    pub steps: Vec<usize>,
    /// Samplers, with settings where they have some (ddim:eta=0.5)
    #[arg(long, value_name = "NAME,...", default_value = "dpmpp-2m")]
    pub sampler: Vec<String>,
    /// Strengths of guidance [default: as `strata sample`]
    #[arg(long, value_name = "SCALE,...", value_delimiter = ',')]
    pub guidance: Vec<f64>,
    /// Checkpoints of each run: last, all, or numbers of images seen
    #[arg(long, value_name = "WHICH,...", value_delimiter = ',', default_value = "last")]
    pub checkpoint: Vec<String>,
    /// Averages of the weights: kept (the run's own), none (the weights as trained), or a relative width such as 0.05, put together
    /// from the checkpoints of a run whose `ema` is of the kind power
    #[arg(long, value_name = "WHICH,...", value_delimiter = ',', default_value = "kept")]
    pub ema: Vec<String>,
    /// The models.
    #[command(flatten)]
    pub compared: Compared,
}

/// `strata eval efficiency`
#[derive(Debug, Args)]
pub struct EvalEfficiency {
    /// Numbers of steps: the last checkpoint of each run is measured at each, its other checkpoints at the largest
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "5,10,20")]
    pub steps: Vec<usize>,
    /// Sampler, with settings where it has some (ddim:eta=0.5)
    #[arg(long, value_name = "NAME", default_value = "dpmpp-2m")]
    pub sampler: String,
    /// Strength of guidance [default: as `strata sample`]
    #[arg(long, value_name = "SCALE")]
    pub guidance: Option<f64>,
    /// The models.
    #[command(flatten)]
    pub compared: Compared,
}
