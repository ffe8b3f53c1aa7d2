//! Kinds of the area `ldm_unet`: the latent-diffusion U-Net with one decoder, and with one per stage.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;
use strata_conditioning::Condition;
use strata_diffusion::unet::{KeyMap, LdmUNetConfig, UNet};
use strata_nn::params::ParamStore;

use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    let network = Network::new(case)?;
    match case.kind.as_str() {
        "ldm_unet" => network.single(case),
        "ldm_unet_multistage" => network.multistage(case),
        other => bail!("`{other}` is no kind of the area ldm_unet"),
    }
}

struct Network {
    config: LdmUNetConfig,
    keys: KeyMap,
    store: ParamStore,
    unet: UNet,
    x: Var,
    context: Option<Var>,
}

impl Network {
    fn new(case: &Case) -> Result<Self> {
        let config = published(&case.config)?;
        let store = ParamStore::new(0, &Device::Cpu);
        let unet = UNet::new(&config.translate()?, &store.root())?;
        let keys = config.key_map()?;
        keys.load(&store, &case.weights()?, &case.name)?;
        let context = case.input_opt("context").map(|c| Var::from_tensor(&c)).transpose()?;
        Ok(Self { config, keys, store, unet, x: Var::from_tensor(&case.input("x")?)?, context })
    }

    fn single(&self, case: &Case) -> Result<Answer> {
        let eps = self.forward(case, &case.input("timesteps")?)?;
        let mut answer = Answer::new().with("out.eps", eps.clone());
        self.gradients(case, &eps, &mut answer)?;
        Ok(answer)
    }

    fn multistage(&self, case: &Case) -> Result<Answer> {
        let of_gradient = case.config["_grad_stage"].as_str().unwrap_or_default();
        let mut answer = Answer::new();
        for run in case.input_names().filter_map(|name| name.strip_prefix("timesteps.")) {
            let eps = self.forward(case, &case.input(&format!("timesteps.{run}"))?)?;
            if run == of_gradient {
                self.gradients(case, &eps, &mut answer)?;
            }
            answer.insert(format!("out.eps.{run}"), eps);
        }
        Ok(answer)
    }

    /// As published, the first timestep decides the stage of the whole batch.
    fn forward(&self, case: &Case, timesteps: &Tensor) -> Result<Tensor> {
        let t: Vec<f32> = timesteps.to_dtype(DType::F32)?.to_vec1()?;
        let first = *t.first().context("no timesteps")?;
        let stages = vec![self.config.stage_of(f64::from(first)); t.len()];
        let vector = case.input_opt("y").map(|y| self.classes(&y)).transpose()?;
        let context = self.context.as_ref().map(|c| c.as_tensor().clone());
        let condition = Condition { vector, context, ..Condition::none() };
        Ok(self.unet.forward(self.x.as_tensor(), &t, &stages, &condition, None)?)
    }

    fn classes(&self, y: &Tensor) -> Result<Tensor> {
        let ids = y.to_dtype(DType::U32)?.to_vec1::<u32>()?.into_iter().map(Some).collect::<Vec<_>>();
        Ok(self.unet.embed_classes(&ids)?)
    }

    /// Every expected `grad.*` of mean(eps²).
    fn gradients(&self, case: &Case, eps: &Tensor, answer: &mut Answer) -> Result<()> {
        let grads = eps.sqr()?.mean_all()?.backward()?;
        let ours: Vec<(String, Tensor)> =
            self.store.parameters().iter().filter_map(|p| Some((p.name().to_string(), grads.get(p.var())?.clone()))).collect();
        let mut all = self.keys.export(&ours)?;
        all.extend(grads.get(&self.x).map(|g| ("x".to_string(), g.clone())));
        all.extend(self.context.as_ref().and_then(|c| grads.get(c)).map(|g| ("context".to_string(), g.clone())));
        for (name, grad) in all {
            let name = format!("grad.{name}");
            if case.expects(&name) {
                answer.insert(name, grad);
            }
        }
        Ok(())
    }
}

/// The configuration without the keys that are not the source's own.
fn published(config: &Value) -> Result<LdmUNetConfig> {
    let table = config.as_object().context("`config`: expected a table")?;
    let own = table.iter().filter(|(key, _)| !key.starts_with('_'));
    let own: serde_json::Map<String, Value> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    serde_json::from_value(Value::Object(own)).context("`config`")
}
