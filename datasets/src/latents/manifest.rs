//! The manifest of a folder of latents.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dataset::DatasetOptions;
use crate::transform::Transform;
use crate::{Error, Result};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const UNFINISHED: &str = "encoding.json";
pub(super) const FORMAT_VERSION: u32 = 1;

/// What a stored latent is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatentKind {
    /// Mean and log-variance of the posterior: 2Z channels; training samples it anew at each step.
    #[default]
    Moments,
    /// The latent itself: Z channels.
    Continuous,
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LatentType {
    /// 4 bytes.
    #[default]
    F32,
    /// 2 bytes.
    F16,
    /// 2 bytes.
    Bf16,
}

/// The data set that latents were made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceInfo {
    /// As given on the command line.
    pub spec: String,
    /// [`crate::Dataset::fingerprint`].
    pub fingerprint: String,
    /// How it was opened.
    pub options: DatasetOptions,
}

/// One file of latents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Name within the folder.
    pub file: String,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Latents in it.
    pub count: usize,
}

/// What a folder of latents is, and what it was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LatentManifest {
    /// Of these files; a later one is refused.
    pub format_version: u32,
    /// SHA-256 of the autoencoder's weights.
    pub autoencoder_sha256: String,
    /// Pixels per latent, along a side.
    pub factor: usize,
    /// Z, the channels of a latent.
    pub channels: usize,
    /// Rows of a latent.
    pub height: usize,
    /// Columns of a latent.
    pub width: usize,
    /// What is stored.
    pub kind: LatentKind,
    /// How numbers are stored.
    pub dtype: LatentType,
    /// Factor that gives normalised latents: (z - shift) * scale. One for each channel, or one for all. Left empty for
    /// [`LatentWriter::create`](super::LatentWriter::create), it is measured: 1 / standard deviation.
    pub scale: Vec<f32>,
    /// Subtracted before scaling. One for each channel, or one for all. Left empty, it is measured: the mean.
    pub shift: Vec<f32>,
    /// How pictures were prepared.
    pub transform: Transform,
    /// What the pictures were.
    pub source: SourceInfo,
    /// Each picture is followed by its mirror image.
    pub flipped: bool,
    /// Class names by label; empty when unlabelled.
    pub class_names: Vec<String>,
    /// Names of binary attributes (CelebA), one for each column of `attributes`; empty where there are none.
    pub attribute_names: Vec<String>,
    /// Pictures of the data set, usable or not.
    pub pictures: usize,
    /// Pictures to a shard, usable or not.
    pub pictures_per_shard: usize,
    /// Pictures that have no latent, because they could not be used.
    pub left_out: usize,
    /// Latents in all shards.
    pub count: usize,
    /// In order.
    pub shards: Vec<Shard>,
}

impl Default for LatentManifest {
    fn default() -> Self {
        Self {
            format_version: FORMAT_VERSION,
            autoencoder_sha256: String::new(),
            factor: 1,
            channels: 0,
            height: 0,
            width: 0,
            kind: LatentKind::default(),
            dtype: LatentType::default(),
            scale: Vec::new(),
            shift: Vec::new(),
            transform: Transform::default(),
            source: SourceInfo::default(),
            flipped: false,
            class_names: Vec::new(),
            attribute_names: Vec::new(),
            pictures: 0,
            pictures_per_shard: 0,
            left_out: 0,
            count: 0,
            shards: Vec::new(),
        }
    }
}

impl LatentManifest {
    /// Stored channels: 2Z for moments, Z otherwise.
    pub fn stored_channels(&self) -> usize {
        match self.kind {
            LatentKind::Moments => 2 * self.channels,
            LatentKind::Continuous => self.channels,
        }
    }

    /// Numbers stored for one picture.
    pub fn item_len(&self) -> usize {
        self.stored_channels() * self.height * self.width
    }

    /// Reads `manifest.json` of the folder `dir`. Errors if there is none, or the encoding was not finished.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(MANIFEST);
        if !path.exists() && dir.join(UNFINISHED).exists() {
            return Err(Error::file(dir, "the encoding was not finished; run the same command again to continue it"));
        }
        if !path.exists() {
            return Err(Error::file(dir, format!("holds no latents: there is no {MANIFEST}")));
        }
        Self::read_file(&path)
    }

    pub(super) fn read_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        let manifest: Self = serde_json::from_str(&text).map_err(|e| Error::file(path, format!("damaged: {e}")))?;
        if manifest.format_version != FORMAT_VERSION {
            let found = manifest.format_version;
            return Err(Error::file(path, format!("format version: expected {FORMAT_VERSION}, got {found}")));
        }
        if manifest.item_len() == 0 {
            return Err(Error::file(path, "damaged: latents without a size"));
        }
        Ok(manifest)
    }

    /// Errors, naming the first difference, unless `other` (the one on disk) describes latents of the same origin.
    pub(super) fn same_origin(&self, other: &Self, dir: &Path) -> Result<()> {
        let pairs = self.origin().into_iter().zip(other.origin());
        for ((what, wanted), (_, found)) in pairs {
            if wanted != found {
                return Err(Error::Origin { path: dir.to_path_buf(), what: what.into(), found, wanted });
            }
        }
        Ok(())
    }

    fn origin(&self) -> [(&'static str, String); 10] {
        [
            ("autoencoder_sha256", self.autoencoder_sha256.clone()),
            ("source.fingerprint", self.source.fingerprint.clone()),
            ("transform", self.transform.to_string()),
            ("kind", format!("{:?}", self.kind)),
            ("dtype", format!("{:?}", self.dtype)),
            ("size (channels x height x width)", format!("{} x {} x {}", self.channels, self.height, self.width)),
            ("flipped", self.flipped.to_string()),
            ("factor", self.factor.to_string()),
            ("pictures", self.pictures.to_string()),
            ("pictures_per_shard", self.pictures_per_shard.to_string()),
        ]
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
