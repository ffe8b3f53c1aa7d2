//! What latent diffusion's YAML files say of a model, the one that is published or written beside each checkpoint.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Error, Result,
    denoiser::Parametrization,
    noise::NoiseDistribution,
    schedule::Schedule,
    schedule_discrete::{BetaCurve, Discrete, DiscreteConfig},
    training::DiffusionTraining,
    unet::LdmUNetConfig,
    weighting::Weighting,
};

/// A file; what concerns training (`data`, `lightning`) is passed over.
#[derive(Deserialize)]
struct File {
    model: Built<Diffusion>,
}

/// A class and its arguments.
#[derive(Deserialize)]
struct Built<T> {
    target: String,
    params: T,
}

/// Arguments of `LatentDiffusion`, or of `DDPM` for pictures; the further ones decide nothing that a checkpoint is used for.
#[derive(Deserialize)]
struct Diffusion {
    unet_config: Built<Value>,
    #[serde(default = "timesteps")]
    timesteps: usize,
    #[serde(default)]
    beta_schedule: Curve,
    #[serde(default = "linear_start")]
    linear_start: f64,
    #[serde(default = "linear_end")]
    linear_end: f64,
    #[serde(default = "cosine_s")]
    cosine_s: f64,
    #[serde(default)]
    parameterization: Target,
    image_size: Option<Value>,
    #[serde(default)]
    conditioning_key: Option<String>,
    cond_stage_config: Option<Value>,
    scale_factor: Option<f64>,
}

fn timesteps() -> usize {
    1000
}

fn linear_start() -> f64 {
    1e-4
}

fn linear_end() -> f64 {
    2e-2
}

fn cosine_s() -> f64 {
    8e-3
}

/// Their names of the curves of beta.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Curve {
    #[default]
    Linear,
    SqrtLinear,
    Sqrt,
    Cosine,
}

/// What the network predicts.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    #[default]
    Eps,
    X0,
    V,
}

/// The settings of the model that a YAML file of latent diffusion describes, and the factor of its latents if the file gives one.
/// `yaml`: the file's contents.
///
/// # Errors
/// If it describes no latent diffusion model, or one that has no counterpart here: a condition other than none or a class, a
/// network that cannot be built.
pub fn ldm_config(yaml: &Value) -> Result<(DiffusionTraining, Option<f64>)> {
    let of = |e: serde_json::Error| Error::Config(format!("no configuration of latent diffusion: {e}"));
    let File { model } = File::deserialize(yaml).map_err(of)?;
    let class = model.target.rsplit('.').next().unwrap_or_default();
    if !class.contains("Diffusion") && class != "DDPM" {
        return Err(Error::Config(format!("`model.target`: expected a latent diffusion model, got {}", model.target)));
    }
    let p = model.params;
    conditioned(&p)?;
    let unet: LdmUNetConfig = serde_json::from_value(p.unet_config.params.clone())
        .map_err(|e| Error::Config(format!("`unet_config` ({}): {e}", p.unet_config.target)))?;
    let table = schedule(&p)?;
    let boundaries = boundaries(&unet, &table);
    let mut network = unet.translate()?;
    network.size = side(p.image_size.as_ref().or(unet.image_size.as_ref()))?;
    let (parametrization, weighting) = match p.parameterization {
        Target::Eps => (Parametrization::Eps, Weighting::Eps),
        Target::X0 => (Parametrization::X0, Weighting::Network),
        Target::V => (Parametrization::V, Weighting::Network),
    };
    let config = DiffusionTraining {
        parametrization,
        weighting,
        schedule: Schedule::Ldm(table),
        noise: NoiseDistribution::UniformTime,
        boundaries,
        unet: network,
        ..DiffusionTraining::default()
    };
    Ok((config, p.scale_factor))
}

/// Refuses conditions that an import has no place for.
fn conditioned(p: &Diffusion) -> Result<()> {
    let unconditional = |v: &Value| v.is_null() || v.as_str() == Some("__is_unconditional__");
    let stage = p.cond_stage_config.as_ref().filter(|v| !unconditional(v));
    let target = stage.and_then(|v| v["target"].as_str().or(v.as_str())).unwrap_or_default();
    match (stage, p.conditioning_key.as_deref()) {
        (None, _) => Ok(()),
        (Some(_), Some("crossattn" | "adm") | None) if target.ends_with("ClassEmbedder") => Ok(()),
        (_, key) => Err(Error::Config(format!(
            "`cond_stage_config`: expected none or a ClassEmbedder, got `{target}` with the conditioning key {key:?}; models with \
             text encoders come in by diffusers' layout"
        ))),
    }
}

fn schedule(p: &Diffusion) -> Result<Discrete> {
    let curve = match p.beta_schedule {
        // `linear` is linear in the square root there, `sqrt_linear` in beta itself.
        Curve::Linear => BetaCurve::ScaledLinear,
        Curve::SqrtLinear => BetaCurve::Linear,
        Curve::Sqrt => BetaCurve::Sqrt,
        Curve::Cosine => BetaCurve::Cosine,
    };
    let (steps, beta_start, beta_end, cosine_s) = (p.timesteps, p.linear_start, p.linear_end, p.cosine_s);
    Discrete::new(DiscreteConfig { curve, steps, beta_start, beta_end, cosine_s, ..DiscreteConfig::default() })
}

/// The noise levels half-way between the last timestep of each stage and the first of the next.
fn boundaries(unet: &LdmUNetConfig, table: &Discrete) -> Vec<f64> {
    let bounds = unet.stage_interval.as_deref().unwrap_or_default();
    let inner = &bounds[..bounds.len().saturating_sub(1)];
    inner.iter().map(|bound| table.sigma((bound + 0.5) / table.len() as f64)).collect()
}

/// The side of the network's samples.
fn side(size: Option<&Value>) -> Result<Option<usize>> {
    match size {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(sides)) if sides.len() == 2 && sides[0] == sides[1] => side(sides.first()),
        Some(value) => match value.as_u64().filter(|v| *v > 0) {
            Some(side) => Ok(Some(side as usize)),
            None => Err(Error::Config(format!("`image_size`: expected the side of square samples, got {value}"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn multistage() -> Value {
        json!({ "model": {
            "base_learning_rate": 2e-6,
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": 0.0015, "linear_end": 0.0195, "timesteps": 1000, "first_stage_key": "image", "image_size": 64,
                "channels": 3, "cond_stage_config": "__is_unconditional__", "scale_factor": 0.25,
                "unet_config": { "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel_multistage", "params": {
                    "image_size": 64, "in_channels": 3, "out_channels": 3, "model_channels": 224,
                    "attention_resolutions": [8, 4, 2], "num_res_blocks": 2, "channel_mult": [1, 2, 3, 4],
                    "num_head_channels": 32, "stage_num": 3, "de_nfs": [256, 192, 128], "stage_interval": [442, 631, 1000],
                } },
            },
        } })
    }

    /// A file with the published values describes the preset.
    #[test]
    #[allow(clippy::unwrap_used)]
    fn a_file_describes_the_preset() {
        let (config, factor) = ldm_config(&multistage()).unwrap();
        let (_, preset) = DiffusionTraining::PRESETS.iter().find(|(name, _)| *name == "celebahq256-ldm-multistage").unwrap();
        let preset: DiffusionTraining = toml::from_str(preset).unwrap();
        assert_eq!((&config.unet, &config.schedule), (&preset.unet, &preset.schedule));
        assert_eq!((config.parametrization, config.weighting, factor), (preset.parametrization, preset.weighting, Some(0.25)));
        for (got, expected) in config.boundaries.iter().zip(preset.boundaries) {
            assert!((got - expected).abs() < 1e-5, "{got} {expected}");
        }
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn what_has_no_counterpart_is_named() {
        let changed = |pointer: &str, value: Value| {
            let mut yaml = multistage();
            *yaml.pointer_mut(pointer).unwrap() = value;
            ldm_config(&yaml).unwrap_err().to_string()
        };
        let text = json!({ "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder" });
        assert!(changed("/model/params/cond_stage_config", text).contains("FrozenCLIPEmbedder"));
        assert!(changed("/model/params/image_size", json!([64, 32])).contains("image_size"));
        assert!(changed("/model/target", json!("taming.models.vqgan.VQModel")).contains("VQModel"));
        assert!(changed("/model/params/unet_config/params/de_nfs", json!([256])).contains("de_nfs"));
        assert!(changed("/model/params", json!({})).contains("unet_config"));
    }
}
