//! A folder of diffusers: what its files hold, and what its models compute.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use strata_autoencoder::{Autoencoder, Posterior};
use strata_conditioning::Condition;
use strata_diffusion::{
    import::Scheduler,
    unet::{DiffusersUNet, UNet, diffusers_config_json, diffusers_keys, modern_name},
};
use strata_nn::{
    checkpoint::{Checkpoint, diffusers_weights},
    params::ParamStore,
    weights,
};

use super::{compare, list};
use crate::golden::{Answer, Case};

pub(super) fn run(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let repo = case.dir.join(config.get::<String>("repo")?);
    let mut answer = Answer::checked();
    if config.get("pipeline")? {
        let components: Value = config.get("components")?;
        check_index(&repo, &components)?;
        for (name, class) in components.as_object().context("`config.components` is no table")? {
            let class = class.as_str().context("`config.components`: a class is no text")?;
            model(case, &repo.join(name), class, &format!("{name}."), &mut answer)?;
        }
    } else {
        model(case, &repo, &config.get::<String>("class")?, "", &mut answer)?;
    }
    config.finish()?;
    check_files(case, &repo)?;
    Ok(answer)
}

/// The index names the components with the same classes.
fn check_index(repo: &Path, components: &Value) -> Result<()> {
    let index = json(&repo.join("model_index.json"))?;
    for (name, class) in components.as_object().context("`config.components` is no table")? {
        ensure!(index[name][1] == *class, "model_index.json: `{name}` is {}, expected {class}", index[name]);
    }
    Ok(())
}

fn check_files(case: &Case, repo: &Path) -> Result<()> {
    for (key, want) in case.expect()?.as_object().context("`expect` is no table")? {
        ensure!(key == "files", "unknown key `expect.{key}`");
        for (file, want) in want.as_object().context("`expect.files` is no table")? {
            let mut listed = list(Checkpoint::open(&repo.join(file))?.tensors())?;
            listed.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
            compare(&listed, want).with_context(|| file.clone())?;
        }
    }
    Ok(())
}

/// Answers what the model of `class` in `folder` computes; names in the case have `prefix` in front.
fn model(case: &Case, folder: &Path, class: &str, prefix: &str, answer: &mut Answer) -> Result<()> {
    match class {
        "AutoencoderKL" | "VQModel" | "AutoencoderTiny" => autoencoder(case, folder, class, prefix, answer),
        "UNet2DModel" | "UNet2DConditionModel" => unet(case, folder, class, prefix, answer),
        other if other.ends_with("Scheduler") => {
            let json = json(&folder.join("scheduler_config.json"))?;
            ensure!(json["_class_name"] == class, "the scheduler is {}, expected {class}", json["_class_name"]);
            let scheduler = Scheduler::from_json(&json)?;
            ensure!(Scheduler::from_json(&scheduler.to_json()?)? == scheduler, "the scheduler changes when it is written");
            Ok(())
        }
        other => bail!("no model of the class {other}"),
    }
}

fn autoencoder(case: &Case, folder: &Path, class: &str, prefix: &str, answer: &mut Answer) -> Result<()> {
    let loaded = strata_autoencoder::load(folder, &Device::Cpu)?;
    let x = case.input(&format!("{prefix}x"))?;
    match (&loaded.model, class) {
        (Autoencoder::Kl(kl), "AutoencoderKL") => {
            let posterior = Posterior::new(&kl.encode_moments(&x)?)?;
            answer.insert(format!("out.{prefix}mean"), posterior.mode().clone());
            answer.insert(format!("out.{prefix}logvar"), posterior.logvar().clone());
        }
        (Autoencoder::Vq(vq), "VQModel") => answer.insert(format!("out.{prefix}latents"), vq.encode(&x)?),
        (Autoencoder::Tiny(tiny), "AutoencoderTiny") => answer.insert(format!("out.{prefix}latents"), tiny.encode(&x)?),
        (_, class) => bail!("found a {}, expected a {class}", loaded.config.kind().name()),
    }
    answer.insert(format!("out.{prefix}decoded"), loaded.model.decode(&case.input(&format!("{prefix}z"))?)?);
    Ok(())
}

fn unet(case: &Case, folder: &Path, class: &str, prefix: &str, answer: &mut Answer) -> Result<()> {
    let json = json(&folder.join("config.json"))?;
    ensure!(json["_class_name"] == class, "the model is a {}, expected {class}", json["_class_name"]);
    let config = DiffusersUNet::from_json(&json)?.translate()?;
    let written = DiffusersUNet::from_json(&diffusers_config_json(&config)?)?.translate()?;
    ensure!(written == config, "the configuration changes when it is written: {written:?}");
    let store = ParamStore::new(0, &Device::Cpu);
    let unet = UNet::new(&config, &store.root())?;
    let tensors = weights::load(&diffusers_weights(folder).context("the folder has no weights")?, &Device::Cpu)?.tensors;
    let tensors = tensors.into_iter().map(|(name, t)| (modern_name(&name), t)).collect();
    diffusers_keys(&config)?.load(&store, &tensors, &case.name)?;
    let timesteps: Vec<f32> = case.input(&format!("{prefix}timestep"))?.to_dtype(DType::F32)?.to_vec1()?;
    let classes = case.input_opt(&format!("{prefix}class_labels")).map(|labels| embed(&unet, &labels)).transpose()?;
    let context = case.input_opt(&format!("{prefix}encoder_hidden_states"));
    let condition = Condition { vector: classes, context, ..Condition::none() };
    let sample = case.input(&format!("{prefix}sample"))?;
    let y = unet.forward(&sample, &timesteps, &vec![0; timesteps.len()], &condition, None)?;
    answer.insert(format!("out.{prefix}sample"), y);
    Ok(())
}

fn embed(unet: &UNet, labels: &Tensor) -> Result<Tensor> {
    let ids = labels.to_dtype(DType::U32)?.to_vec1::<u32>()?.into_iter().map(Some).collect::<Vec<_>>();
    Ok(unet.embed_classes(&ids)?)
}

fn json(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
