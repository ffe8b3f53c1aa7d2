//! What a weight file is, from its own words, its layout and the names of its tensors.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;
use strata_nn::checkpoint::{Checkpoint, Layout, diffusers_weights};

/// What a weight file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A diffusion model of Strata.
    StrataDiffusion,
    /// An autoencoder of Strata, by kind.
    StrataAutoencoder(String),
    /// A latent diffusion model of CompVis' code: U-Net, autoencoder and conditioner.
    LatentDiffusion,
    /// An autoencoder of CompVis' code.
    CompvisAutoencoder,
    /// One of diffusers' models, by class.
    Diffusers(String),
    /// A network snapshot of EDM.
    Edm,
    /// A checkpoint of score-SDE.
    ScoreSde,
    /// Nothing that has a name here.
    Unknown,
}

impl Origin {
    /// Of an open file; a `config.json` beside it is listened to.
    pub fn of(file: &Checkpoint) -> Self {
        let says = |key: &str| file.metadata().get(&format!("__metadata__.{key}")).and_then(Value::as_str);
        if says("format").is_some_and(|format| format.starts_with("strata-diffusion")) {
            return Self::StrataDiffusion;
        }
        if let Some(kind) = says("kind").filter(|kind| kind.contains("autoencoder")) {
            return Self::StrataAutoencoder(kind.to_string());
        }
        match file.layout() {
            Layout::EdmPkl => Self::Edm,
            Layout::ScoreSde => Self::ScoreSde,
            _ => Self::by_names(file),
        }
    }

    fn by_names(file: &Checkpoint) -> Self {
        let has = |part: &str| file.tensors().iter().any(|t| t.name().starts_with(part));
        if has("model.diffusion_model.") {
            return Self::LatentDiffusion;
        }
        if has("encoder.down.0.block.") && has("decoder.up.0.block.") {
            return Self::CompvisAutoencoder;
        }
        if let Some(class) = class_beside(file.path()) {
            return Self::Diffusers(class);
        }
        match () {
            () if has("encoder.down_blocks.") && has("quantize.embedding.") => Self::Diffusers("VQModel".into()),
            () if has("encoder.down_blocks.") => Self::Diffusers("AutoencoderKL".into()),
            () if has("encoder.layers.") && has("decoder.layers.") => Self::Diffusers("AutoencoderTiny".into()),
            () if has("down_blocks.") && has("time_embedding.linear_1.") => {
                let condition = has("mid_block.attentions.0.transformer_blocks.");
                Self::Diffusers(if condition { "UNet2DConditionModel" } else { "UNet2DModel" }.into())
            }
            () => Self::Unknown,
        }
    }

    /// In a sentence for a person.
    pub fn describe(&self) -> String {
        match self {
            Self::StrataDiffusion => "a diffusion model of Strata".into(),
            Self::StrataAutoencoder(kind) => format!("an autoencoder of Strata ({kind})"),
            Self::LatentDiffusion => "a latent diffusion model of CompVis' code: U-Net, autoencoder and conditioner".into(),
            Self::CompvisAutoencoder => "an autoencoder of CompVis' code".into(),
            Self::Diffusers(class) => format!("a {class} of diffusers"),
            Self::Edm => "a network snapshot of EDM".into(),
            Self::ScoreSde => "a checkpoint of score-SDE".into(),
            Self::Unknown => "weights of an unknown network".into(),
        }
    }

    /// A short name for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StrataDiffusion => "strata-diffusion",
            Self::StrataAutoencoder(_) => "strata-autoencoder",
            Self::LatentDiffusion => "latent-diffusion",
            Self::CompvisAutoencoder => "compvis-autoencoder",
            Self::Diffusers(_) => "diffusers",
            Self::Edm => "edm",
            Self::ScoreSde => "score-sde",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether the name of a file is one that weights have.
pub fn is_named_as_weights(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    [".safetensors", ".safetensors.index.json", ".bin.index.json", ".ckpt", ".pt", ".pth", ".bin", ".pkl"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// Whether a folder is a pipeline of diffusers, or one of its models.
pub fn is_diffusers(folder: &Path) -> bool {
    folder.join("model_index.json").is_file() || (folder.join("config.json").is_file() && weights_in(folder).is_some())
}

/// The weight file of one of diffusers' models.
pub fn weights_in(folder: &Path) -> Option<PathBuf> {
    // Text encoders have the names of transformers.
    let names = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"];
    diffusers_weights(folder).or_else(|| names.iter().map(|name| folder.join(name)).find(|path| path.is_file()))
}

/// The models of a folder of diffusers that have weights: names (empty for a single model) and weight files.
///
/// # Errors
/// If `model_index.json` cannot be read.
pub fn diffusers_parts(folder: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let index = folder.join("model_index.json");
    if !index.is_file() {
        return Ok(weights_in(folder).map(|weights| (String::new(), weights)).into_iter().collect());
    }
    let json = read_json(&index)?;
    let table = json.as_object().with_context(|| format!("{}: expected a table", index.display()))?;
    // A part's name is a folder's name and nothing that leads elsewhere.
    let names = table.keys().filter(|name| !name.starts_with('_') && !name.contains(['/', '\\', '.']));
    Ok(names.filter_map(|name| Some((name.clone(), weights_in(&folder.join(name))?))).collect())
}

/// A file of JSON.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The `_class_name` of a `config.json` beside the file.
pub fn class_beside(file: &Path) -> Option<String> {
    let config = read_json(&file.with_file_name("config.json")).ok()?;
    config["_class_name"].as_str().map(ToString::to_string)
}
