//! One of EDM's networks in its wrapper, with the weights of a case.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, Var};
use serde_json::Value;
use strata_conditioning::Condition;
use strata_diffusion::unet::{EdmPrecond, EdmUNetConfig, KeyMap, UNet};
use strata_nn::params::ParamStore;

use crate::golden::{Answer, Case};

pub struct Network {
    config: EdmUNetConfig,
    precond: EdmPrecond,
    keys: KeyMap,
    store: ParamStore,
    unet: UNet,
}

impl Network {
    /// `config`: the wrapper's and the network's keys together.
    pub fn new(case: &Case, config: &Value) -> Result<Self> {
        let config = published(config)?;
        let store = ParamStore::new(0, &Device::Cpu);
        let unet = UNet::new(&config.translate()?, &store.root())?;
        let (keys, precond) = (config.key_map()?, config.preconditioning()?);
        let mut weights = case.weights()?;
        weights.extend(case.buffers()?);
        keys.load(&store, &weights, &case.name)?;
        Ok(Self { config, precond, keys, store, unet })
    }

    pub fn config(&self) -> &EdmUNetConfig {
        &self.config
    }

    /// Class and augmentation labels of a case; no labels of classes are zeros.
    pub fn condition(&self, case: &Case, batch: usize) -> Result<Condition> {
        let labels = match (self.unet.config().classes, case.input_opt("class_labels")) {
            (None, _) => None,
            (Some(_), Some(labels)) => Some(self.unet.embed_labels(&labels)?),
            (Some(_), None) => Some(self.unet.embed_classes(&vec![None; batch])?),
        };
        let augment = case.input_opt("augment_labels").filter(|_| self.config.augment_dim > 0);
        Ok(Condition { vector: labels, augment, ..Condition::none() })
    }

    /// D(x; sigma). As published, the first sigma decides the stage of the whole batch.
    pub fn denoise(&self, x: &Tensor, sigmas: &[f64], condition: &Condition) -> Result<Tensor> {
        let first = *sigmas.first().context("no noise level")?;
        self.denoise_in(self.config.stage_of(first)?, x, sigmas, condition)
    }

    pub fn denoise_in(&self, stage: usize, x: &Tensor, sigmas: &[f64], condition: &Condition) -> Result<Tensor> {
        let c: Vec<_> = sigmas.iter().map(|s| self.precond.at(*s)).collect();
        let rows = |of: fn(&strata_diffusion::denoiser::Preconditioning) -> f64| {
            Tensor::from_vec(c.iter().map(|c| of(c) as f32).collect(), (c.len(), 1, 1, 1), x.device())
        };
        let labels: Vec<f32> = c.iter().map(|c| c.c_noise as f32).collect();
        let input = x.broadcast_mul(&rows(|c| c.c_in)?)?;
        let f = self.unet.forward(&input, &labels, &vec![stage; c.len()], condition, None)?;
        // iDDPM's network also has the logits of a variance behind the channels.
        let f = f.narrow(1, 0, x.dim(1)?)?;
        Ok((x.broadcast_mul(&rows(|c| c.c_skip)?)? + f.broadcast_mul(&rows(|c| c.c_out)?)?)?)
    }

    /// Every expected `grad.*` of `loss`.
    pub fn gradients(&self, case: &Case, loss: &Tensor, x: Option<&Var>, answer: &mut Answer) -> Result<()> {
        let grads = loss.backward()?;
        let parameters = self.store.parameters();
        let named = parameters.iter().filter_map(|p| Some((p.name().to_string(), grads.get(p.var())?.clone())));
        let mut all = self.keys.export(&named.collect::<Vec<_>>())?;
        all.extend(x.and_then(|x| grads.get(x)).map(|g| ("x".to_string(), g.clone())));
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
fn published(config: &Value) -> Result<EdmUNetConfig> {
    let table = config.as_object().context("`config`: expected a table")?;
    let own = table.iter().filter(|(key, _)| !key.starts_with('_'));
    let own: serde_json::Map<String, Value> = own.map(|(key, value)| (key.clone(), value.clone())).collect();
    serde_json::from_value(Value::Object(own)).context("`config`")
}
