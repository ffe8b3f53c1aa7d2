//! From pictures to rows of features, whatever network makes them.

use std::path::Path;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::Serialize;
use strata_datasets::RgbImage;
use strata_training::sha256_file;

use super::inception::{self, Inception, Resize, SIDE};
use crate::{Error, Result};

/// Pictures that one thread works on at a time: enough for the network's products to be large.
const AT_ONCE: usize = 8;

/// What a network makes of some pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Features, `[pictures, dim]`.
    pub features: Vec<f32>,
    /// Spatial features of sFID, `[pictures, spatial]`; empty where the network has none.
    pub spatial: Vec<f32>,
    /// Logits of a classifier, `[pictures, classes]`; empty where there is none.
    pub logits: Vec<f32>,
}

/// What a number was measured with; two numbers compare only where it is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Name of the network.
    pub network: String,
    /// SHA-256 of its weight file.
    pub weights_sha256: String,
    /// How pictures were brought to its size.
    pub resize: String,
    /// Width of the features.
    pub features: usize,
}

/// A network that describes pictures.
pub trait Extractor: Sync {
    /// What it is.
    fn identity(&self) -> &Identity;

    /// Classes of its logits; 0 for none.
    fn classes(&self) -> usize;

    /// Width of its spatial features; 0 for none.
    fn spatial(&self) -> usize {
        0
    }

    /// Features and logits of pictures of any sizes, at least one.
    ///
    /// # Errors
    /// If a picture cannot be brought to the network's size.
    fn describe(&self, images: &[RgbImage]) -> Result<Rows>;
}

/// The network of FID, KID, inception score, precision and recall.
#[derive(Debug)]
pub struct InceptionExtractor {
    network: Inception,
    resize: Resize,
    identity: Identity,
}

impl InceptionExtractor {
    /// From a weight file of any kind.
    ///
    /// # Errors
    /// If it is not of this network.
    pub fn load(file: &Path, resize: Resize, device: &Device) -> Result<Self> {
        let network = Inception::load(file, device)?;
        let identity = Identity {
            network: "inception-v3-fid".to_string(),
            weights_sha256: sha256_file(file)?,
            resize: resize.name().to_string(),
            features: inception::FEATURES,
        };
        Ok(Self { network, resize, identity })
    }

    fn part(&self, images: &[RgbImage]) -> Result<Rows> {
        let values = images.iter().map(|image| inception::resize(image, self.resize)).collect::<Result<Vec<_>>>()?.concat();
        let x = Tensor::from_vec(values, (images.len(), SIDE, SIDE, 3), self.network.device())?;
        let described = self.network.forward(&x)?;
        let logits = described.logits.map(|l| l.flatten_all()?.to_vec1::<f32>()).transpose()?.unwrap_or_default();
        let features = described.pool.flatten_all()?.to_vec1()?;
        Ok(Rows { features, spatial: described.spatial.flatten_all()?.to_vec1()?, logits })
    }
}

impl Extractor for InceptionExtractor {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn classes(&self) -> usize {
        if self.network.has_head() { inception::CLASSES } else { 0 }
    }

    fn spatial(&self) -> usize {
        inception::SPATIAL
    }

    fn describe(&self, images: &[RgbImage]) -> Result<Rows> {
        in_parts(images, self.network.device(), |part| self.part(part))
    }
}

/// Runs `f` over parts of the pictures, on the CPU one part a thread, so that what a network does on one thread alone does
/// not hold up the others; and joins the rows.
pub(super) fn in_parts(images: &[RgbImage], device: &Device, f: impl Fn(&[RgbImage]) -> Result<Rows> + Sync) -> Result<Rows> {
    if images.is_empty() {
        return Err(Error::Config("expected pictures to describe, got none".into()));
    }
    if !device.is_cpu() {
        return f(images);
    }
    let parts = images.par_chunks(AT_ONCE).map(&f).collect::<Result<Vec<_>>>()?;
    let mut all = Rows::default();
    for part in parts {
        all.features.extend(part.features);
        all.spatial.extend(part.spatial);
        all.logits.extend(part.logits);
    }
    Ok(all)
}
