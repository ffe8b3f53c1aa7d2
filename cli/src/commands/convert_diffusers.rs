//! `strata convert` of a diffusion model: from a folder of diffusers into one that `strata sample` draws with, and back.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use strata_autoencoder::LoadedAutoencoder;
use strata_conditioning::text::TextEncoder;
use strata_datasets::EmbeddingSource;
use strata_diffusion::{
    import::{Parts, Scheduler, import_diffusers},
    model::{LatentScaling, Model},
    training::{self, MODEL},
    unet::{diffusers_config_json, diffusers_keys},
};
use strata_nn::{
    checkpoint::{Checkpoint, DIFFUSERS_WEIGHTS},
    weights,
};
use strata_training::sha256_file;

use super::{texts, train_diffusion::AUTOENCODER};
use crate::{Outcome, args, context::Context, hint::hinted, origin};

/// The class of the networks that are told texts.
const CONDITIONAL: &str = "UNet2DConditionModel";

/// The class of the U-Net that `path` (a file, a folder, or a pipeline's) holds; none where it holds none.
pub fn class(path: &Path) -> Option<String> {
    let folder = if path.is_dir() { path.to_path_buf() } else { path.parent()?.to_path_buf() };
    let unet = folder.join("unet");
    let folder = if path.is_dir() && unet.join("config.json").is_file() { unet } else { folder };
    origin::class_beside(&folder.join(DIFFUSERS_WEIGHTS)).filter(|class| class.starts_with("UNet2D"))
}

/// Whether `path` stands for a diffusion model of Strata.
pub fn is_ours(path: &Path) -> bool {
    let Ok(file) = training::weight_file(path) else { return false };
    let Ok(file) = Checkpoint::open(&file) else { return false };
    origin::Origin::of(&file) == origin::Origin::StrataDiffusion
}

/// Into a folder that `strata sample` draws with. Files are written beside their place and renamed.
///
/// # Errors
/// If a part cannot be read, is missing, or has no counterpart.
pub fn import(args: &args::Convert, context: &Context) -> anyhow::Result<Outcome> {
    let repo = Folder::of(&args.input)?;
    let parent = args.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let made = tempfile::tempdir_in(parent).with_context(|| parent.display().to_string())?;
    let unet = origin::read_json(&repo.unet.with_file_name("config.json"))?;
    let latents = latents(&repo, &unet, args, made.path(), context)?;
    let parts = Parts { unet: &unet, scheduler: repo.scheduler()?, latents, text: repo.text(&unet, args, context)? };
    let file = Checkpoint::open(&repo.unet)?;
    let model = import_diffusers(&file, parts, &context.device)?;
    let mut metadata = model.metadata()?;
    metadata.insert("source".into(), args.input.display().to_string());
    metadata.insert("source_format".into(), format!("a {} of diffusers", unet["_class_name"].as_str().unwrap_or_default()));
    weights::save(&made.path().join(MODEL), &model.store().tensors(), &metadata)?;
    // The model comes last: a folder that has one is complete.
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for name in [AUTOENCODER, MODEL] {
        let file = made.path().join(name);
        if file.is_file() {
            std::fs::rename(&file, args.out.join(name)).with_context(|| args.out.display().to_string())?;
        }
    }
    let count = model.store().element_count();
    println!("{}: a diffusion model of {count} parameters, for `strata sample`", args.out.display());
    Ok(Outcome::Done)
}

/// Where the parts of a folder of diffusers are.
struct Folder {
    /// The weights of the network.
    unet: PathBuf,
    /// The folder of the pipeline; none for a network alone.
    pipeline: Option<PathBuf>,
}

impl Folder {
    fn of(path: &Path) -> anyhow::Result<Self> {
        if path.is_file() {
            return Ok(Self { unet: path.to_path_buf(), pipeline: None });
        }
        let inner = path.join("unet");
        let (folder, pipeline) =
            if inner.join("config.json").is_file() { (inner, Some(path.to_path_buf())) } else { (path.to_path_buf(), None) };
        let unet = origin::weights_in(&folder).with_context(|| format!("{}: holds no weights", folder.display()))?;
        Ok(Self { unet, pipeline })
    }

    /// The folder of a part, if there is one.
    fn part(&self, names: &[&str]) -> Option<PathBuf> {
        let folder = self.pipeline.as_ref()?;
        names.iter().map(|name| folder.join(name)).find(|part| part.is_dir())
    }

    fn scheduler(&self) -> anyhow::Result<Scheduler> {
        let beside = self.unet.with_file_name("scheduler_config.json");
        let file = self.part(&["scheduler"]).map(|part| part.join("scheduler_config.json")).unwrap_or(beside);
        if !file.is_file() {
            return Ok(Scheduler::default());
        }
        Scheduler::from_json(&origin::read_json(&file)?).with_context(|| file.display().to_string())
    }

    /// The text encoder of a network that is told texts.
    fn text(&self, unet: &Value, args: &args::Convert, context: &Context) -> anyhow::Result<Option<EmbeddingSource>> {
        if unet["_class_name"] != CONDITIONAL {
            ensure!(args.text_encoder.is_none(), "--text-encoder: this network is told no texts");
            return Ok(None);
        }
        let Some(folder) = args.text_encoder.clone().or_else(|| self.part(&["text_encoder"])) else {
            let message = format!("{}: the network is told texts, but there is no text encoder", args.input.display());
            return Err(hinted(message, "name its folder with --text-encoder"));
        };
        let encoder = TextEncoder::open(&folder, None, &context.device)?;
        texts::source(&folder, &encoder).map(Some)
    }
}

/// Writes the autoencoder into `out`, and answers how its latents are scaled.
fn latents(repo: &Folder, unet: &Value, args: &args::Convert, out: &Path, context: &Context) -> anyhow::Result<LatentScaling> {
    let Some(path) = args.autoencoder.clone().or_else(|| repo.part(&["vae", "vqvae"])) else {
        if unet["in_channels"].as_u64().unwrap_or(3) == 3 {
            return Ok(LatentScaling::pixels());
        }
        let message = format!("{}: the network is not one of pictures, and there is no autoencoder", args.input.display());
        return Err(hinted(message, "name the autoencoder of its latents with --autoencoder"));
    };
    let autoencoder = strata_autoencoder::load(&path, &context.device)?;
    let (expected, got) = (unet["in_channels"].as_u64().unwrap_or(4) as usize, autoencoder.config.latent_channels());
    ensure!(expected == got, "the autoencoder's latents: expected {expected} channels as the network has, got {got}");
    let file = out.join(AUTOENCODER);
    strata_autoencoder::save(&autoencoder, &file)?;
    let said = strata_autoencoder::config_file(&autoencoder.file)
        .map(|file| origin::read_json(&file))
        .transpose()?
        .unwrap_or(Value::Null);
    let (scale, shift) = scaling(&said, args.scaling_factor)?;
    Ok(LatentScaling { scale, shift, autoencoder_sha256: sha256_file(&file)? })
}

/// Factor and shift of latents by an autoencoder's configuration. Pipelines divide by `latents_std` beside the factor.
fn scaling(said: &Value, given: Option<f64>) -> anyhow::Result<(Vec<f32>, Vec<f32>)> {
    // Without a word it is that of Stable Diffusion; AutoencoderTiny's latents are scaled already.
    let usual = if said["_class_name"] == "AutoencoderTiny" { 1.0 } else { 0.18215 };
    let factor = given.or(said["scaling_factor"].as_f64()).unwrap_or(usual);
    ensure!(factor.is_finite() && factor > 0.0, "--scaling-factor: expected a number above 0, got {factor}");
    let numbers = |key: &str| -> Option<Vec<f64>> { said[key].as_array()?.iter().map(Value::as_f64).collect() };
    match (numbers("latents_mean"), numbers("latents_std")) {
        (Some(mean), Some(std)) if mean.len() == std.len() && std.iter().all(|s| *s > 0.0) => {
            Ok((std.iter().map(|s| (factor / s) as f32).collect(), mean.iter().map(|m| *m as f32).collect()))
        }
        _ => Ok((vec![factor as f32], vec![said["shift_factor"].as_f64().unwrap_or(0.0) as f32])),
    }
}

/// Into diffusers' layout: a folder with `unet`, `scheduler`, and of a model of latents `vae` or `vqvae`.
///
/// # Errors
/// If the model has a part that diffusers has not: all of the network's that are.
pub fn export(args: &args::Convert, context: &Context) -> anyhow::Result<Outcome> {
    let file = training::weight_file(&args.input)?;
    let model = Model::load(&file, &context.device)?;
    let config = model.config();
    ensure!(config.image.is_none(), "{}: diffusers has no pipeline for what this model is shown", args.input.display());
    ensure!(config.attribute_names.is_empty(), "{}: diffusers has no network that is told attributes", args.input.display());
    let (network, tensors) = network(&model)?;
    let scheduler = Scheduler { parametrization: config.parametrization, schedule: config.schedule.clone() }.to_json()?;
    let autoencoder = (!config.latents.is_pixels()).then(|| autoencoder_beside(&args.input, &file, context)).transpose()?;
    let class = network["_class_name"].clone();
    let mut index =
        json!({ "_class_name": "DDPMPipeline", "unet": ["diffusers", class], "scheduler": ["diffusers", "DDPMScheduler"] });
    let folder = |name: &str| -> anyhow::Result<PathBuf> {
        let folder = args.out.join(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    };
    if let Some(autoencoder) = &autoencoder {
        let (name, class) = export_autoencoder(autoencoder, &config.latents, &args.out)?;
        index["_class_name"] = if name == "vqvae" { "LDMPipeline" } else { "DiffusionPipeline" }.into();
        index[name] = json!(["diffusers", class]);
    }
    write_json(&folder("scheduler")?.join("scheduler_config.json"), &scheduler)?;
    let unet = folder("unet")?;
    write_json(&unet.join("config.json"), &network)?;
    weights::save(&unet.join(DIFFUSERS_WEIGHTS), &tensors, &[("format".to_string(), "pt".to_string())].into())?;
    // The index comes last: a folder that has one is complete.
    write_json(&args.out.join("model_index.json"), &index)?;
    println!("{}: a pipeline of {} parameters, in the layout of diffusers", args.out.display(), model.store().element_count());
    if let Some(text) = &config.text {
        context.say(format!("the {} encoder is not written: diffusers takes it from where it came from", text.what()));
    }
    Ok(Outcome::Done)
}

/// Configuration and weights of the network, a table of classes within it.
fn network(model: &Model) -> anyhow::Result<(Value, Vec<(String, candle_core::Tensor)>)> {
    let config = model.config();
    let mut json = diffusers_config_json(&config.unet)?;
    json["sample_size"] = config.shape[1].into();
    let (mut ours, mut tables) = (Vec::new(), Vec::new());
    for (name, t) in model.store().tensors() {
        match name.strip_prefix("unet.") {
            Some(inner) => ours.push((inner.to_string(), t)),
            None => tables.push((name, t)),
        }
    }
    let mut tensors = diffusers_keys(&config.unet)?.export(&ours)?;
    for (name, table) in tables {
        let added = config.unet.transformer.is_none() && table.dim(1)? == config.unet.embedding_width();
        ensure!(added, "`{name}`: diffusers has no network that attends to classes");
        // The last row is `no class`.
        json["num_class_embeds"] = table.dim(0)?.into();
        tensors.push(("class_embedding.weight".into(), table));
    }
    Ok((json, tensors))
}

fn autoencoder_beside(input: &Path, file: &Path, context: &Context) -> anyhow::Result<LoadedAutoencoder> {
    let path = if input.is_dir() { input.join(AUTOENCODER) } else { file.with_file_name(AUTOENCODER) };
    ensure!(path.is_file(), "{}: there is no {AUTOENCODER} beside the model", input.display());
    Ok(strata_autoencoder::load(&path, &context.device)?)
}

/// Writes the autoencoder with the scaling of its latents. Answers name and class of the part.
fn export_autoencoder(
    autoencoder: &LoadedAutoencoder,
    latents: &LatentScaling,
    out: &Path,
) -> anyhow::Result<(&'static str, Value)> {
    let vq = autoencoder.config.kind() == strata_autoencoder::Kind::Vq;
    let name = if vq { "vqvae" } else { "vae" };
    let folder = out.join(name);
    let single = match (latents.scale.as_slice(), latents.shift.as_slice()) {
        ([scale], [0.0]) => Some(f64::from(*scale)),
        _ => None,
    };
    strata_autoencoder::export_diffusers(autoencoder, &folder, single.unwrap_or(1.0))?;
    let path = folder.join("config.json");
    let mut json = origin::read_json(&path)?;
    if single.is_none() {
        ensure!(!vq, "diffusers has no VQModel whose latents are shifted, or scaled channel by channel");
        let channels = autoencoder.config.latent_channels();
        let each = |values: &[f32]| -> Vec<f32> { (0..channels).map(|c| values[c.min(values.len() - 1)]).collect() };
        json["latents_mean"] = each(&latents.shift).into();
        json["latents_std"] = each(&latents.scale).iter().map(|s| 1.0 / s).collect::<Vec<f32>>().into();
        write_json(&path, &json)?;
    }
    Ok((name, json["_class_name"].clone()))
}

fn write_json(path: &Path, json: &Value) -> anyhow::Result<()> {
    Ok(weights::write_atomic(path, format!("{json:#}\n").as_bytes())?)
}
