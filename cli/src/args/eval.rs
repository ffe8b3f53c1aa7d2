//! Arguments of the commands that measure samples.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{
    Data, EvalReconstruction, Reading,
    compare::{EvalEfficiency, EvalSweep},
    sample::{Solver, Wish},
};

/// Commands that measure.
#[derive(Debug, Subcommand)]
pub enum EvalCommand {
    /// Fréchet inception distance (FID) of samples to data
    Fid(Box<Measure>),
    /// FID of spatial features (sFID): the first seven channels of a middle map of the network, with their places
    Sfid(Box<Measure>),
    /// Kernel inception distance (KID) of samples to data
    Kid(Box<Measure>),
    /// Inception score of samples
    Is(Box<Measure>),
    /// Precision, recall, density and coverage of samples against data
    #[command(alias = "pr")]
    Prdc(Box<Measure>),
    /// Fréchet distance under an extractor that `train-extractor` made: for work without the Inception weights. It is no FID
    Fd(Box<Measure>),
    /// Write the statistics of a data set that FID compares with, as pytorch-fid and EDM read them
    Statistics(EvalStatistics),
    /// Train a small classifier on a data set's labels, for `fd`, `kid` and `prdc` without the Inception weights
    TrainExtractor(EvalTrainExtractor),
    /// The training images nearest to each sample, by distance of features: to see what was memorised
    Nearest(EvalNearest),
    /// How well images survive an autoencoder: PSNR, SSIM, LPIPS, rFID, use of the codebook, statistics of the latents
    Reconstruction(EvalReconstruction),
    /// The distance over steps, samplers, guidance, checkpoints and averages: a table and a plot. Goes on where it was stopped
    Sweep(Box<EvalSweep>),
    /// The distance over the arithmetic of training and of sampling, for several runs: a table and plots. Goes on where it was stopped
    Efficiency(Box<EvalEfficiency>),
}

/// The network that describes images, and how it is fed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Features")]
pub struct Network {
    /// Which.
    #[command(flatten)]
    pub which: Weights,
    /// Images that are described at a time
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub batch: usize,
}

/// The network that describes images.
#[derive(Debug, Args)]
#[command(next_help_heading = "Features")]
pub struct Weights {
    /// Weights of the Inception network of FID: the file that pytorch-fid or torch-fidelity publish, or any with its names
    #[arg(long, value_name = "FILE", conflicts_with = "extractor")]
    pub weights: Option<PathBuf>,
    /// In its place: an extractor that `strata eval train-extractor` wrote, or a folder of CLIP or DINOv2 as transformers has them
    #[arg(long, value_name = "FILE|DIR")]
    pub extractor: Option<PathBuf>,
    /// How images are brought to the Inception network's size; numbers compare only where it is the same
    #[arg(long, value_enum, default_value_t = ResizeRule::PytorchFid)]
    pub resize: ResizeRule,
}

/// What samples are compared with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reference")]
pub struct Against {
    /// What the samples are compared with: statistics (.npz, .pkl, .pt) or DATA, also latents. Statistics of DATA are kept for the next time
    #[arg(long, value_name = "STATS|DATA")]
    pub reference: Option<String>,
    /// Only this split of the reference, where its layout has splits
    #[arg(long, value_name = "NAME")]
    pub reference_split: Option<String>,
    /// Share of unreadable images above which the command stops
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    pub max_bad: f64,
}

/// Rules of published programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResizeRule {
    /// Bilinear between pixel centres, as pytorch-fid
    PytorchFid,
    /// TensorFlow 1's bilinear rule, as torch-fidelity, StyleGAN and EDM
    #[value(alias = "edm")]
    TorchFidelity,
    /// Antialiased bicubic, as clean-fid
    CleanFid,
}

/// A measure of samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Metric {
    /// Fréchet distance
    Fid,
    /// Fréchet distance of spatial features
    Sfid,
    /// Kernel distance
    Kid,
    /// Inception score
    Is,
    /// Precision, recall, density, coverage
    Prdc,
}

/// `strata eval fid`, `kid`, `is`, `prdc` and `fd`
#[derive(Debug, Args)]
pub struct Measure {
    /// The samples: a folder, zip or npz of images, any other DATA; a folder of latents, which are decoded on
    /// the way; or statistics, where the reference is such a file too
    #[arg(long, value_name = "DATA|LATENTS", required_unless_present = "run", conflicts_with = "run")]
    pub samples: Option<String>,
    /// Draw the samples with this model instead; no image is stored
    #[arg(long, value_name = "RUN|FILE", requires = "num")]
    pub run: Option<PathBuf>,
    /// How many samples: the first of --samples, or seeds 0 to N - 1 of --run
    #[arg(long, value_name = "N")]
    pub num: Option<usize>,
    /// Further measures in the same pass
    #[arg(long, value_name = "METRIC,...", value_delimiter = ',', value_enum)]
    pub also: Vec<Metric>,
    /// Write the result, with all that it was made from, to this file as well
    #[arg(long, value_name = "metrics.json")]
    pub out: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    /// The reference.
    #[command(flatten)]
    pub against: Against,
    /// The network.
    #[command(flatten)]
    pub network: Network,
    /// Constants.
    #[command(flatten)]
    pub constants: Constants,
    /// With --run: how it draws.
    #[command(flatten)]
    pub solver: Solver,
    /// With --run: what it draws.
    #[command(flatten)]
    pub wish: Wish,
    /// How --samples and --reference are read.
    #[command(flatten)]
    pub reading: Reading,
}

/// Constants of the measures; the defaults are the published ones.
#[derive(Debug, Args)]
#[command(next_help_heading = "Measures")]
pub struct Constants {
    /// KID: subsets
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub subsets: usize,
    /// KID: images of each side in a subset
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub subset_size: usize,
    /// Inception score: splits
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub splits: usize,
    /// Precision and recall: neighbours
    #[arg(long, default_value_t = 3, value_name = "K")]
    pub nearest_k: usize,
    /// FID: a 95 % interval from so many draws with replacement (seconds each)
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub bootstrap: usize,
    /// FID: also its limit for infinitely many samples, from 10 subsets (seconds each)
    #[arg(long)]
    pub extrapolate: bool,
    /// With --run: measure so many times with other seeds; the lowest and the mean are shown
    #[arg(long, default_value_t = 1, value_name = "N", requires = "run")]
    pub repeats: usize,
}

/// `strata eval statistics`
#[derive(Debug, Args)]
pub struct EvalStatistics {
    /// The images.
    #[command(flatten)]
    pub data: Data,
    /// Only the first so many
    #[arg(long, value_name = "N")]
    pub num: Option<usize>,
    /// The network.
    #[command(flatten)]
    pub network: Network,
    /// With the statistics of the spatial features, for sFID, as ADM's reference files have them
    #[arg(long)]
    pub spatial: bool,
    /// File for mean and covariance: .npz as pytorch-fid, EDM and ADM read it, .pkl as EDM2, .pt as torch-fidelity
    #[arg(long, value_name = "FILE.npz")]
    pub out: PathBuf,
}

/// `strata eval train-extractor`
#[derive(Debug, Args)]
pub struct EvalTrainExtractor {
    /// The images, with labels.
    #[command(flatten)]
    pub data: Data,
    /// Side of the images in pixels: 8, 16, 32, ...
    #[arg(long, default_value_t = 32, value_name = "PIXELS")]
    pub size: usize,
    /// Length of the training in images seen
    #[arg(long, default_value_t = 60_000, value_name = "N")]
    pub images: u64,
    /// Share of the images that is measured on, not trained on
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub held_out: f64,
    /// File for the weights
    #[arg(long, value_name = "FILE.safetensors")]
    pub out: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// `strata eval nearest`
#[derive(Debug, Args)]
pub struct EvalNearest {
    /// The samples: a folder, zip or npz of images, or any other DATA
    #[arg(long, value_name = "DATA")]
    pub samples: String,
    /// Only the first so many samples
    #[arg(long, value_name = "N")]
    pub num: Option<usize>,
    /// The images to look among: what the model was trained on.
    #[command(flatten)]
    pub data: Data,
    /// How many are shown for each sample
    #[arg(long, default_value_t = 3, value_name = "K")]
    pub nearest_k: usize,
    /// Write the samples with their nearest images beside them into this PNG, those nearest to an image first
    #[arg(long, value_name = "FILE.png")]
    pub grid: Option<PathBuf>,
    /// The network.
    #[command(flatten)]
    pub network: Network,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}
