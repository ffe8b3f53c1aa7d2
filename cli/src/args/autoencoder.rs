//! Arguments of the commands that measure and convert autoencoders.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Data, Weights};

/// `strata eval reconstruction`
#[derive(Debug, Args)]
pub struct EvalReconstruction {
    /// Run directory or weight file of an autoencoder
    #[arg(long, value_name = "RUN|FILE")]
    pub autoencoder: PathBuf,
    /// The images.
    #[command(flatten)]
    pub data: Data,
    /// Side of the images in pixels [default: what the autoencoder was trained at]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<usize>,
    /// Measure only this share of the images, the one that a training with the same `held_out_share` never sees
    #[arg(long, value_name = "SHARE")]
    pub held_out: Option<f64>,
    /// Measure only the first so many
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Images per forward pass
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub batch: usize,
    /// Work by tiles of so many pixels: memory does not grow with the image, the result stays the same, but it takes longer
    #[arg(long, value_name = "PIXELS", value_parser = super::parse_tile)]
    pub tile: Option<usize>,
    /// Weights of the LPIPS network, as torchvision or the lpips package name them; without them LPIPS is left out
    #[arg(long, value_name = "FILE")]
    pub lpips: Option<PathBuf>,
    /// Which network that is
    #[arg(long, value_enum, default_value_t = LpipsNetwork::Alex)]
    pub lpips_net: LpipsNetwork,
    /// For the distance of reconstructions to images, rFID; without it is left out.
    #[command(flatten)]
    pub network: Weights,
    /// Write images and reconstructions side by side into this PNG
    #[arg(long, value_name = "FILE.png")]
    pub grid: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// A network of LPIPS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LpipsNetwork {
    /// AlexNet: what papers report
    Alex,
    /// VGG-16: what autoencoders are trained with
    Vgg,
    /// SqueezeNet 1.1
    Squeeze,
}
