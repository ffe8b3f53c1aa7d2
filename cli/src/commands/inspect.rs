//! `strata inspect`

use std::path::Path;

use anyhow::Context as _;
use candle_core::Device;
use serde_json::{Value, json};
use strata_autoencoder::AutoencoderTraining;
use strata_datasets::LatentManifest;
use strata_diffusion::{
    model::ModelConfig,
    training::DiffusionTraining,
    unet::{CostInput, Description, Subject},
};
use strata_nn::weights;
use strata_training::{
    run,
    settings::{Layers, resolve, to_toml},
};

use super::settings::Preset;
use crate::{Outcome, args, context::Context, hint::hinted};

/// The command.
///
/// # Errors
/// If the target is nothing that Strata knows, or it is damaged.
pub fn run(args: &args::Inspect, context: &Context) -> anyhow::Result<Outcome> {
    let shown = match (&args.preset, &args.target) {
        (Some(name), _) => preset(name)?,
        (None, Some(target)) => match inspect_path(Path::new(target))? {
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
struct Shown {
    text: String,
    json: Value,
}

/// A weight file, run or latents folder; `None`: perhaps a data set.
fn inspect_path(path: &Path) -> anyhow::Result<Option<Shown>> {
    if path.join("run.toml").is_file() {
        return run_dir(path).map(Some);
    }
    if path.join("manifest.json").is_file() {
        return latents(path).map(Some);
    }
    if path.is_file() && path.extension().is_some_and(|e| e == "safetensors") {
        return weight_file(path).map(Some);
    }
    Ok(None)
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
        text += &format!("last record: {last}\n");
    }
    if info.kind == "diffusion"
        && let Some((_, folder)) = checkpoints.last()
    {
        text += &weight_file(&folder.join("ema.safetensors"))?.text;
    }
    text += &format!("\n{}", to_toml(&info.config)?);
    let seen: Vec<u64> = checkpoints.iter().map(|(seen, _)| *seen).collect();
    Ok(Shown { text, json: json!({ "kind": info.kind, "checkpoints": seen, "last_record": last, "config": info.config }) })
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
    Ok(Shown { text, json: serde_json::to_value(&m)? })
}

fn weight_file(path: &Path) -> anyhow::Result<Shown> {
    let file = weights::load(path, &Device::Cpu)?;
    let count: usize = file.tensors.values().map(candle_core::Tensor::elem_count).sum();
    let mut text = format!("{}: {} tensors, {count} numbers\n", path.display(), file.tensors.len());
    let config = file
        .metadata
        .get("config")
        .map(|c| serde_json::from_str::<Value>(c))
        .transpose()
        .with_context(|| format!("{}: metadata", path.display()))?;
    if file.metadata.get("format").is_some_and(|f| f.starts_with("strata-diffusion"))
        && let Some(config) = &config
    {
        text += &diffusion_model(&serde_json::from_value(config.clone())?)?;
    } else {
        let mut names: Vec<_> = file.tensors.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        for (name, tensor) in names {
            text += &format!("  {name} {:?} {:?}\n", tensor.dims(), tensor.dtype());
        }
    }
    let mut tensors: Vec<_> = file.tensors.iter().map(|(n, t)| json!({ "name": n, "shape": t.dims() })).collect();
    tensors.sort_by_key(|t| t["name"].to_string());
    Ok(Shown { text, json: json!({ "metadata": file.metadata, "config": config, "tensors": tensors }) })
}

fn diffusion_model(config: &ModelConfig) -> anyhow::Result<String> {
    let [_, height, width] = config.shape;
    let input = CostInput { height, width, context_tokens: 1 };
    let subject = Subject { unet: &config.unet, input, schedule: &config.schedule, boundaries: &config.boundaries };
    let classes = if config.class_names.is_empty() { config.classes.to_string() } else { config.class_names.join(", ") };
    Ok(format!("{}classes: {classes}\n", Description::new(subject)?.text()))
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
        return if kind == "autoencoder" {
            let (config, table) = resolve::<AutoencoderTraining>(layers)?;
            let text = format!("# {}\n{}", strata_autoencoder::describe(&config)?.replace('\n', "\n# "), to_toml(&table)?);
            Ok(Shown { text, json: json!({ "kind": kind, "config": table }) })
        } else {
            let (config, table) = resolve::<DiffusionTraining>(layers)?;
            preset_of_diffusion(&config, &table)
        };
    }
    Err(hinted(format!("there is no preset `{name}`"), "strata inspect --preset list"))
}

/// Costs are shown for the size that the network is meant for.
fn preset_of_diffusion(config: &DiffusionTraining, table: &toml::Table) -> anyhow::Result<Shown> {
    let side = config.unet.size.unwrap_or(16);
    let input = CostInput { height: side, width: side, context_tokens: 1 };
    let subject = Subject { unet: &config.unet, input, schedule: &config.schedule, boundaries: &config.boundaries };
    let description = Description::new(subject)?;
    let text = format!("# {}\n{}", description.text().trim_end().replace('\n', "\n# "), to_toml(table)?);
    let mut json = serde_json::to_value(&description)?;
    if let Some(json) = json.as_object_mut() {
        json.insert("kind".into(), "diffusion".into());
        json.insert("config".into(), serde_json::to_value(table)?);
    }
    Ok(Shown { text, json })
}
