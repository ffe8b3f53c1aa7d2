//! A small classifier of a data set's own labels, whose features measure distances where the Inception weights are not at hand.
//!
//! Its numbers compare samples of one data set under one weight file; they are on no scale of the literature, and no distance
//! measured with it is a FID.

mod train;

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_datasets::{RgbImage, Transform};
use strata_nn::{
    layers::{Conv2d, GroupNorm, Linear},
    ops::{Conv2dConfig, Padding},
    params::{Init, ParamStore, Scope},
    weights,
};
use strata_training::sha256_file;

use super::extractor::{Extractor, Identity, Rows, in_parts};
use crate::{Error, Result};
pub use train::{ExtractorTraining, Trained, train};

/// What such a weight file says that it is.
pub const FORMAT: &str = "strata-extractor-1";
/// Width of the features.
pub const FEATURES: usize = 128;
/// Channels of the first level; each further one has twice as many, up to [`FEATURES`].
const CHANNELS: usize = 32;
const GROUPS: usize = 8;
/// Side of the last map.
const LAST: usize = 8;

/// What the network looks like, as its file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Side of the pictures in pixels: 8, 16, 32, ...
    pub size: usize,
    /// Number of classes.
    pub classes: usize,
}

impl ClassifierConfig {
    /// # Errors
    /// If a number cannot be used.
    pub fn validate(&self) -> Result<()> {
        let levels = self.size / LAST;
        if !self.size.is_multiple_of(LAST) || !levels.is_power_of_two() || levels > 64 {
            return Err(Error::Config(format!("`size`: expected 8, 16, 32, ... up to 512, got {}", self.size)));
        }
        match self.classes {
            0 | 1 => Err(Error::Config(format!("`classes`: expected at least 2, got {}", self.classes))),
            _ => Ok(()),
        }
    }
}

/// Convolutions that halve the sides down to 8, the mean over the map, and a linear head.
#[derive(Clone, Debug)]
pub struct Classifier {
    blocks: Vec<(Conv2d, GroupNorm)>,
    head: Linear,
}

impl Classifier {
    /// # Errors
    /// If the configuration cannot be used.
    pub fn new(config: &ClassifierConfig, scope: &Scope) -> Result<Self> {
        config.validate()?;
        let (mut blocks, mut c_in, mut c_out) = (Vec::new(), 3, CHANNELS);
        let mut block = |c_in: usize, c_out: usize, stride: usize| -> Result<()> {
            let scope = scope.pp(format!("block{}", blocks.len()));
            let convolution = Conv2dConfig { stride, padding: Padding::all(1) };
            let conv = Conv2d::with(&scope.pp("conv"), [c_in, c_out, 3], convolution, Init::FanIn)?;
            blocks.push((conv, GroupNorm::new(&scope.pp("norm"), c_out, GROUPS, 1e-5)?));
            Ok(())
        };
        block(c_in, c_out, 1)?;
        for _ in 0..(config.size / LAST).ilog2() {
            (c_in, c_out) = (c_out, (2 * c_out).min(FEATURES));
            block(c_in, c_out, 2)?;
        }
        block(c_out, FEATURES, 1)?;
        Ok(Self { blocks, head: Linear::new(&scope.pp("head"), FEATURES, config.classes)? })
    }

    /// x: `[B, S, S, 3]` in [-1, 1] -> features `[B, 128]` and logits `[B, classes]`.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let map = self.blocks.iter().try_fold(x.clone(), |x, (conv, norm)| norm.forward_silu(&conv.forward(&x)?))?;
        let features = map.flatten(1, 2)?.mean(1)?;
        let logits = self.head.forward(&features)?;
        Ok((features, logits))
    }
}

/// Pixels as the network sees them: `[n, size, size, 3]` in [-1, 1].
fn to_tensor(pixels: &[u8], n: usize, size: usize, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = pixels.iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
    Ok(Tensor::from_vec(values, (n, size, size, 3), device)?)
}

/// A trained classifier as an extractor.
#[derive(Debug)]
pub struct ClassifierExtractor {
    network: Classifier,
    transform: Transform,
    classes: usize,
    device: Device,
    identity: Identity,
}

impl ClassifierExtractor {
    /// From the file that [`train`] wrote.
    ///
    /// # Errors
    /// If it is none.
    pub fn load(file: &Path, device: &Device) -> Result<Self> {
        let loaded = weights::load(file, device)?;
        let config = config_of(&loaded.metadata).map_err(|why| Error::file(file, why))?;
        let store = ParamStore::new(0, device);
        let network = Classifier::new(&config, &store.root())?;
        store.load(&loaded.tensors, &file.display().to_string())?;
        store.freeze();
        let transform = Transform::new(config.size);
        let identity = Identity {
            network: FORMAT.to_string(),
            weights_sha256: sha256_file(file)?,
            resize: transform.to_string(),
            features: FEATURES,
        };
        Ok(Self { network, transform, classes: config.classes, device: device.clone(), identity })
    }

    fn part(&self, images: &[RgbImage]) -> Result<Rows> {
        let size = self.transform.size;
        let mut pixels = Vec::with_capacity(images.len() * size * size * 3);
        for image in images {
            pixels.extend(self.transform.apply(image)?.pixels);
        }
        let (features, logits) = self.network.forward(&to_tensor(&pixels, images.len(), size, &self.device)?)?;
        let (features, logits) = (features.flatten_all()?.to_vec1()?, logits.flatten_all()?.to_vec1()?);
        Ok(Rows { features, logits, ..Rows::default() })
    }
}

impl Extractor for ClassifierExtractor {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn describe(&self, images: &[RgbImage]) -> Result<Rows> {
        in_parts(images, &self.device, |part| self.part(part))
    }
}

fn config_of(metadata: &BTreeMap<String, String>) -> std::result::Result<ClassifierConfig, String> {
    let format = metadata.get("format").map_or("nothing", String::as_str);
    if format != FORMAT {
        return Err(format!("expected a feature extractor of Strata (`{FORMAT}`), the file says {format}"));
    }
    let config = metadata.get("config").ok_or("its metadata have no `config`")?;
    serde_json::from_str(config).map_err(|e| format!("`config`: {e}"))
}
