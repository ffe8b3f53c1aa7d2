//! `strata convert` of a published diffusion checkpoint, which a preset, its YAML file or it itself describes: it becomes a folder
//! that `strata sample` draws with.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use strata_autoencoder::LoadedAutoencoder;
use strata_diffusion::{
    import::{edm_config, import, ldm_config, scale_factor},
    model::LatentScaling,
    training::{DiffusionTraining, MODEL},
    unet::Family,
};
use strata_nn::{checkpoint::Checkpoint, weights};
use strata_training::{
    settings::{Layers, resolve},
    sha256_file,
};

use super::{settings, train_diffusion::AUTOENCODER};
use crate::{Outcome, args, context::Context, hint::hinted};

/// What the names of the autoencoder in a latent diffusion checkpoint begin with.
const FIRST_STAGE: &str = "first_stage_model.";

/// The conversion, of a checkpoint that `preset` describes. Files are written beside their place and renamed.
///
/// # Errors
/// If the checkpoint cannot be read or is not of that network, or there is no autoencoder for its latents.
pub fn run(args: &args::Convert, preset: &str, context: &Context) -> anyhow::Result<Outcome> {
    ensure!(!args.plain, "--plain keeps names as they are; leave out --preset");
    let preset = settings::find(DiffusionTraining::PRESETS, preset)?;
    let layers = Layers { preset: Some(preset), sets: args.set.clone(), ..Layers::default() };
    let (config, _): (DiffusionTraining, _) = resolve(layers)?;
    convert(args, &Checkpoint::open(&args.input)?, &config, None, context)
}

/// The conversion of an EDM snapshot, which tells itself what it is.
///
/// # Errors
/// As [`run`].
pub fn edm(args: &args::Convert, file: &Checkpoint, context: &Context) -> anyhow::Result<Outcome> {
    convert(args, file, &edm_config(file).with_context(|| file.path().display().to_string())?, None, context)
}

/// The conversion of a checkpoint of latent diffusion, which its YAML file describes.
///
/// # Errors
/// If there is no such file, or it describes what has no counterpart here; else as [`run`].
pub fn ldm(args: &args::Convert, file: &Checkpoint, context: &Context) -> anyhow::Result<Outcome> {
    let path = match &args.yaml {
        Some(given) => given.clone(),
        None => yaml_beside(&args.input)?,
    };
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(&path).with_context(place)?;
    let yaml: Value = serde_saphyr::from_str(&text).map_err(|e| anyhow::anyhow!("{}: {e}", place()))?;
    let (config, factor) = ldm_config(&yaml).with_context(place)?;
    convert(args, file, &config, factor, context)
}

/// The YAML file beside a checkpoint: of the same name, `config.yaml`, or the only one there.
fn yaml_beside(checkpoint: &Path) -> anyhow::Result<PathBuf> {
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    let folder = checkpoint.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)?.filter_map(|e| Some(e.ok()?.path())).filter(is_yaml).collect();
    found.sort();
    let stem = |path: &Path| path.file_stem().map(ToOwned::to_owned);
    let named = [stem(checkpoint), Some("config".into())].into_iter().find_map(|name| found.iter().find(|p| stem(p) == name));
    match (named, found.as_slice()) {
        (Some(path), _) => Ok(path.clone()),
        (None, [only]) => Ok(only.clone()),
        (None, others) => Err(hinted(
            format!("{}: a latent diffusion model, and {} YAML files beside it", checkpoint.display(), others.len()),
            "name the YAML file that describes it with --yaml, or a preset with --preset; --plain only changes the container",
        )),
    }
}

/// `factor`: what latents are multiplied with if neither the user nor the file says.
fn convert(
    args: &args::Convert,
    file: &Checkpoint,
    config: &DiffusionTraining,
    factor: Option<f64>,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let parent = args.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let folder = tempfile::tempdir_in(parent).with_context(|| parent.display().to_string())?;
    let latents = match config.unet.family {
        Family::Ldm => latents(file, config, factor, args, folder.path(), context)?,
        _ => {
            ensure!(args.autoencoder.is_none(), "--autoencoder: the samples of this network are pictures, not latents");
            LatentScaling::pixels()
        }
    };
    let model = import(file, config, latents, &context.device)?;
    weights::save(&folder.path().join(MODEL), &model.store().tensors(), &model.metadata()?)?;
    // The model comes last: a folder that has one is complete.
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for name in [AUTOENCODER, MODEL] {
        let file = folder.path().join(name);
        if file.is_file() {
            std::fs::rename(&file, args.out.join(name)).with_context(|| args.out.display().to_string())?;
        }
    }
    let (count, stages) = (model.store().element_count(), model.stages());
    println!("{}: a diffusion model of {count} parameters and {stages} stages, for `strata sample`", args.out.display());
    Ok(Outcome::Done)
}

/// Writes the autoencoder into `folder`, and answers how its latents are scaled.
fn latents(
    file: &Checkpoint,
    config: &DiffusionTraining,
    factor: Option<f64>,
    args: &args::Convert,
    folder: &Path,
    context: &Context,
) -> anyhow::Result<LatentScaling> {
    let autoencoder = match &args.autoencoder {
        Some(given) => strata_autoencoder::load(given, &context.device)?,
        None => enclosed(file, folder, context)?,
    };
    let (expected, got) = (config.unet.in_channels, autoencoder.config.latent_channels());
    ensure!(expected == got, "the autoencoder's latents: expected {expected} channels as the network has, got {got}");
    let out = folder.join(AUTOENCODER);
    strata_autoencoder::save(&autoencoder, &out)?;
    let factor = match args.scaling_factor {
        Some(given) => given as f32,
        None => scale_factor(file)?.or(factor.map(|f| f as f32)).unwrap_or(1.0),
    };
    ensure!(factor.is_finite() && factor > 0.0, "--scaling-factor: expected a number above 0, got {factor}");
    Ok(LatentScaling { scale: vec![factor], shift: vec![0.0], autoencoder_sha256: sha256_file(&out)? })
}

/// The autoencoder that a latent diffusion checkpoint holds beside the network.
fn enclosed(file: &Checkpoint, folder: &Path, context: &Context) -> anyhow::Result<LoadedAutoencoder> {
    let tensors = file.load_where(&context.device, |n| n.strip_prefix(FIRST_STAGE).map(ToString::to_string))?;
    if tensors.is_empty() {
        let what = format!("{}: holds no autoencoder (`{FIRST_STAGE}...`)", file.path().display());
        return Err(hinted(what, "name the autoencoder of its latents with --autoencoder"));
    }
    let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
    let path = folder.join("first-stage.safetensors");
    weights::save(&path, &tensors.into_iter().collect::<Vec<_>>(), &BTreeMap::new())?;
    let loaded = strata_autoencoder::load(&path, &context.device)?;
    std::fs::remove_file(&path)?;
    Ok(loaded)
}
