//! Options about data sets and latents.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use strata_datasets::{Alpha, Crop, DatasetOptions, Decode, LatentKind, LatentType, Layout, Resampling, Transform};

/// How a data set is read.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Reading the data set")]
pub struct Reading {
    /// Its layout, where it is not the one detected; an unknown name lists them
    #[arg(long, value_name = "NAME")]
    pub layout: Option<Layout>,
    /// Only this split, where the layout has splits: train, valid or test
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Column of pictures (parquet) [default: image or img]
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,
    /// Column of classes (parquet, metadata files) [default: label]
    #[arg(long, value_name = "COLUMN")]
    pub label_column: Option<String>,
    /// Column of captions (parquet, metadata files) [default: text, caption or prompt]
    #[arg(long, value_name = "COLUMN")]
    pub caption_column: Option<String>,
    /// What shows through transparent pixels: white, a colour as RRGGBB, or drop to keep the colour that is stored below
    #[arg(long, value_name = "COLOUR", default_value = "white", hide_default_value = true)]
    pub background: Alpha,
}

impl Reading {
    /// For the library.
    pub fn options(&self) -> DatasetOptions {
        DatasetOptions {
            layout: self.layout,
            split: self.split.clone(),
            image_column: self.image_column.clone(),
            label_column: self.label_column.clone(),
            caption_column: self.caption_column.clone(),
            decode: Decode { alpha: self.background, ..Decode::default() },
            ..DatasetOptions::default()
        }
    }
}

/// A data set.
#[derive(Clone, Debug, Args)]
pub struct Data {
    /// Images: a folder (sub-folders are classes), an archive, or `emoji`
    #[arg(long, value_name = "DATA")]
    pub data: String,
    /// Share of unreadable images above which the command stops
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    pub max_bad: f64,
    /// How it is read.
    #[command(flatten)]
    pub reading: Reading,
}

/// How pictures become squares.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Preparing the images")]
pub struct Preparing {
    /// What is kept of an image that is no square: center, squash, smallest_side (to the size, then the centre), random (the
    /// same, then anywhere) or celeba (the centre 178x178) [default: center]
    #[arg(long, value_name = "NAME")]
    pub crop: Option<Crop>,
    /// How pixels are resampled: nearest, box, bilinear, hamming, bicubic, lanczos as Pillow, cv_area and others as OpenCV
    /// [default: lanczos]
    #[arg(long, value_name = "NAME")]
    pub filter: Option<Resampling>,
}

impl Preparing {
    /// For the library.
    pub fn transform(&self, size: usize) -> Transform {
        Transform { size, crop: self.crop.unwrap_or_default(), filter: self.filter.unwrap_or_default() }
    }
}

/// `strata data inspect`
#[derive(Debug, Args)]
pub struct DataInspect {
    /// Images: a folder (sub-folders are classes), an archive, or `emoji`
    #[arg(value_name = "DATA")]
    pub data: String,
    /// How it is read.
    #[command(flatten)]
    pub reading: Reading,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// `strata data convert`
#[derive(Debug, Args)]
pub struct DataConvert {
    /// Images: a folder (sub-folders are classes), an archive, or `emoji`
    #[arg(value_name = "DATA")]
    pub data: String,
    /// What to write: a .zip as EDM's tools read it, or a .parquet as Hugging Face's do
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Side of the images in pixels [default: parquet keeps them as they are; a zip needs it unless all have one size]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<usize>,
    /// Share of unreadable images above which the command stops
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    pub max_bad: f64,
    /// How squares are made.
    #[command(flatten)]
    pub preparing: Preparing,
    /// How it is read.
    #[command(flatten)]
    pub reading: Reading,
}

/// `strata data verify`
#[derive(Debug, Args)]
pub struct DataVerify {
    /// A folder that `strata encode` wrote
    #[arg(value_name = "LATENTS")]
    pub latents: PathBuf,
}

/// What is stored of an image's latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stored {
    /// Mean and log-variance: training draws a new latent each time
    Moments,
    /// The mean alone, half the size
    Mean,
}

/// How latents' numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoredType {
    /// 4 bytes
    F32,
    /// 2 bytes
    F16,
    /// 2 bytes
    Bf16,
}

impl From<Stored> for LatentKind {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Moments => Self::Moments,
            Stored::Mean => Self::Continuous,
        }
    }
}

impl From<StoredType> for LatentType {
    fn from(stored: StoredType) -> Self {
        match stored {
            StoredType::F32 => Self::F32,
            StoredType::F16 => Self::F16,
            StoredType::Bf16 => Self::Bf16,
        }
    }
}

/// `strata encode`
#[derive(Debug, Args)]
#[command(after_help = "Started by torchrun, srun or mpirun, each process writes shards of its own into the same folder.")]
pub struct Encode {
    /// Run directory or weight file of an autoencoder
    #[arg(long, value_name = "RUN|FILE")]
    pub autoencoder: PathBuf,
    /// Folder for the latents: created, or continued
    #[arg(long, value_name = "LATENTS")]
    pub out: PathBuf,
    /// Side of the images in pixels [default: what the autoencoder was trained at]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<usize>,
    /// Images per forward pass
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub batch: usize,
    /// Store the latent of each image's mirror image as well
    #[arg(long)]
    pub flip: bool,
    /// What is stored of a latent
    #[arg(long, value_enum, default_value_t = Stored::Moments)]
    pub store: Stored,
    /// How its numbers are stored
    #[arg(long, value_enum, default_value_t = StoredType::F32)]
    pub store_dtype: StoredType,
    /// Images to a shard; processes share the work by shards
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub shard_images: usize,
    /// Work by tiles of so many pixels: memory does not grow with the image, the result stays the same, but it takes longer
    #[arg(long, value_name = "PIXELS", value_parser = super::parse_tile)]
    pub tile: Option<usize>,
    /// The images.
    #[command(flatten)]
    pub data: Data,
    /// How squares are made.
    #[command(flatten)]
    pub preparing: Preparing,
    /// Their captions.
    #[command(flatten)]
    pub texts: Texts,
    /// What models are shown.
    #[command(flatten)]
    pub images: Images,
}

/// What is embedded for models to be told.
#[derive(Debug, Args)]
#[command(next_help_heading = "What models are told")]
pub struct Texts {
    /// Embed the captions, each distinct one once, with this encoder: a folder with config.json, weights and tokenizer of CLIP, BERT
    /// or T5
    #[arg(long, value_name = "DIR")]
    pub text_encoder: Option<PathBuf>,
    /// Instead, embed each picture with this encoder, for models that are told what samples are to be like: a folder with config.json and
    /// weights of CLIP or DINOv2
    #[arg(long, value_name = "DIR", conflicts_with = "text_encoder")]
    pub picture_encoder: Option<PathBuf>,
    /// Tokens of a caption, start and end included; longer ones are cut [default: 77, or what the encoder takes]
    #[arg(long, value_name = "N", requires = "text_encoder")]
    pub text_tokens: Option<usize>,
}

/// What is stored beside latents for models that are shown images.
#[derive(Debug, Args)]
#[command(next_help_heading = "Images that models are shown")]
pub struct Images {
    /// For super-resolution: each picture so many times smaller
    #[arg(long, value_name = "FACTOR", conflicts_with_all = ["inpaint_masks", "maps"])]
    pub low_res: Option<usize>,
    /// For inpainting: so many random holes in each picture, of which training draws one each time
    #[arg(long, value_name = "N", conflicts_with = "maps")]
    pub inpaint_masks: Option<usize>,
    /// For semantic synthesis: a folder with a map for each picture, a grey PNG of the same path whose values are numbers of classes
    #[arg(long, value_name = "DIR", requires = "map_classes")]
    pub maps: Option<PathBuf>,
    /// Number of classes of the maps
    #[arg(long, value_name = "N", requires = "maps")]
    pub map_classes: Option<usize>,
}
