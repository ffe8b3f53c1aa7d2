//! `strata sample` as typed.

use std::path::PathBuf;

use clap::Args;

/// `strata sample`
#[derive(Debug, Args)]
pub struct Sample {
    /// Run directory or weight file of a diffusion model
    #[arg(value_name = "RUN|FILE")]
    pub model: PathBuf,
    /// Folder for the pictures: created, or continued
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seeds, one picture each: 7, 0-63 or 1,5,10-19. A seed decides its picture, whatever is drawn with it
    #[arg(long, default_value = "0-15")]
    pub seeds: String,
    /// Pictures per forward pass; does not change them
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub batch: usize,
    /// Autoencoder that turns latents into pictures [default: the one kept in the run]
    #[arg(long, value_name = "RUN|FILE")]
    pub autoencoder: Option<PathBuf>,
    /// Let the autoencoder work by tiles of so many pixels: its memory does not grow with the picture, the result stays the same,
    /// but it takes longer
    #[arg(long, value_name = "PIXELS", value_parser = super::parse_tile)]
    pub tile: Option<usize>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    /// How the noise is taken away.
    #[command(flatten)]
    pub solver: Solver,
    /// What is asked for.
    #[command(flatten)]
    pub wish: Wish,
    /// What the pictures begin with.
    #[command(flatten)]
    pub start: Start,
    /// What the model is shown.
    #[command(flatten)]
    pub shown: Shown,
    /// What is written.
    #[command(flatten)]
    pub output: Output,
}

/// How the noise is taken away.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Solver")]
pub struct Solver {
    /// Steps of the sampler
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub steps: usize,
    /// Sampler, with settings where it has some (ddim:eta=0.5); an unknown name lists them
    #[arg(long, default_value = "dpmpp-2m", value_name = "NAME")]
    pub sampler: String,
    /// At which noise levels.
    #[command(flatten)]
    pub levels: Levels,
}

/// The noise levels of a solver.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Solver")]
pub struct Levels {
    /// How the noise levels are spaced (log-snr, time-uniform, karras:rho=5, ...); an unknown name lists them
    #[arg(long, default_value = "karras", value_name = "NAME")]
    pub grid: String,
    /// Largest noise level [default: the schedule's, at most 80]
    #[arg(long, value_name = "SIGMA")]
    pub sigma_max: Option<f64>,
    /// Smallest noise level before the end [default: the schedule's, at least 0.002]
    #[arg(long, value_name = "SIGMA")]
    pub sigma_min: Option<f64>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Condition and guidance")]
pub struct Wish {
    /// Guidance towards class, attributes and prompt: 1 is none, more is stronger [default: 2 with one of them or --autoguidance]
    #[arg(long, value_name = "SCALE")]
    pub guidance: Option<f64>,
    /// The condition.
    #[command(flatten)]
    pub told: Told,
}

/// What is asked for, but for the strength of the guidance towards it.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Condition and guidance")]
pub struct Told {
    /// Class of the pictures, by name or number; `all` gives seed i class i modulo their number
    #[arg(long, value_name = "CLASS")]
    pub class: Option<String>,
    /// What the pictures are to have (=1) and not to have (=0), by name: smiling=1,male=0, or for short Smiling,-Male; of the other
    /// attributes nothing is said
    #[arg(long, value_name = "NAME=1,NAME=0", value_delimiter = ',', allow_hyphen_values = true)]
    pub attributes: Vec<String>,
    /// What the pictures are to show, of a model that was trained on captions
    #[arg(long, value_name = "TEXT", conflicts_with = "prompts")]
    pub prompt: Option<String>,
    /// A file with a prompt a line; seed i takes line i modulo their number
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Guide away from this text instead of from the empty one
    #[arg(long, value_name = "TEXT", conflicts_with = "autoguidance")]
    pub negative_prompt: Option<String>,
    /// Folder of the text encoder [default: where it lay when the captions were embedded]
    #[arg(long, value_name = "DIR")]
    pub text_encoder: Option<PathBuf>,
    /// Pictures that the samples are to be like, of a model that was trained on embedded pictures: a file, or a folder whose files the seeds
    /// take in turn
    #[arg(long, value_name = "IMAGE|DIR", conflicts_with_all = ["prompt", "prompts", "negative_prompt"])]
    pub like: Option<PathBuf>,
    /// Folder of the picture encoder [default: where it lay when the pictures were embedded]
    #[arg(long, value_name = "DIR")]
    pub picture_encoder: Option<PathBuf>,
    /// Guide away from this class instead of from no class
    #[arg(long, value_name = "CLASS")]
    pub negative_class: Option<String>,
    /// Guide at these noise levels alone
    #[arg(long, value_name = "LOW,HIGH", value_parser = parse_interval)]
    pub guidance_interval: Option<(f64, f64)>,
    /// Take back so much (0 to 1) of the contrast that guidance adds; 0.7 is usual
    #[arg(long, value_name = "PHI", default_value_t = 0.0)]
    pub guidance_rescale: f64,
    /// Guide away from what a worse model draws: an early checkpoint, or a smaller network
    #[arg(long, value_name = "RUN|FILE", conflicts_with = "negative_class")]
    pub autoguidance: Option<PathBuf>,
}

/// What the pictures begin with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Beginning with a picture")]
pub struct Start {
    /// Begin with this picture, cropped and resized as the model's are, instead of with noise alone
    #[arg(long, value_name = "IMAGE")]
    pub init_image: Option<PathBuf>,
    /// How much of it is drawn anew, as the share of the steps that is taken [default: 0.6; with --mask 1]
    #[arg(long, value_name = "SHARE", requires = "init_image")]
    pub strength: Option<f64>,
    /// Draw anew where this picture, of the size of --init-image, is white, and keep its pixels where it is black. A model that was
    /// trained with image.kind = "inpaint" sees what is kept
    #[arg(long, value_name = "IMAGE", requires = "init_image")]
    pub mask: Option<PathBuf>,
}

/// What the model is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images that the model is shown")]
pub struct Shown {
    /// Small picture to enlarge, of a model that was trained with image.kind = "low-res"; of a folder, seed i takes picture i modulo
    /// their number
    #[arg(long, value_name = "FILE|DIR")]
    pub low_res: Option<PathBuf>,
    /// Put noise of this deviation (pixels are in [-1, 1]) on it, up to the model's image.max_noise: details are then invented more
    /// freely, and faults of the small picture forgiven [default: 0]
    #[arg(long, value_name = "LEVEL", requires = "low_res")]
    pub low_res_noise: Option<f64>,
    /// Map of classes to draw by, a grey picture whose values are their numbers, of a model that was trained with image.kind = "map"
    #[arg(long, value_name = "FILE|DIR")]
    pub map: Option<PathBuf>,
}

/// What is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Columns of grid.png [default: a square]
    #[arg(long, value_name = "N")]
    pub columns: Option<usize>,
    /// Show how the first N pictures (4 without a number) come about, in trajectory.png and trajectory.gif
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "4")]
    pub trajectory: Option<usize>,
    /// Sort the pictures into folders of 1000 seeds
    #[arg(long)]
    pub folders: bool,
    /// Put the pictures into samples.zip, too
    #[arg(long)]
    pub zip: bool,
    /// Put the pictures into samples.npz, too: `arr_0` of shape `[N, H, W, 3]`, and with classes `arr_1` of shape `[N]`
    #[arg(long)]
    pub npz: bool,
}

fn parse_interval(text: &str) -> Result<(f64, f64), String> {
    let ends = text.split_once(',').and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
    ends.ok_or_else(|| "expected two noise levels, for example 0.3,5".to_string())
}
