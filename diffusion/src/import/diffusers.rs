//! Models from folders of diffusers: the network by its own configuration, schedule and parametrization by the scheduler's.

use candle_core::Device;
use serde_json::Value;
use strata_datasets::EmbeddingSource;
use strata_nn::checkpoint::Checkpoint;

use crate::{
    Error, Result,
    denoiser::Parametrization,
    model::{LatentScaling, Model, ModelConfig},
    schedule::Schedule,
    schedule_discrete::{BetaCurve, Discrete, DiscreteConfig},
    unet::{CostInput, DiffusersUNet, KeyMap, UNetConfig, costs, modern_name},
};

/// What a model of diffusers consists of beside the network's weights.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// `config.json` of the network.
    pub unet: &'a Value,
    /// What the scheduler's configuration says.
    pub scheduler: Scheduler,
    /// What turns samples back into latents; [`LatentScaling::pixels`] where they are pictures.
    pub latents: LatentScaling,
    /// The text encoder of a network that attends to texts.
    pub text: Option<EmbeddingSource>,
}

/// The model with the weights in `file`.
///
/// # Errors
/// If a configuration says what has no counterpart here, or the file's tensors are not those of the network: all that differ, by
/// their names.
pub fn import_diffusers(file: &Checkpoint, parts: Parts<'_>, device: &Device) -> Result<Model> {
    let unet = DiffusersUNet::from_json(parts.unet)?.translate()?;
    let size =
        unet.size.ok_or_else(|| Error::Config("`sample_size` of diffusers' config.json: expected the side of samples".into()))?;
    check_numbers(file, &unet, size)?;
    let keys = KeyMap::published(&unet)?.below("unet.");
    let config = ModelConfig {
        classes: unet.classes.unwrap_or(0),
        class_names: Vec::new(),
        attribute_names: Vec::new(),
        text: parts.text,
        image: None,
        shape: [unet.in_channels, size, size],
        parametrization: parts.scheduler.parametrization,
        schedule: parts.scheduler.schedule,
        boundaries: Vec::new(),
        unet,
        latents: parts.latents,
    };
    let model = Model::new(&config, 0, device)?;
    let tensors = file.load_where(device, |name| Some(modern_name(name)))?;
    keys.load(model.store(), &tensors, &file.path().display().to_string())?;
    model.store().freeze();
    Ok(model)
}

/// Errors if the configuration asks for more numbers than the file has, before any are made room for.
fn check_numbers(file: &Checkpoint, unet: &UNetConfig, size: usize) -> Result<()> {
    let input = CostInput { height: size, width: size, context_tokens: 1 };
    let (expected, got) = (costs(unet, input)?.parameters(), file.tensors().iter().map(|t| t.elements() as u64).sum::<u64>());
    if expected <= got {
        return Ok(());
    }
    let message = format!("holds {got} numbers, but the network of the config.json has {expected}");
    Err(Error::file(file.path(), message))
}

/// What a network was trained to predict, and under which schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Scheduler {
    /// What the network predicts.
    pub parametrization: Parametrization,
    /// The schedule.
    pub schedule: Schedule,
}

/// Schedulers that go by N betas; how each of them samples is not the network's.
const BY_BETAS: [&str; 17] = [
    "DDPMScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "LCMScheduler",
];

impl Default for Scheduler {
    /// That of Ho et al. 2020, which is diffusers' where nothing is said: eps, 1000 betas from 1e-4 to 0.02.
    fn default() -> Self {
        let betas = DiscreteConfig { curve: BetaCurve::Linear, beta_start: 1e-4, beta_end: 0.02, ..DiscreteConfig::default() };
        let schedule = Discrete::new(betas).map_or_else(|_| Schedule::default(), Schedule::Ldm);
        Self { parametrization: Parametrization::Eps, schedule }
    }
}

impl Scheduler {
    /// From a `scheduler_config.json`. What concerns only how samples are drawn is passed over.
    ///
    /// # Errors
    /// If the scheduler is not one of N betas, or has no counterpart here.
    pub fn from_json(json: &Value) -> Result<Self> {
        let wrong = |key: &str, expected: &str| {
            let got = &json[key];
            Err(Error::Config(format!("`{key}` of diffusers' scheduler_config.json: expected {expected}, got {got}")))
        };
        let class = json["_class_name"].as_str().unwrap_or_default();
        if !BY_BETAS.contains(&class) {
            return wrong("_class_name", &format!("one of {}", BY_BETAS.join(", ")));
        }
        if !json["trained_betas"].is_null() {
            return wrong("trained_betas", "null: betas that follow from their ends");
        }
        let parametrization = match json["prediction_type"].as_str() {
            None | Some("epsilon") => Parametrization::Eps,
            Some("sample") => Parametrization::X0,
            Some("v_prediction") => Parametrization::V,
            Some(_) => return wrong("prediction_type", "epsilon, sample or v_prediction"),
        };
        let curve = match json["beta_schedule"].as_str() {
            None | Some("linear") => BetaCurve::Linear,
            Some("scaled_linear") => BetaCurve::ScaledLinear,
            Some("squaredcos_cap_v2") => BetaCurve::Cosine,
            Some(_) => return wrong("beta_schedule", "linear, scaled_linear or squaredcos_cap_v2"),
        };
        let number = |key: &str, default: f64| json[key].as_f64().unwrap_or(default);
        let schedule = Discrete::new(DiscreteConfig {
            curve,
            steps: json["num_train_timesteps"].as_u64().unwrap_or(1000) as usize,
            beta_start: number("beta_start", 1e-4),
            beta_end: number("beta_end", 0.02),
            zero_terminal_snr: json["rescale_betas_zero_snr"].as_bool().unwrap_or(false),
            ..DiscreteConfig::default()
        })?;
        Ok(Self { parametrization, schedule: Schedule::Ldm(schedule) })
    }

    /// The `scheduler_config.json` of a `DDPMScheduler` of the same betas.
    ///
    /// # Errors
    /// If the schedule is not one of N betas, or the prediction has no name there.
    pub fn to_json(&self) -> Result<Value> {
        let Schedule::Ldm(discrete) = &self.schedule else {
            return Err(Error::Config(format!("diffusers has no scheduler for the schedule {:?}", self.schedule)));
        };
        let betas = DiscreteConfig::from(discrete.clone());
        let prediction = match self.parametrization {
            Parametrization::Eps => "epsilon",
            Parametrization::X0 => "sample",
            Parametrization::V => "v_prediction",
            other => return Err(Error::Config(format!("diffusers has no scheduler for the prediction {other:?}"))),
        };
        let curve = match betas.curve {
            BetaCurve::Linear => "linear",
            BetaCurve::ScaledLinear => "scaled_linear",
            BetaCurve::Cosine if betas.cosine_s == DiscreteConfig::default().cosine_s => "squaredcos_cap_v2",
            other => return Err(Error::Config(format!("diffusers has no betas of the curve {other:?}"))),
        };
        Ok(serde_json::json!({
            "_class_name": "DDPMScheduler",
            "num_train_timesteps": betas.steps,
            "beta_schedule": curve,
            "beta_start": betas.beta_start,
            "beta_end": betas.beta_end,
            "prediction_type": prediction,
            "rescale_betas_zero_snr": betas.zero_terminal_snr,
            "clip_sample": false,
        }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_scheduler_survives_the_way_there_and_back() {
        for json in [
            json!({ "_class_name": "DDPMScheduler" }),
            json!({ "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
                    "prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "num_train_timesteps": 100 }),
            json!({ "_class_name": "PNDMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample" }),
        ] {
            let scheduler = Scheduler::from_json(&json).unwrap();
            assert_eq!(Scheduler::from_json(&scheduler.to_json().unwrap()).unwrap(), scheduler, "{json}");
        }
        assert_eq!(Scheduler::from_json(&json!({ "_class_name": "DDPMScheduler" })).unwrap(), Scheduler::default());
        for json in [
            json!({ "_class_name": "FlowMatchEulerDiscreteScheduler" }),
            json!({ "_class_name": "DDPMScheduler", "trained_betas": [0.1] }),
            json!({ "_class_name": "DDPMScheduler", "prediction_type": "flow" }),
        ] {
            Scheduler::from_json(&json).unwrap_err();
        }
    }
}
