//! The command line as typed; what it means is decided by the commands.

mod data;

use std::path::PathBuf;

pub use data::{Data, DataConvert, DataInspect, DataVerify, Encode, Images, Reading, Texts};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod autoencoder;
mod compare;
mod eval;
mod hub;
mod sample;

pub use autoencoder::{EvalReconstruction, LpipsNetwork};
pub use compare::{Compared, EvalEfficiency, EvalSweep};
pub use eval::{
    Against, EvalCommand, EvalNearest, EvalStatistics, EvalTrainExtractor, Measure, Metric, Network, ResizeRule, Weights,
};
pub use hub::{Pull, Push};
pub use sample::{Output, Sample, Shown, Solver, Start, Told, Wish};

/// Trains multistage latent-diffusion models on your images, and draws with them.
#[derive(Debug, Parser)]
#[command(name = "strata", version, arg_required_else_help = true, propagate_version = true)]
#[command(
    after_help = "Start with `strata demo`. DATA is a folder of images, or `emoji` for the built-in set. Wherever a command takes weights or data, \
                   hf:OWNER/NAME[@REV][/FILE] fetches them first."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Arithmetic of the networks
    #[arg(long, global = true, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Threads on the CPU [default: all cores]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Seed of everything random [default: the configuration's, 0]
    #[arg(long, global = true, value_name = "N")]
    pub seed: Option<u64>,
    /// Use only what was fetched before, not the network
    #[arg(long, global = true)]
    pub offline: bool,
    /// No progress on stderr
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// Arithmetic of the networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32-bit floats
    F32,
    /// bfloat16 inside networks, float32 parameters; CUDA cards only
    Bf16,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The whole chain on the built-in emoji: trains, samples and writes a report with pictures
    Demo(Demo),
    /// Look at data sets and latents
    #[command(subcommand)]
    Data(DataCommand),
    /// Train an autoencoder or a diffusion model
    #[command(subcommand)]
    Train(TrainCommand),
    /// Turn images into latents with a trained autoencoder
    Encode(Encode),
    /// Divide the noise range into stages (Zhang, Lu et al. 2024, Algorithm 1)
    Stages(Stages),
    /// Draw images with a trained diffusion model
    Sample(Box<Sample>),
    /// Turn latents back into images
    Decode(Decode),
    /// Measure models
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Fetch a model or data set from a hub into the cache that Python's libraries share
    Pull(Pull),
    /// Upload a model with a card
    Push(Push),
    /// Write weights in another layout
    Convert(ConvertCommand),
    /// Show what a file, run, folder or preset is
    Inspect(Inspect),
}

/// Commands about data.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show layout, classes, sizes and broken files of a data set
    Inspect(DataInspect),
    /// Write a data set anew as one archive, resized: prepared once, read many times
    Convert(DataConvert),
    /// Check the shards of a latents folder against their checksums
    Verify(DataVerify),
}

/// What the settings of `strata train diffusion` can be.
const TRAIN_DIFFUSION_HELP: &str = "\
Settings of the three systems, for --set or a file (docs/training.md has them all; `--dry-run` shows the values):
  parametrization  eps, v, x0, score, velocity, { f = { sigma_data = 0.5 } }
  schedule         { kind = \"vp-linear\" | \"sub-vp\" | \"ve\" | \"edm\" | \"ldm\" | \"flow\", ... }
  noise            { kind = \"log-normal\", mean, std }, { kind = \"uniform-time\" }, { kind = \"log-uniform\", min, max }
  loss             l2, l1, { huber = { delta = 1.0 } }
  weighting        edm, eps, x0, network, likelihood, { min-snr = { gamma = 5 } }, { soft-min-snr = { gamma = 4 } }
  log_variance     none, per-step, continuous          variational_weight  0
  stage_policy     natural, uniform, { probabilities = [...] }
  lr_schedule      constant, warmup, inverse-sqrt, cosine, ldm-linear, ldm-cosine
  ema              constant, ldm-warmup, half-life, power      post_hoc.widths  [0.05, 0.1]
  pictures.augment 0.12 (EDM's augmentation)           micro_batch  images computed at once

Started by torchrun, srun or mpirun, the processes share each step's batch.";

/// Commands that train.
#[derive(Debug, Subcommand)]
pub enum TrainCommand {
    /// Train an autoencoder on images; the same command continues an interrupted run
    Autoencoder(TrainAutoencoder),
    /// Train a multistage diffusion model on latents or images; the same command continues an interrupted run
    #[command(after_help = TRAIN_DIFFUSION_HELP)]
    Diffusion(TrainDiffusion),
}

/// `strata demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Where everything goes
    #[arg(long, default_value = "strata-demo", value_name = "DIR")]
    pub out: PathBuf,
    /// Side of the pictures in pixels: 32 or 64
    #[arg(long, default_value_t = 32, value_parser = parse_demo_size)]
    pub size: usize,
    /// About how long to train on two cores, in minutes
    #[arg(long, default_value_t = 5.0, value_name = "M", value_parser = parse_minutes)]
    pub minutes: f64,
}

fn parse_demo_size(text: &str) -> Result<usize, String> {
    match text {
        "32" => Ok(32),
        "64" => Ok(64),
        _ => Err("expected 32 or 64".to_string()),
    }
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes.is_finite() => Ok(minutes),
        _ => Err("expected a number of minutes above 0".to_string()),
    }
}

fn parse_hours(text: &str) -> Result<f64, String> {
    parse_minutes(text).map_err(|_| "expected a number of hours above 0".to_string())
}

/// Where settings come from, beside the flags: defaults < preset < file < `--set` < flags.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Begin with a preset; `strata inspect --preset list` shows them
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Read settings from a TOML file
    #[arg(long, value_name = "FILE.toml")]
    pub config: Option<PathBuf>,
    /// Change one setting, for example --set optimizer.lr=1e-4
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Show the resolved settings, parameters and cost, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Length of the run in images seen
    #[arg(long, value_name = "N")]
    pub images: Option<u64>,
    /// Images per step
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Keep less memory and compute more: a block's activations are computed anew in the backward pass
    #[arg(long)]
    pub checkpoint_activations: bool,
    /// Save and stop after this long; the same command goes on
    #[arg(long, value_name = "MINUTES", value_parser = parse_minutes)]
    pub max_minutes: Option<f64>,
    /// The same in hours, for batch systems: ends with exit code 0
    #[arg(long, value_name = "HOURS", value_parser = parse_hours, conflicts_with = "max_minutes")]
    pub max_hours: Option<f64>,
}

impl Settings {
    /// The wall-clock limit in minutes.
    pub fn limit_minutes(&self) -> Option<f64> {
        self.max_minutes.or(self.max_hours.map(|hours| 60.0 * hours))
    }
}

/// `strata train autoencoder`
#[derive(Debug, Args)]
pub struct TrainAutoencoder {
    /// The images.
    #[command(flatten)]
    pub data: Data,
    /// Run directory: created, or continued where it stands
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// Side of the training images in pixels
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<usize>,
    /// Where the settings come from.
    #[command(flatten)]
    pub settings: Settings,
}

/// `strata stages`
#[derive(Debug, Args)]
pub struct Stages {
    /// Divide the noise range of these latents
    #[arg(long, value_name = "LATENTS", required_unless_present = "data", conflicts_with = "data")]
    pub latents: Option<PathBuf>,
    /// Divide the noise range of these images' pixels
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,
    /// Side of the images in pixels, with --data
    #[arg(long, value_name = "PIXELS", default_value_t = 32)]
    pub size: usize,
    /// How the images are read.
    #[command(flatten)]
    pub reading: Reading,
    /// Schedule in whose time the noise levels are drawn: vp, sub-vp, ve, edm, ldm or flow; or with its constants as in a stages
    /// file: '{ kind = "edm", sigma_min = 0.002, sigma_max = 50.0 }' [default: vp; with --checkpoint, the model's]
    #[arg(long, value_name = "NAME")]
    pub schedule: Option<String>,
    /// Number of stages
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub stages: usize,
    /// How to divide: algorithm1 (the paper's, three stages), similarity (exact partition of the similarity matrix, any number),
    /// uniform (equal widths in the schedule's time), uniform-log-snr, log-snr (clusters of log-SNR), gradient-affinity (clusters
    /// of a trained network's gradients) [default: algorithm1 for three stages, else similarity]
    #[arg(long, value_name = "NAME")]
    pub method: Option<String>,
    /// Run or weight file of a model trained on these latents, for gradient-affinity; several times: the mean of several
    #[arg(long, value_name = "RUN|FILE")]
    pub checkpoint: Vec<PathBuf>,
    /// Pairs of an image and noise at most (the paper's K); for gradient-affinity, behind each gradient
    /// [default: 2000; 256 for gradient-affinity]
    #[arg(long, value_name = "K")]
    pub samples: Option<usize>,
    /// Stop drawing pairs once both intervals are narrower than this share of the range of levels; 0: never
    #[arg(long, value_name = "SHARE", default_value_t = 0.005)]
    pub settled: f64,
    /// Levels of the grid of the matrix and of the partitions
    #[arg(long, value_name = "N", default_value_t = 41)]
    pub levels: usize,
    /// Similarity that a stage keeps to its end (the paper's alpha)
    #[arg(long, default_value_t = 0.9)]
    pub alpha: f64,
    /// Two denoisers agree in a coordinate when they differ by at most this much; for pixels in units of the range [-1, 1]
    /// (the paper: 2/256), for latents in standard deviations [default: 2/256 for pixels, 1/64 for latents]
    #[arg(long)]
    pub eta: Option<f64>,
    /// Recommend decoder widths: an average step is to cost this share of the single decoder of --preset. Each decoder gets
    /// a cost in proportion to the detail left at its levels, the mean of sigma_data / sqrt(sigma^2 + sigma_data^2) over the steps
    /// of the sampler (20, Karras) and the training draws
    #[arg(long, value_name = "SHARE", requires = "preset")]
    pub budget: Option<f64>,
    /// The network for --budget; its single decoder is as wide as its encoder (`strata inspect --preset list`)
    #[arg(long, value_name = "NAME", requires = "budget")]
    pub preset: Option<String>,
    /// File for the boundaries; a plot goes beside it
    #[arg(long, value_name = "FILE.toml")]
    pub out: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// `strata train diffusion`
#[derive(Debug, Args)]
pub struct TrainDiffusion {
    /// Train on latents: a folder that `strata encode` wrote
    #[arg(long, value_name = "LATENTS", required_unless_present = "data", conflicts_with = "data")]
    pub latents: Option<PathBuf>,
    /// Train on the pixels of these images, without an autoencoder: a folder (sub-folders are classes), an archive, or `emoji`
    #[arg(long, value_name = "DATA")]
    pub data: Option<String>,
    /// Side of the images in pixels, with --data [default: the preset's, else 32]
    #[arg(long, value_name = "PIXELS", requires = "data")]
    pub size: Option<usize>,
    /// Stage boundaries from `strata stages` [default: those of the preset or `boundaries`, else one stage]
    #[arg(long, value_name = "FILE.toml")]
    pub stages_file: Option<PathBuf>,
    /// Run directory: created, or continued where it stands
    #[arg(long, value_name = "RUN")]
    pub out: PathBuf,
    /// The autoencoder of the latents, kept in the run so that it can sample on its own [default: where they were made]
    #[arg(long, value_name = "RUN|FILE", conflicts_with = "data")]
    pub autoencoder: Option<PathBuf>,
    /// Begin with the weights of another model: what the stages share, and its decoders, of which a single one becomes all of them.
    /// Tensors of other shapes, as in wider or narrower decoders, begin anew
    #[arg(long, value_name = "RUN|FILE")]
    pub warm_start: Option<PathBuf>,
    /// Train these stages alone, counted from 1; the other decoders are frozen [default: all together]
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    pub stages: Vec<usize>,
    /// Freeze a part: encoder (all that the stages share), decoders, or the beginning of parameters' names
    #[arg(long, value_name = "PART,PART", value_delimiter = ',')]
    pub freeze: Vec<String>,
    /// Where the settings come from.
    #[command(flatten)]
    pub settings: Settings,
    /// How the images are read.
    #[command(flatten)]
    pub reading: Reading,
}

/// The side of tiles.
fn parse_tile(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(side) if side >= strata_autoencoder::MIN_TILE => Ok(side),
        _ => Err(format!("expected a number of pixels, {} or more", strata_autoencoder::MIN_TILE)),
    }
}

/// `strata decode`
#[derive(Debug, Args)]
pub struct Decode {
    /// A folder that `strata encode` wrote
    #[arg(value_name = "LATENTS")]
    pub latents: PathBuf,
    /// Run directory or weight file of the autoencoder that made them [default: the one kept beside them]
    #[arg(long, value_name = "RUN|FILE")]
    pub autoencoder: Option<PathBuf>,
    /// Folder for the pictures
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Only the first so many
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Latents per forward pass
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub batch: usize,
    /// Work by tiles of so many pixels: memory does not grow with the image, the result stays the same, but it takes longer
    #[arg(long, value_name = "PIXELS", value_parser = parse_tile)]
    pub tile: Option<usize>,
}

/// `strata convert`: weights, or averages.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ConvertCommand {
    /// What else can be made.
    #[command(subcommand)]
    pub ema: Option<ConvertEmaCommand>,
    /// Weights in another layout.
    #[command(flatten)]
    pub weights: Option<Convert>,
}

/// What `strata convert` makes beside other layouts.
#[derive(Debug, Subcommand)]
pub enum ConvertEmaCommand {
    /// Weights averaged over any part of a training, afterwards: from the averages that a run with `post_hoc.widths` has stored
    Ema(ConvertEma),
}

/// `strata convert ema`
#[derive(Debug, Args)]
pub struct ConvertEma {
    /// The run directory of the training
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// A file NAME.safetensors, or a folder to sample from
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Width of the average, as its standard deviation in time relative to the length of the training (EDM2: 0.05 to 0.25)
    #[arg(long, value_name = "WIDTH")]
    pub sigma_rel: f64,
    /// At so many images [default: the newest stored average]
    #[arg(long, value_name = "N")]
    pub at_images: Option<u64>,
}

/// `strata convert IN OUT`
#[derive(Debug, Args)]
pub struct Convert {
    /// An autoencoder or a diffusion model of Strata or diffusers (run, folder or file), a published diffusion model (a snapshot of
    /// EDM, a checkpoint of latent diffusion with its YAML file; others need --preset), or any weight file
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// A file NAME.safetensors: Strata's layout of an autoencoder, or weights under their own names. A folder: diffusers' layout of
    /// a model of Strata, or a folder to sample from of a diffusion model of diffusers
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Only change the container: every tensor under its own name, into OUT.safetensors
    #[arg(long)]
    pub plain: bool,
    /// IN is a diffusion model in the layout of latent diffusion, EDM or score-SDE, with this preset's network (`strata inspect
    /// --preset list`). OUT becomes a folder that `strata sample` draws with
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// The YAML file that describes IN, a checkpoint of latent diffusion [default: the one beside it: of the same name, config.yaml,
    /// or the only one]
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    pub yaml: Option<PathBuf>,
    /// Change one setting of the preset, for example --set unet.classes=10
    #[arg(long, value_name = "KEY=VALUE", requires = "preset")]
    pub set: Vec<String>,
    /// The autoencoder of the diffusion model's latents [default: the one in IN]
    #[arg(long, value_name = "RUN|FILE")]
    pub autoencoder: Option<PathBuf>,
    /// The text encoder of a diffusion model of diffusers [default: the one in IN]
    #[arg(long, value_name = "DIR")]
    pub text_encoder: Option<PathBuf>,
    /// What the diffusion model, or a pipeline of diffusers, multiplies latents with [default: what IN says, else 1]
    #[arg(long, value_name = "FACTOR")]
    pub scaling_factor: Option<f64>,
}

/// `strata inspect`
#[derive(Debug, Args)]
pub struct Inspect {
    /// A weight file, settings (.toml), run directory, latents folder or data set
    #[arg(value_name = "FILE|RUN|LATENTS|DATA", required_unless_present = "preset")]
    pub target: Option<String>,
    /// A preset by name; `list` lists them
    #[arg(long, value_name = "NAME", conflicts_with = "target")]
    pub preset: Option<String>,
    /// Read the contents of a weight file too, and show the Euclidean norm of each tensor
    #[arg(long)]
    pub norms: bool,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}
