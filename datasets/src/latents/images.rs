//! Images beside latents, for models that are shown some: one or several for each latent, in `images.safetensors`.
//!
//! The file has the tensor `images` `[N, V, C, h, w]`: smaller pictures and maps as bytes, holes in half precision. Its metadata say what
//! they are.

use std::path::Path;

use half::f16;
use safetensors::tensor::Dtype;
use serde::{Deserialize, Serialize};

use super::beside::{Beside, BesideWriter};
use super::set::LatentSet;
use crate::{Error, Result};

const FILE: &str = "images.safetensors";
const TENSOR: &str = "images";
const DESCRIPTION: &str = "source";

/// What images beside latents show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageKind {
    /// The picture so many times smaller along a side: RGB bytes.
    LowRes {
        /// Pixels to one.
        factor: usize,
    },
    /// The latent of the picture with a black hole, as the autoencoder gives it, and the mask: 1 where to draw, -1 elsewhere.
    Inpaint,
    /// The class of every pixel, below `classes`: bytes.
    Map {
        /// Number of classes.
        classes: usize,
    },
}

impl ImageKind {
    fn dtype(&self) -> Dtype {
        match self {
            Self::LowRes { .. } | Self::Map { .. } => Dtype::U8,
            Self::Inpaint => Dtype::F16,
        }
    }
}

impl std::fmt::Display for ImageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LowRes { factor } => write!(f, "pictures {factor} times smaller"),
            Self::Inpaint => write!(f, "holes"),
            Self::Map { classes } => write!(f, "maps of {classes} classes"),
        }
    }
}

/// What the images are, and their shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSource {
    /// What they show.
    pub image: ImageKind,
    /// Images for each latent, of which training draws one.
    pub variants: usize,
    /// Channels, height and width of each.
    pub shape: [usize; 3],
}

impl ImageSource {
    fn tensor(&self, count: usize) -> (&'static str, Dtype, Vec<usize>) {
        let [c, h, w] = self.shape;
        (TENSOR, self.image.dtype(), vec![count, self.variants, c, h, w])
    }
}

/// The images of a folder of latents. They are read where they are asked for. May be read from many threads.
pub struct LatentImages {
    file: Beside,
    source: ImageSource,
}

impl LatentImages {
    /// The images in the folder `dir` of `count` latents; none where there are none.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn open(dir: &Path, count: usize) -> Result<Option<Self>> {
        let Some(file) = Beside::open(dir, FILE, TENSOR, DESCRIPTION)? else { return Ok(None) };
        let source: ImageSource = serde_json::from_str(&file.description).map_err(|e| file.error(format!("damaged: {e}")))?;
        let (_, dtype, shape) = source.tensor(count);
        if file.dtype != dtype || file.shape != shape {
            let why = format!("expected {dtype:?} {shape:?}, got {:?} {:?}", file.dtype, file.shape);
            return Err(file.error(format!("{why}: these are images of other latents")));
        }
        Ok(Some(Self { file, source }))
    }

    /// What they are.
    pub fn source(&self) -> &ImageSource {
        &self.source
    }

    /// Image `variant` of latent `i`: C x h x w numbers, bytes as they are.
    ///
    /// # Errors
    /// If there is none, or the file cannot be read.
    pub fn get(&self, i: usize, variant: usize) -> Result<Vec<f32>> {
        let (count, variants) = (self.file.shape[0], self.source.variants);
        if i >= count || variant >= variants {
            return Err(Error::argument("image", format!("below {count} and {variants}"), format!("{i} and {variant}")));
        }
        let bytes = self.file.row(i)?;
        let size = bytes.len() / variants;
        let bytes = &bytes[variant * size..(variant + 1) * size];
        Ok(match self.file.dtype {
            Dtype::U8 => bytes.iter().map(|&v| f32::from(v)).collect(),
            _ => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        })
    }
}

/// Writes the images of a finished folder of latents.
pub struct LatentImagesWriter {
    file: BesideWriter,
    source: ImageSource,
}

impl LatentImagesWriter {
    /// Into the folder `dir` of `latents`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(dir: &Path, latents: &LatentSet, source: &ImageSource) -> Result<Self> {
        let description = serde_json::to_string(source).map_err(|e| Error::file(dir.join(FILE), e))?;
        let file = BesideWriter::new(dir, FILE, source.tensor(latents.len()), (DESCRIPTION, description))?;
        Ok(Self { file, source: source.clone() })
    }

    /// The next image, latent after latent, each with all its variants.
    ///
    /// # Errors
    /// If it has another size, a byte is no byte, or the disk is full.
    pub fn push(&mut self, image: &[f32]) -> Result<()> {
        let expected = self.source.shape.iter().product::<usize>();
        if image.len() != expected {
            return Err(Error::argument("image", format!("{expected} numbers"), image.len()));
        }
        let bytes: Vec<u8> = match self.source.image.dtype() {
            Dtype::U8 => image.iter().map(|v| v.round().clamp(0.0, 255.0) as u8).collect(),
            _ => image.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        };
        self.file.push(&bytes)
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// If images are missing, or the disk is full.
    pub fn finish(self) -> Result<()> {
        self.file.finish()
    }
}
