//! Kinds of the area `score_sde_unet`: NCSN++ with a decoder per stage.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;
use strata_conditioning::Condition;
use strata_diffusion::unet::{KeyMap, ScoreSdeConfig, UNet};
use strata_nn::params::ParamStore;

use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "score_sde_ncsnpp_multistage" => Network::new(case)?.run(case),
        other => bail!("`{other}` is no kind of the area score_sde_unet"),
    }
}

struct Network {
    config: ScoreSdeConfig,
    keys: KeyMap,
    store: ParamStore,
    unet: UNet,
    x: Var,
}

impl Network {
    fn new(case: &Case) -> Result<Self> {
        let config = published(&case.config)?;
        let store = ParamStore::new(0, &Device::Cpu);
        let unet = UNet::new(&config.translate()?, &store.root())?;
        let keys = config.key_map()?;
        let mut weights = case.weights()?;
        weights.extend(listed_buffers(case)?);
        keys.load(&store, &weights, &case.name)?;
        Ok(Self { config, keys, store, unet, x: Var::from_tensor(&case.input("x")?)? })
    }

    fn run(&self, case: &Case) -> Result<Answer> {
        let of_gradient = case.config["_grad_stage"].as_str().unwrap_or_default();
        let mut answer = Answer::new();
        for run in case.input_names().filter_map(|name| name.strip_prefix("time_cond.")) {
            let eps = self.forward(&case.input(&format!("time_cond.{run}"))?)?;
            if run == of_gradient {
                self.gradients(case, &eps, &mut answer)?;
            }
            answer.insert(format!("out.eps.{run}"), eps);
        }
        Ok(answer)
    }

    /// As published, the first label decides the stage of the whole batch.
    fn forward(&self, labels: &Tensor) -> Result<Tensor> {
        let labels: Vec<f32> = labels.to_dtype(DType::F32)?.to_vec1()?;
        let stage = self.config.stage_of(f64::from(*labels.first().context("no label")?))?;
        let x = self.config.centred(self.x.as_tensor())?;
        Ok(self.unet.forward(&x, &labels, &vec![stage; labels.len()], &Condition::none(), None)?)
    }

    /// Every expected `grad.*` of mean(eps²).
    fn gradients(&self, case: &Case, eps: &Tensor, answer: &mut Answer) -> Result<()> {
        let grads = eps.sqr()?.mean_all()?.backward()?;
        let parameters = self.store.parameters();
        let named = parameters.iter().filter_map(|p| Some((p.name().to_string(), grads.get(p.var())?.clone())));
        let mut all = self.keys.export(&named.collect::<Vec<_>>())?;
        all.extend(grads.get(&self.x).map(|g| ("x".to_string(), g.clone())));
        for (name, grad) in all {
            let name = format!("grad.{name}");
            if case.expects(&name) {
                answer.insert(name, grad);
            }
        }
        Ok(())
    }
}

/// The state dict's table of noise levels, which nothing uses: listed in the case, but not in its file.
fn listed_buffers(case: &Case) -> Result<Vec<(String, Tensor)>> {
    let Some(listed) = case.json.get("weights").and_then(|w| w.get("buffers")).and_then(Value::as_object) else {
        return Ok(Vec::new());
    };
    let one = |(name, shape): (&String, &Value)| {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).with_context(|| format!("`weights.buffers.{name}`"))?;
        Ok((name.clone(), Tensor::zeros(shape, DType::F64, &Device::Cpu)?))
    };
    listed.iter().map(one).collect()
}

/// The configuration without the keys that are not the source's own.
fn published(config: &Value) -> Result<ScoreSdeConfig> {
    let table = config.as_object().context("`config`: expected a table")?;
    let own = table.iter().filter(|(key, _)| !key.starts_with('_'));
    let own: serde_json::Map<String, Value> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    serde_json::from_value(Value::Object(own)).context("`config`")
}
