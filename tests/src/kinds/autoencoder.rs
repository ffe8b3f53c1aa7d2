//! Kinds of the area `autoencoder`: KL, VQ and tiny autoencoders in their published layouts.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use strata_autoencoder::{
    AutoencoderKl, AutoencoderTiny, CoderConfig, Posterior, VqConfig, VqModel,
    layouts::{KeyMap, compvis, diffusers, taesd},
};
use strata_nn::params::ParamStore;

use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "ldm_autoencoder_kl" => kl(case, &first_stage(case)?.kl()?, |store, _| compvis::key_map(store)),
        "diffusers_autoencoder_kl" => kl(case, &diffusers::Config::from_json(&case.config)?.kl()?, diffusers::key_map),
        "ldm_vq_model" => vq(case, &first_stage(case)?.vq()?, |store, _| compvis::key_map(store)),
        "diffusers_vq_model" => vq(case, &diffusers::Config::from_json(&case.config)?.vq()?, diffusers::key_map),
        "diffusers_autoencoder_tiny" => tiny(case),
        other => bail!("`{other}` is no kind of the area autoencoder"),
    }
}

fn first_stage(case: &Case) -> Result<compvis::FirstStage> {
    let config = case.config()?;
    let stage = compvis::FirstStage {
        ddconfig: config.get("ddconfig")?,
        embed_dim: config.get("embed_dim")?,
        n_embed: config.opt("n_embed")?,
    };
    config.finish()?;
    Ok(stage)
}

/// A network's parameters, filled from the case, and their published names.
struct Filled {
    store: ParamStore,
    keys: KeyMap,
    weights: HashMap<String, Tensor>,
}

impl Filled {
    fn new(case: &Case, store: &ParamStore, keys: KeyMap) -> Result<Self> {
        let weights = case.weights()?;
        keys.import(&weights, store, &case.name)?;
        Ok(Self { store: store.clone(), keys, weights })
    }

    /// Answers every expected `grad.*` of `scalar`.
    fn gradients(&self, case: &Case, answer: &mut Answer, scalar: &Tensor, x: &Var) -> Result<()> {
        let grads = scalar.backward()?;
        for name in case.expected_names().filter_map(|name| name.strip_prefix("grad.")) {
            let grad = if name == "x" { grads.get(x).cloned() } else { self.gradient(&grads, name)? };
            answer.insert(format!("grad.{name}"), grad.with_context(|| format!("no gradient reaches `{name}`"))?);
        }
        Ok(())
    }

    fn gradient(&self, grads: &GradStore, name: &str) -> Result<Option<Tensor>> {
        let ours = self.keys.ours(name).with_context(|| format!("`{name}` is no parameter"))?;
        let dims = self.weights.get(name).map(Tensor::dims).unwrap_or_default();
        let parameters = self.store.parameters();
        let parameter = parameters.iter().find(|p| p.name() == ours);
        Ok(parameter.and_then(|p| grads.get(p.var())).map(|g| g.reshape(dims)).transpose()?)
    }
}

fn mean_square(x: &Tensor) -> Result<Tensor> {
    Ok(x.sqr()?.mean_all()?)
}

fn kl(case: &Case, config: &CoderConfig, key_map: fn(&ParamStore, usize) -> KeyMap) -> Result<Answer> {
    let store = ParamStore::new(0, &Device::Cpu);
    let model = AutoencoderKl::new(config, &store.root())?;
    let filled = Filled::new(case, &store, key_map(&store, config.levels()))?;
    let x = Var::from_tensor(&case.input("x")?)?;
    let moments = model.encode_moments(x.as_tensor())?;
    let posterior = Posterior::new(&moments)?;
    let recon = model.decode(posterior.mode())?;
    let mut answer = Answer::new()
        .with("out.moments", moments)
        .with("out.logvar", posterior.logvar().clone())
        .with("out.mode", posterior.mode().clone())
        .with("out.sample", posterior.sample(&case.input("noise")?)?)
        .with("out.kl", posterior.kl()?)
        .with("out.recon", recon.clone());
    filled.gradients(case, &mut answer, &(mean_square(&recon)? + mean_square(posterior.mode())?)?, &x)?;
    Ok(answer)
}

fn vq(case: &Case, config: &VqConfig, key_map: fn(&ParamStore, usize) -> KeyMap) -> Result<Answer> {
    let store = ParamStore::new(0, &Device::Cpu);
    let model = VqModel::new(config, &store.root())?;
    let filled = Filled::new(case, &store, key_map(&store, config.coder.levels()))?;
    let x = Var::from_tensor(&case.input("x")?)?;
    let h = model.encode(x.as_tensor())?;
    let quantized = model.quantize(&h)?;
    let loss = quantized.published_loss(0.25)?;
    let recon = model.decode(&h)?;
    let codebook = store.parameters().into_iter().find(|p| p.name() == "codebook.weight").context("no codebook")?;
    let codebook_grad = loss.backward()?.get(codebook.var()).cloned().context("no gradient reaches the codebook")?;
    let mut answer = Answer::new()
        .with("out.prequant", h.clone())
        .with("out.indices", quantized.indices.to_dtype(DType::I64)?)
        .with("out.quant", quantized.latent.clone())
        .with("out.vq_loss", loss.reshape(1)?)
        .with("out.vq_loss_grad_codebook", codebook_grad)
        .with("out.recon", recon.clone())
        .with("out.recon_not_quantized", model.decode_unquantized(&h)?);
    filled.gradients(case, &mut answer, &(mean_square(&recon)? + mean_square(&h)?)?, &x)?;
    Ok(answer)
}

fn tiny(case: &Case) -> Result<Answer> {
    let config = taesd::Config::from_json(&case.config)?.tiny()?;
    let store = ParamStore::new(0, &Device::Cpu);
    let model = AutoencoderTiny::new(&config, &store.root())?;
    let filled = Filled::new(case, &store, taesd::key_map(&store, &config))?;
    let x = Var::from_tensor(&case.input("x")?)?;
    let latents = model.encode(x.as_tensor())?;
    let recon = model.decode(&latents)?;
    let scaled = model.scale_latents(&latents)?;
    let mut answer = Answer::new()
        .with("out.latents", latents.clone())
        .with("out.recon", recon.clone())
        .with("out.unscaled_latents", model.unscale_latents(&scaled)?)
        .with("out.scaled_latents", scaled);
    filled.gradients(case, &mut answer, &(mean_square(&recon)? + mean_square(&latents)?)?, &x)?;
    Ok(answer)
}
