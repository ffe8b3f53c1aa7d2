//! Models from the checkpoints of the published systems.
//!
//! A checkpoint says which numbers it holds, not what they make: the configuration comes from a preset. The averaged weights are
//! taken where a checkpoint has them, as the published samplers do.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use strata_conditioning::{ImageCondition, ImageInput};
use strata_nn::checkpoint::{self, Checkpoint};

use crate::{
    Error, Result,
    model::{LatentScaling, Model, ModelConfig},
    training::DiffusionTraining,
    unet::{EdmUNetConfig, Family, KeyMap, modern_name},
};

mod diffusers;
mod ldm;

pub use diffusers::{Parts, Scheduler, import_diffusers};
pub use ldm::ldm_config;

const LDM: &str = "model.diffusion_model.";
/// What the names of a bare network of latent diffusion begin with.
const LDM_MODULES: [&str; 9] = [
    "input_blocks.",
    "middle_block.",
    "output_blocks.",
    "de_modules.",
    "time_embed.",
    "label_emb.",
    "out.",
    "outs.",
    "id_predictor",
];
/// The table of a class-conditional latent diffusion model, the null class in its last row.
const CLASSES: &str = "cond_stage_model.embedding.weight";

/// The model that `config` (a preset, with its `unet.size`) describes, with the weights in `file`, which is laid out as latent
/// diffusion, EDM or score-SDE do according to `unet.family`. `latents` turns its samples back into those of an autoencoder;
/// [`LatentScaling::pixels`] where they are pictures.
///
/// # Errors
/// If the configuration cannot be built, or the file's tensors are not those of its network: all that differ, by their names.
pub fn import(file: &Checkpoint, config: &DiffusionTraining, latents: LatentScaling, device: &Device) -> Result<Model> {
    let stored = stored_names(file, config.unet.family);
    let names: HashMap<&str, &str> = stored.iter().map(|(name, stored)| (stored.as_str(), name.as_str())).collect();
    let tensors = file.load_where(device, |stored| names.get(stored).map(ToString::to_string))?;
    if tensors.is_empty() {
        let looked = format!("no tensor that is named as those of the family {:?} are", config.unet.family);
        return Err(Error::file(file.path(), format!("{looked}; is the preset the right one?")));
    }
    let model = Model::new(&model_config(config, latents, &tensors)?, 0, device)?;
    let mut keys = KeyMap::published(&config.unet)?.below("unet.");
    if tensors.contains_key(CLASSES) {
        keys = keys.with_classes("classes.embedding", CLASSES.trim_end_matches(".weight"));
    }
    keys.load(model.store(), &tensors, &file.path().display().to_string())?;
    model.store().freeze();
    Ok(model)
}

/// What the network of an EDM snapshot is, by the arguments that it was made with, which are in the file.
///
/// # Errors
/// If the file does not tell, or tells of what has no counterpart here.
pub fn edm_config(file: &Checkpoint) -> Result<DiffusionTraining> {
    let edm = EdmUNetConfig::of_snapshot(file.metadata())?;
    let (parametrization, schedule) = edm.preconditioning()?.of_model()?;
    let boundaries = edm.boundaries().ok_or_else(|| Error::Config("stages of several intervals have no counterpart".into()))?;
    Ok(DiffusionTraining { unet: edm.translate()?, parametrization, schedule, boundaries, ..DiffusionTraining::default() })
}

/// The number that a latent diffusion checkpoint says latents were multiplied with, if it says so.
///
/// # Errors
/// If it cannot be read.
pub fn scale_factor(file: &Checkpoint) -> Result<Option<f32>> {
    let found = file.load_where(&Device::Cpu, |name| (name == "scale_factor").then(|| name.to_string()))?;
    found.values().next().map(|t| Ok(t.flatten_all()?.get(0)?.to_dtype(candle_core::DType::F32)?.to_scalar()?)).transpose()
}

fn model_config(config: &DiffusionTraining, latents: LatentScaling, tensors: &HashMap<String, Tensor>) -> Result<ModelConfig> {
    let unet = config.unet.clone();
    let size = unet.size.ok_or_else(|| Error::Config("`unet.size`: must be given, the side of the network's samples".into()))?;
    // What is shown has the size of a sample in the published models.
    let channels = if config.image.is_some() { unet.out_channels } else { unet.in_channels };
    let image = config.image.as_ref().map(|condition| {
        let shown = match condition {
            ImageCondition::LowRes { .. } => 3,
            ImageCondition::Inpaint => channels + 1,
            ImageCondition::Map { .. } => 1,
        };
        ImageInput { condition: condition.clone(), shape: [shown, size, size], dropout: config.image_dropout }
    });
    let rows = tensors.get(CLASSES).map(|t| t.dim(0)).transpose()?;
    Ok(ModelConfig {
        classes: unet.classes.or(rows.map(|rows| rows.saturating_sub(1))).unwrap_or(0),
        class_names: Vec::new(),
        attribute_names: Vec::new(),
        text: None,
        shape: [channels, size, size],
        image,
        parametrization: config.parametrization,
        schedule: config.schedule.clone(),
        boundaries: config.boundaries.clone(),
        unet,
        latents,
    })
}

/// The names of the network's tensors in the order of importance, each with the name under which the file stores the weights to
/// use: averages before those they are the averages of.
fn stored_names(file: &Checkpoint, family: Family) -> BTreeMap<String, String> {
    let names: Vec<&str> = file.tensors().iter().map(checkpoint::Tensor::name).collect();
    match family {
        Family::Ldm => {
            let averages: HashMap<String, &str> =
                names.iter().filter_map(|n| Some((n.strip_prefix("model_ema.")?.to_string(), *n))).collect();
            let choose = |name: &str| -> Option<(String, String)> {
                let bare = LDM_MODULES.iter().any(|m| name.starts_with(m));
                let full = if bare { format!("{LDM}{name}") } else { name.to_string() };
                let wanted = full.starts_with(LDM) || name == CLASSES;
                // The averages of latent diffusion are named without dots.
                let average = averages.get(&full.strip_prefix("model.")?.replace('.', "")).filter(|_| wanted);
                wanted.then(|| (full, average.map_or(name, |a| *a).to_string()))
            };
            let mut found: BTreeMap<String, String> = names.iter().copied().filter_map(choose).collect();
            if file.get(CLASSES).is_some() {
                found.insert(CLASSES.into(), CLASSES.into());
            }
            found
        }
        // Named by diffusers' own words, of 2022 or later.
        Family::Diffusers => names.iter().map(|name| (modern_name(name), name.to_string())).collect(),
        Family::Song | Family::Adm => {
            let network = |name: &str| (name.starts_with("model.") || name == "u").then(|| name.to_string());
            prefer(&names, "ema.", &["net."], network)
        }
        Family::Ncsnpp => {
            let network = |name: &str| {
                let bare = name.strip_prefix("module.").unwrap_or(name);
                let parts = ["all_modules.", "en_modules.", "de_modules."];
                (parts.iter().any(|p| bare.starts_with(p)) || bare == "sigmas").then(|| bare.to_string())
            };
            prefer(&names, "ema.", &["model."], network)
        }
    }
}

/// Names of the network behind one of the prefixes or none, those behind `average` where there are any.
fn prefer(names: &[&str], average: &str, others: &[&str], network: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let behind = |prefix: &str| -> BTreeMap<String, String> {
        names.iter().filter_map(|n| Some((network(n.strip_prefix(prefix)?)?, n.to_string()))).collect()
    };
    let mut found = behind("");
    others.iter().for_each(|prefix| found.extend(behind(prefix)));
    found.extend(behind(average));
    found
}

#[cfg(test)]
mod tests;
