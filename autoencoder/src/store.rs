//! Trained autoencoders on disk: in a run directory, as a weight file of ours, or in diffusers' layout.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde_json::Value;
use strata_nn::{params::ParamStore, weights};
use strata_training::{run, sha256_file};

use crate::{AutoencoderKl, AutoencoderTraining, Error, KlConfig, Result, layouts::diffusers};

/// The kind of run directory and weight file.
pub const KIND: &str = "autoencoder-kl";

/// An autoencoder for use: its parameters are frozen.
#[derive(Clone, Debug)]
pub struct LoadedAutoencoder {
    /// The network.
    pub model: AutoencoderKl,
    /// Its configuration.
    pub config: KlConfig,
    /// Its parameters.
    pub store: ParamStore,
    /// The weight file it came from.
    pub file: PathBuf,
    /// SHA-256 of that file.
    pub sha256: String,
    /// Side of the images it was trained on, in pixels.
    pub size: usize,
}

/// The weight file that `path` stands for: itself, the averaged weights of a run directory's latest checkpoint, or those in a
/// folder of diffusers.
///
/// # Errors
/// If there is none.
pub fn weight_file(path: &Path) -> Result<PathBuf> {
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    if !path.exists() {
        return Err(Error::file(path, "does not exist; expected an autoencoder's run directory or weight file"));
    }
    let published = path.join("diffusion_pytorch_model.safetensors");
    if published.is_file() {
        return Ok(published);
    }
    let folder = if path.join("state.json").is_file() { Some(path.to_path_buf()) } else { latest_checkpoint(path)? };
    let files = folder.iter().flat_map(|folder| ["ema.safetensors", "model.safetensors"].map(|name| folder.join(name)));
    let found = files.into_iter().find(|file| file.is_file());
    found.ok_or_else(|| Error::file(path, "holds no checkpoint of an autoencoder yet; train it first"))
}

fn latest_checkpoint(path: &Path) -> Result<Option<PathBuf>> {
    let info = run::read_info(path)?;
    if !info.kind.starts_with("autoencoder") {
        return Err(Error::file(path, format!("is a run of `{}`, not of an autoencoder", info.kind)));
    }
    Ok(run::checkpoints(path).pop().map(|(_, folder)| folder))
}

/// Loads the autoencoder that `path` stands for (see [`weight_file`]) onto `device`, frozen.
///
/// # Errors
/// If there is none, it is damaged, or its weights do not fit its configuration (all wrong keys are listed).
pub fn load(path: &Path, device: &Device) -> Result<LoadedAutoencoder> {
    let file = weight_file(path)?;
    let loaded = weights::load(&file, device)?;
    let origin = file.display().to_string();
    let store = ParamStore::new(0, device);
    let (config, size) = match description(&file, &loaded.metadata)? {
        Description::Ours { config, size } => {
            let model = AutoencoderKl::new(&config, &store.root())?;
            store.load(&loaded.tensors, &origin)?;
            (model, size)
        }
        Description::Diffusers(json) => {
            let published = diffusers::Config::from_json(&json)?;
            let model = AutoencoderKl::new(&published.kl()?, &store.root())?;
            diffusers::key_map(&store, model.config().levels()).import(&loaded.tensors, &store, &origin)?;
            (model, published.sample_size.as_u64().unwrap_or(0) as usize)
        }
    };
    store.freeze();
    let sha256 = sha256_file(&file)?;
    Ok(LoadedAutoencoder { config: config.config().clone(), model: config, store, file, sha256, size })
}

enum Description {
    Ours { config: KlConfig, size: usize },
    Diffusers(Value),
}

fn description(file: &Path, metadata: &BTreeMap<String, String>) -> Result<Description> {
    let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| Error::file(file, format!("its configuration: {e}")));
    match (metadata.get("kind").map(String::as_str), metadata.get("config")) {
        (Some(KIND), Some(text)) => {
            let config = serde_json::from_value(json(text)?).map_err(|e| Error::file(file, format!("its configuration: {e}")))?;
            let size = metadata.get("size").and_then(|size| size.parse().ok()).unwrap_or(0);
            return Ok(Description::Ours { config, size });
        }
        (Some(other), _) => return Err(Error::file(file, format!("is a `{other}`, expected `{KIND}`"))),
        (None, _) => {}
    }
    let beside = file.with_file_name("config.json");
    match std::fs::read_to_string(&beside) {
        Ok(text) => Ok(Description::Diffusers(json(&text)?)),
        Err(_) => Err(Error::file(file, "says not what it is, and there is no config.json beside it; expected an autoencoder")),
    }
}

/// The metadata of a weight file of ours.
pub(crate) fn metadata(config: &KlConfig, size: usize) -> Result<BTreeMap<String, String>> {
    let config = serde_json::to_string(config).map_err(|e| Error::config("model", "values that JSON can hold", e))?;
    let pairs = [("kind", KIND.to_string()), ("config", config), ("size", size.to_string())];
    Ok(pairs.map(|(key, value)| (key.to_string(), value)).into())
}

/// Writes an autoencoder as one weight file with its configuration in the metadata.
///
/// # Errors
/// If the file cannot be written.
pub fn save(autoencoder: &LoadedAutoencoder, path: &Path) -> Result<()> {
    let metadata = metadata(&autoencoder.config, autoencoder.size)?;
    Ok(weights::save(path, &autoencoder.store.tensors(), &metadata)?)
}

/// Writes `config.json` and `diffusion_pytorch_model.safetensors`, which diffusers' `AutoencoderKL.from_pretrained` loads, into
/// the folder `dir`. `scaling_factor`: what a pipeline multiplies latents with.
///
/// # Errors
/// If the network has a part that diffusers' class has not, or a file cannot be written.
pub fn export_diffusers(autoencoder: &LoadedAutoencoder, dir: &Path, scaling_factor: f64) -> Result<()> {
    let json = diffusers::kl_config_json(&autoencoder.config, autoencoder.size, scaling_factor)?;
    let tensors = diffusers::key_map(&autoencoder.store, autoencoder.config.levels()).export(&autoencoder.store)?;
    std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
    weights::write_atomic(&dir.join("config.json"), format!("{json:#}").as_bytes())?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    Ok(weights::save(&dir.join("diffusion_pytorch_model.safetensors"), &tensors, &metadata)?)
}

/// An autoencoder in memory as [`load`] would give it, from weights that training has at hand.
pub(crate) fn frozen(config: &KlConfig, tensors: &[(String, Tensor)], device: &Device) -> Result<AutoencoderKl> {
    let store = ParamStore::new(0, device);
    let model = AutoencoderKl::new(config, &store.root())?;
    store.load(&tensors.iter().cloned().collect::<HashMap<_, _>>(), "the averaged weights")?;
    store.freeze();
    Ok(model)
}

/// What a training would build, for a dry run: parameters, latents and pictures in a line each.
///
/// # Errors
/// If the settings cannot be used.
pub fn describe(config: &AutoencoderTraining) -> Result<String> {
    config.validate()?;
    let store = ParamStore::new(config.seed, &Device::Cpu);
    let model = AutoencoderKl::new(&config.model, &store.root())?;
    let count = |side: &str| -> usize {
        let of_side = |name: &str| name.starts_with(side);
        store.parameters().iter().filter(|p| of_side(p.name())).map(|p| p.var().elem_count()).sum()
    };
    let (size, factor, channels, all) = (config.size, model.factor(), model.latent_channels(), store.element_count());
    let (encoder, decoder, side) = (count("encoder."), count("decoder."), size / factor);
    Ok(format!(
        "autoencoder: {all} parameters ({encoder} in the encoder, {decoder} in the decoder)\n\
         latents: {channels}x{side}x{side} from images of {size}x{size} (factor {factor})"
    ))
}
