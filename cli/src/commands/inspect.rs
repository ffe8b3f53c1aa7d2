//! `strata inspect`

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};
use strata_autoencoder::AutoencoderTraining;
use strata_datasets::{LatentImages, LatentManifest};
use strata_diffusion::{
    model::ModelConfig,
    training::DiffusionTraining,
    unet::{CostInput, Description, Subject},
};
use strata_training::{
    run,
    settings::{Layers, resolve, to_toml},
};

use super::{inspect_weights, settings::Preset};
use crate::{
    Outcome, args,
    context::Context,
    hint::hinted,
    origin::{self, diffusers_parts, is_diffusers},
};

/// The command.
///
/// # Errors
/// If the target is nothing that Strata knows, or it is damaged.
pub fn run(args: &args::Inspect, context: &Context) -> anyhow::Result<Outcome> {
    let shown = match (&args.preset, &args.target) {
        (Some(name), _) => preset(name)?,
        (None, Some(target)) => match inspect_path(Path::new(target), args.norms)? {
            Some(shown) => shown,
            None => {
                let args = args::DataInspect { data: target.clone(), reading: args::Reading::default(), json: args.json };
                return super::data_inspect::run(&args, context);
            }
        },
        (None, None) => anyhow::bail!("nothing to inspect"),
    };
    if args.json {
        println!("{}", shown.json);
    } else {
        print!("{}", shown.text);
    }
    Ok(Outcome::Done)
}

/// For a person and for a script.
pub(crate) struct Shown {
    pub text: String,
    pub json: Value,
}

/// A weight file, settings, run, latents folder or folder of diffusers; `None`: perhaps a data set.
fn inspect_path(path: &Path, norms: bool) -> anyhow::Result<Option<Shown>> {
    if path.join("run.toml").is_file() {
        return run_dir(path).map(Some);
    }
    if path.join("manifest.json").is_file() {
        return latents(path).map(Some);
    }
    if is_diffusers(path) {
        return diffusers_folder(path, norms).map(Some);
    }
    if path.is_file() && path.extension().is_some_and(|e| e == "toml") {
        return settings_file(path).map(Some);
    }
    if path.is_file() && origin::is_named_as_weights(path) {
        return weight_file(path, norms).map(Some);
    }
    // A file of another name may still be one.
    Ok(if path.is_file() { weight_file(path, norms).ok() } else { None })
}

fn run_dir(path: &Path) -> anyhow::Result<Shown> {
    let info = run::read_info(path)?;
    let checkpoints = run::checkpoints(path);
    let last = run::read_stats(path)?.pop();
    let mut text = format!("{}: a run of `{}`\n", path.display(), info.kind);
    for (seen, folder) in &checkpoints {
        text += &format!("checkpoint at {seen} images: {}\n", folder.display());
    }
    if let Some(last) = &last {
        text += &format!("last record: {}\n", plain(last));
    }
    if info.kind == "diffusion"
        && let Some((_, folder)) = checkpoints.last()
    {
        text += &weight_file(&folder.join("ema.safetensors"), false)?.text;
    }
    text += &format!("\n{}", to_toml(&info.config)?);
    let seen: Vec<u64> = checkpoints.iter().map(|(seen, _)| *seen).collect();
    Ok(Shown { text, json: json!({ "kind": info.kind, "checkpoints": seen, "last_record": last, "config": info.config }) })
}

/// A record without its tables, for example of losses by noise level.
fn plain(record: &Value) -> Value {
    let fields = record.as_object().into_iter().flatten().filter(|(_, v)| !v.is_object());
    Value::Object(fields.map(|(key, v)| (key.clone(), v.clone())).collect())
}

fn latents(path: &Path) -> anyhow::Result<Shown> {
    let m = LatentManifest::read(path)?;
    let text = format!(
        "{}: {} latents of {}x{}x{} in {} shards\nfrom: {} (fingerprint {})\nautoencoder: sha256 {}\ntransform: {}\nscale: {:?}\nshift: {:?}\nclasses: {}\n",
        path.display(),
        m.count,
        m.channels,
        m.height,
        m.width,
        m.shards.len(),
        m.source.spec,
        m.source.fingerprint,
        m.autoencoder_sha256,
        m.transform,
        m.scale,
        m.shift,
        if m.class_names.is_empty() { "none".to_string() } else { m.class_names.join(", ") }
    );
    let (mut text, mut json) = (text, serde_json::to_value(&m)?);
    if let Some(images) = LatentImages::open(path, m.count)? {
        let source = images.source();
        text += &format!("images beside them: {}, {} for each\n", source.image, source.variants);
        json["images"] = serde_json::to_value(source)?;
    }
    Ok(Shown { text, json })
}

/// A model of ours by what it is built from, anything else (and with `norms` everything) by its tensors.
fn weight_file(path: &Path, norms: bool) -> anyhow::Result<Shown> {
    let mut shown = inspect_weights::shown(path, norms)?;
    if shown.json["origin"] == "strata-diffusion" && !norms {
        let config =
            serde_json::from_value(shown.json["config"].clone()).with_context(|| format!("{}: metadata", path.display()))?;
        let tensors = shown.json["tensors"].as_array().map_or(0, Vec::len);
        shown.text = format!("{}: {tensors} tensors\n{}", path.display(), diffusion_model(&config)?);
    }
    Ok(shown)
}

/// The parts of a folder of diffusers, each with its weights.
fn diffusers_folder(path: &Path, norms: bool) -> anyhow::Result<Shown> {
    let (mut text, mut parts) = (format!("{}: a folder of diffusers\n", path.display()), serde_json::Map::new());
    for (name, weights) in diffusers_parts(path)? {
        let shown = weight_file(&weights, norms)?;
        text += &format!("\n{name}\n{}", shown.text);
        parts.insert(name, shown.json);
    }
    Ok(Shown { text, json: json!({ "origin": "diffusers", "parts": parts }) })
}

fn diffusion_model(config: &ModelConfig) -> anyhow::Result<String> {
    let subject =
        Subject { unet: &config.unet, input: config.cost_input(), schedule: &config.schedule, boundaries: &config.boundaries };
    let classes = if config.class_names.is_empty() { config.classes.to_string() } else { config.class_names.join(", ") };
    let attributes = match config.attribute_names.as_slice() {
        [] => String::new(),
        names => format!("attributes: {}\n", names.join(", ")),
    };
    let text = config.text.as_ref().map_or(String::new(), |text| {
        let (what, tokens) = (text.what(), text.tokens);
        format!("{what}s: {tokens} tokens of width {} by {} (sha256 {})\n", text.width, text.encoder, text.sha256)
    });
    let image = config.image.as_ref().map_or(String::new(), |image| format!("is shown: {}\n", image.condition));
    Ok(format!("{}classes: {classes}\n{attributes}{text}{image}", Description::new(subject)?.text()))
}

fn preset(name: &str) -> anyhow::Result<Shown> {
    let kinds: [(&str, &[Preset]); 2] =
        [("autoencoder", AutoencoderTraining::PRESETS), ("diffusion", DiffusionTraining::PRESETS)];
    if name == "list" {
        let lines: Vec<String> =
            kinds.iter().flat_map(|(kind, presets)| presets.iter().map(move |(n, _)| format!("{n} ({kind})"))).collect();
        return Ok(Shown { text: lines.join("\n") + "\n", json: json!(lines) });
    }
    for (kind, presets) in kinds {
        let Some((_, text)) = presets.iter().find(|(n, _)| *n == name) else { continue };
        let layers = Layers { preset: Some(toml::from_str(text)?), ..Layers::default() };
        return if kind == "autoencoder" { autoencoder_settings(layers) } else { diffusion_settings(layers) };
    }
    Err(hinted(format!("there is no preset `{name}`"), "strata inspect --preset list"))
}

/// What `--config` takes: of a diffusion training where it describes a U-Net, else of an autoencoder's.
fn settings_file(path: &Path) -> anyhow::Result<Shown> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let table: toml::Table = toml::from_str(&text).with_context(|| path.display().to_string())?;
    let layers = Layers { file: Some(path.to_path_buf()), ..Layers::default() };
    if table.contains_key("unet") { diffusion_settings(layers) } else { autoencoder_settings(layers) }
}

fn autoencoder_settings(layers: Layers) -> anyhow::Result<Shown> {
    let (config, table) = resolve::<AutoencoderTraining>(layers)?;
    config.validate()?;
    let text = format!("# {}\n{}", strata_autoencoder::describe(&config)?.replace('\n', "\n# "), to_toml(&table)?);
    Ok(Shown { text, json: json!({ "kind": "autoencoder", "config": table }) })
}

/// Costs are shown for the size that the network is meant for.
fn diffusion_settings(layers: Layers) -> anyhow::Result<Shown> {
    let (config, table) = resolve::<DiffusionTraining>(layers)?;
    config.validate()?;
    if !config.boundaries.is_empty() {
        config.unet.check_stages(config.boundaries.len() + 1)?;
    }
    let side = config.unet.size.unwrap_or(16);
    let input = CostInput { height: side, width: side, context_tokens: 1 };
    let subject = Subject { unet: &config.unet, input, schedule: &config.schedule, boundaries: &config.boundaries };
    let description = Description::new(subject)?;
    let text = format!("# {}\n{}", description.text().trim_end().replace('\n', "\n# "), to_toml(&table)?);
    let mut json = serde_json::to_value(&description)?;
    if let Some(json) = json.as_object_mut() {
        json.insert("kind".into(), "diffusion".into());
        json.insert("config".into(), serde_json::to_value(table)?);
    }
    Ok(Shown { text, json })
}
