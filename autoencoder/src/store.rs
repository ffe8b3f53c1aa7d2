//! Trained autoencoders on disk: in a run directory, as a weight file of ours, or in a published layout.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde_json::Value;
use strata_nn::{
    checkpoint::{DIFFUSERS_WEIGHTS, diffusers_weights},
    params::ParamStore,
    weights::{self, Weights},
};
use strata_training::{run, sha256_file};

use crate::{
    Autoencoder, AutoencoderConfig, AutoencoderTraining, Error, Kind, Result, VqConfig,
    layouts::{KeyMap, compvis, diffusers, taesd},
    model::check_finite,
};

/// An autoencoder for use: its parameters are frozen.
#[derive(Clone, Debug)]
pub struct LoadedAutoencoder {
    /// The network.
    pub model: Autoencoder,
    /// Its configuration.
    pub config: AutoencoderConfig,
    /// Its parameters.
    pub store: ParamStore,
    /// The weight file it came from.
    pub file: PathBuf,
    /// SHA-256 of that file.
    pub sha256: String,
    /// Side of the images it was trained on, in pixels.
    pub size: usize,
}

impl LoadedAutoencoder {
    /// Errors unless it takes pictures and gives pictures.
    pub(crate) fn check_rgb(&self) -> Result<()> {
        match self.config.image_channels() {
            (3, 3) => Ok(()),
            (c_in, c_out) => {
                let message =
                    format!("expected an autoencoder of 3 channels (RGB), got {c_in} of its input and {c_out} of its output");
                Err(Error::file(&self.file, message))
            }
        }
    }
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
    if let Some(published) = diffusers_weights(path) {
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

/// The configuration that lies beside a weight file of diffusers: of the same name, as beside a copy, or `config.json`.
pub fn config_file(file: &Path) -> Option<PathBuf> {
    let own = Some(file.with_extension("json")).filter(|own| own != file);
    own.into_iter().chain([file.with_file_name("config.json")]).find(|path| path.is_file())
}

/// Loads the autoencoder that `path` stands for (see [`weight_file`]) onto `device`, frozen. A file of ours says what it is; for one
/// of diffusers (KL, VQ or tiny) the `config.json` beside it does; one of CompVis (alone, or within a latent diffusion model) is
/// known by the names and shapes of its tensors.
///
/// # Errors
/// If there is none, it is damaged, or its weights do not fit its configuration (all wrong keys are listed).
pub fn load(path: &Path, device: &Device) -> Result<LoadedAutoencoder> {
    let file = weight_file(path)?;
    let loaded = weights::load(&file, device)?;
    let origin = file.display().to_string();
    let store = ParamStore::new(0, device);
    let Description { config, size, layout } = description(&file, &loaded)?;
    let model = Autoencoder::new(&config, &store.root())?;
    match (layout, &config) {
        (Layout::Ours, _) => store.load(&loaded.tensors, &origin)?,
        (Layout::CompVis, _) => compvis::key_map(&store).import(&loaded.tensors, &store, &origin)?,
        (Layout::Diffusers, config) => diffusers_keys(config, &store).import(&loaded.tensors, &store, &origin)?,
    }
    check_weights(&store, &origin)?;
    store.freeze();
    let sha256 = sha256_file(&file)?;
    Ok(LoadedAutoencoder { config, model, store, file, sha256, size })
}

/// Errors, naming each tensor, if weights are not finite: pictures of such a network are wrong without a word.
fn check_weights(store: &ParamStore, origin: &str) -> Result<()> {
    let mut problems = Vec::new();
    for (name, tensor) in store.tensors() {
        if let Err(Error::Input { got, .. }) = check_finite("weights", &tensor) {
            problems.push(format!("`{name}`: expected finite numbers, got {got}"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(strata_nn::Error::Weights { origin: origin.to_string(), problems }.into())
}

fn diffusers_keys(config: &AutoencoderConfig, store: &ParamStore) -> KeyMap {
    match config {
        AutoencoderConfig::Kl(coder) | AutoencoderConfig::Vq(VqConfig { coder, .. }) => diffusers::key_map(store, coder.levels()),
        AutoencoderConfig::Tiny(tiny) => taesd::key_map(store, tiny),
    }
}

/// Whose names the tensors of a file have.
enum Layout {
    Ours,
    Diffusers,
    CompVis,
}

struct Description {
    config: AutoencoderConfig,
    size: usize,
    layout: Layout,
}

fn description(file: &Path, loaded: &Weights) -> Result<Description> {
    let json = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| Error::file(file, format!("its configuration: {e}")));
    let metadata = &loaded.metadata;
    if let Some(name) = metadata.get("kind") {
        let kinds = "an autoencoder";
        let kind = Kind::of_name(name).ok_or_else(|| Error::file(file, format!("is a `{name}`, expected {kinds}")))?;
        let text = metadata.get("config").ok_or_else(|| Error::file(file, "has no `config` in its metadata"))?;
        let config =
            AutoencoderConfig::from_json(kind, json(text)?).map_err(|e| Error::file(file, format!("its configuration: {e}")))?;
        let size = metadata.get("size").and_then(|size| size.parse().ok()).unwrap_or(0);
        return Ok(Description { config, size, layout: Layout::Ours });
    }
    if let Some(beside) = config_file(file) {
        let text = std::fs::read_to_string(&beside).map_err(|e| Error::file(&beside, e))?;
        let (config, size) = of_diffusers(&json(&text)?)?;
        return Ok(Description { config, size, layout: Layout::Diffusers });
    }
    let shapes = loaded.tensors.iter().map(|(name, t)| (name.as_str(), t.dims()));
    match compvis::infer(shapes)? {
        Some(config) => Ok(Description { config, size: 0, layout: Layout::CompVis }),
        None => {
            let message = "says not what it is, there is no config.json beside it, and its tensors are not those of a CompVis \
                           autoencoder; expected an autoencoder";
            Err(Error::file(file, message))
        }
    }
}

/// From diffusers' `config.json`: the network, and the side of the images that it was trained on (0: not said).
fn of_diffusers(json: &Value) -> Result<(AutoencoderConfig, usize)> {
    let side = |size: &Value| size.as_u64().unwrap_or(0) as usize;
    match json["_class_name"].as_str().unwrap_or("AutoencoderKL") {
        "AutoencoderTiny" => Ok((AutoencoderConfig::Tiny(taesd::Config::from_json(json)?.tiny()?), 0)),
        "VQModel" => {
            let published = diffusers::Config::from_json(json)?;
            Ok((AutoencoderConfig::Vq(published.vq()?), side(&published.sample_size)))
        }
        "AutoencoderKL" => {
            let published = diffusers::Config::from_json(json)?;
            Ok((AutoencoderConfig::Kl(published.kl()?), side(&published.sample_size)))
        }
        other => Err(Error::config("_class_name", "AutoencoderKL, VQModel or AutoencoderTiny", other)),
    }
}

/// The metadata of a weight file of ours.
pub(crate) fn metadata(config: &AutoencoderConfig, size: usize) -> Result<BTreeMap<String, String>> {
    let kind = config.kind().name().to_string();
    let config = serde_json::to_string(config).map_err(|e| Error::config("model", "values that JSON can hold", e))?;
    let pairs = [("kind", kind), ("config", config), ("size", size.to_string())];
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

/// Writes `config.json` and `diffusion_pytorch_model.safetensors` into the folder `dir`, which the `from_pretrained` of diffusers'
/// `AutoencoderKL`, `VQModel` or `AutoencoderTiny` loads. `scaling_factor`: what a pipeline multiplies latents with.
///
/// # Errors
/// If the network has a part that diffusers' class has not, or a file cannot be written.
pub fn export_diffusers(autoencoder: &LoadedAutoencoder, dir: &Path, scaling_factor: f64) -> Result<()> {
    let json = match &autoencoder.config {
        AutoencoderConfig::Kl(config) => diffusers::kl_config_json(config, autoencoder.size, scaling_factor)?,
        AutoencoderConfig::Vq(config) => diffusers::vq_config_json(config, autoencoder.size, scaling_factor)?,
        AutoencoderConfig::Tiny(config) => taesd::config_json(config, scaling_factor),
    };
    let tensors = diffusers_keys(&autoencoder.config, &autoencoder.store).export(&autoencoder.store)?;
    std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, e))?;
    weights::write_atomic(&dir.join("config.json"), format!("{json:#}").as_bytes())?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    Ok(weights::save(&dir.join(DIFFUSERS_WEIGHTS), &tensors, &metadata)?)
}

/// An autoencoder in memory as [`load`] would give it, from weights that training has at hand.
pub(crate) fn frozen(config: &AutoencoderConfig, tensors: &[(String, Tensor)], device: &Device) -> Result<Autoencoder> {
    let store = ParamStore::new(0, device);
    let model = Autoencoder::new(config, &store.root())?;
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
    let network = config.network();
    Autoencoder::new(&network, &store.root())?;
    let count = |side: &str| -> usize {
        let of_side = |name: &str| name.starts_with(side);
        store.parameters().iter().filter(|p| of_side(p.name())).map(|p| p.var().elem_count()).sum()
    };
    let (size, factor, channels, all) = (config.size, network.factor(), network.latent_channels(), store.element_count());
    let (encoder, decoder, side) = (count("encoder."), count("decoder."), size / factor);
    let codes = match &network {
        AutoencoderConfig::Vq(vq) => format!(", {} codes", vq.codes),
        _ => String::new(),
    };
    Ok(format!(
        "{}: {all} parameters ({encoder} in the encoder, {decoder} in the decoder)\n\
         latents: {channels}x{side}x{side} from images of {size}x{size} (factor {factor}){codes}",
        network.kind().name()
    ))
}
