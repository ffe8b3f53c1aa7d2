//! The kind `lpips_patchgan_loss` of the area `autoencoder`: the patch discriminator and the first stage's losses.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, Var};
use strata_autoencoder::{
    Posterior,
    adversarial::{
        AdversarialWeight, DiscriminatorConfig, GanLoss, PatchDiscriminator, Statistics, generator_loss, learned_variance_nll,
        published_names,
    },
};
use strata_nn::{
    ops::{Conv2dConfig, conv2d},
    params::{Init, ParamStore, Parameter},
};

use crate::golden::{Answer, Case};

/// Where the published discriminator's names begin.
const PREFIX: &str = "discriminator.";

/// What the configuration says.
struct Settings {
    statistics: Statistics,
    step: u64,
    gan: GanLoss,
    weight: AdversarialWeight,
    discriminator: DiscriminatorConfig,
    class: Class,
}

enum Class {
    Kl { logvar: f64, kl_weight: f64 },
    Vq { codebook_weight: f64, absolute: bool },
}

fn settings(case: &Case) -> Result<Settings> {
    let config = case.config()?;
    let class = match config.get::<String>("class")?.as_str() {
        "LPIPSWithDiscriminator" => Class::Kl { logvar: config.or("logvar_init", 0.0)?, kl_weight: config.or("kl_weight", 1.0)? },
        "VQLPIPSWithDiscriminator" => {
            config.without_effect(&["n_classes", "perceptual_loss"]);
            let absolute = match config.or("pixel_loss", "l1".to_string())?.as_str() {
                "l1" => true,
                "l2" => false,
                other => bail!("pixel_loss `{other}`"),
            };
            Class::Vq { codebook_weight: config.or("codebook_weight", 1.0)?, absolute }
        }
        other => bail!("class `{other}`"),
    };
    let statistics = match config.get::<String>("batchnorm_mode")?.as_str() {
        "train" => Statistics::Batch,
        "eval" => Statistics::Running,
        other => bail!("batchnorm_mode `{other}`"),
    };
    let gan = match config.or("disc_loss", "hinge".to_string())?.as_str() {
        "hinge" => GanLoss::Hinge,
        "vanilla" => GanLoss::Vanilla,
        other => bail!("disc_loss `{other}`"),
    };
    anyhow::ensure!(config.or("perceptual_weight", 1.0)? == 0.0, "perceptual_weight: this kind has no perceptual term");
    anyhow::ensure!(!config.or("use_actnorm", false)? && !config.or("disc_conditional", false)?, "actnorm or conditional");
    config.without_effect(&["pixelloss_weight"]);
    let settings = Settings {
        statistics,
        step: config.get("global_step")?,
        gan,
        weight: AdversarialWeight {
            start_step: config.get("disc_start")?,
            factor: config.or("disc_factor", 1.0)?,
            weight: config.or("disc_weight", 1.0)?,
        },
        discriminator: DiscriminatorConfig {
            in_channels: config.or("disc_in_channels", 3)?,
            width: config.or("disc_ndf", 64)?,
            layers: config.or("disc_num_layers", 3)?,
        },
        class,
    };
    config.finish()?;
    Ok(settings)
}

/// The discriminator, which can be put back to the state that the case gives.
struct Discriminator {
    network: PatchDiscriminator,
    store: ParamStore,
    /// Published name to ours.
    names: HashMap<String, String>,
    given: HashMap<String, Tensor>,
    statistics: Statistics,
}

impl Discriminator {
    fn new(case: &Case, settings: &Settings) -> Result<Self> {
        let store = ParamStore::new(0, &Device::Cpu);
        let network = PatchDiscriminator::new(&settings.discriminator, &store.root())?;
        let names: HashMap<String, String> =
            published_names(&store).into_iter().map(|(theirs, ours)| (format!("{PREFIX}{theirs}"), ours)).collect();
        let mut given = HashMap::new();
        for (theirs, tensor) in case.weights()?.into_iter().chain(case.buffers()?) {
            if theirs.ends_with("num_batches_tracked") {
                continue;
            }
            let ours = names.get(&theirs).with_context(|| format!("`{theirs}` is no part of the discriminator"))?;
            given.insert(ours.clone(), tensor);
        }
        let this = Self { network, store, names, given, statistics: settings.statistics };
        this.reset(case)?;
        Ok(this)
    }

    fn reset(&self, case: &Case) -> Result<()> {
        Ok(self.store.load(&self.given, &case.name)?)
    }

    fn judge(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.network.forward(x, self.statistics)?)
    }

    fn parameter(&self, theirs: &str) -> Result<Parameter> {
        let ours = self.names.get(theirs).with_context(|| format!("`{theirs}` is no part of the discriminator"))?;
        self.store.parameters().into_iter().find(|p| p.name() == ours).with_context(|| format!("`{ours}`"))
    }

    /// Answers the running statistics that the case expects under `out.<after>.`.
    fn running(&self, case: &Case, answer: &mut Answer, after: &str) -> Result<()> {
        let prefix = format!("out.{after}.");
        for name in case.expected_names().filter(|name| name.starts_with(&prefix)) {
            let parameter = self.parameter(&name[prefix.len()..])?;
            answer.insert(name, parameter.var().as_detached_tensor().copy()?);
        }
        Ok(())
    }
}

/// Computes one case.
///
/// # Errors
/// If it cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    let settings = settings(case)?;
    let discriminator = Discriminator::new(case, &settings)?;
    let mut answer = Answer::new();
    formulas(case, &settings, &mut answer)?;
    // Part 3.
    let x = Var::from_tensor(&case.input("inputs")?)?;
    let logits = discriminator.judge(x.as_tensor())?;
    let grads = logits.sqr()?.mean_all()?.backward()?;
    answer.insert("out.disc_logits", logits);
    answer.insert("grad.disc_input", grads.get(&x).cloned().context("no gradient reaches the input")?);
    discriminator.running(case, &mut answer, "after")?;
    discriminator.reset(case)?;
    let reconstructions = generator_step(case, &settings, &discriminator, &mut answer)?;
    discriminator.reset(case)?;
    discriminator_step(case, &settings, &discriminator, &reconstructions, &mut answer)?;
    Ok(answer)
}

/// Parts 1 and 2.
fn formulas(case: &Case, settings: &Settings, answer: &mut Answer) -> Result<()> {
    let (real, fake) = (case.input("logits_real")?, case.input("logits_fake")?);
    answer.insert("out.hinge_d_loss", GanLoss::Hinge.discriminator(&real, &fake)?.reshape(1)?);
    answer.insert("out.vanilla_d_loss", GanLoss::Vanilla.discriminator(&real, &fake)?.reshape(1)?);
    let (a, b) = (case.input("nll_grads")?, case.input("g_grads")?);
    let rows = (0..a.dim(0)?).map(|i| Ok(settings.weight.adaptive(&a.get(i)?, &b.get(i)?)? as f32));
    let rows = rows.collect::<Result<Vec<f32>>>()?;
    let n = rows.len();
    answer.insert_values("out.d_weight_rows", rows, n)
}

/// Part 4; gives the reconstructions.
fn generator_step(case: &Case, settings: &Settings, disc: &Discriminator, answer: &mut Answer) -> Result<Tensor> {
    let last_layer = Var::from_tensor(&case.input("last_layer")?)?;
    let features = case.input("features")?.permute((0, 2, 3, 1))?.contiguous()?;
    let y = conv2d(&features, last_layer.as_tensor(), None, Conv2dConfig::same(3))?.permute((0, 3, 1, 2))?.contiguous()?;
    let difference = (case.input("inputs")? - &y)?;
    let squared = matches!(settings.class, Class::Vq { absolute: false, .. });
    let residuals = if squared { difference.sqr()? } else { difference.abs()? };
    let own = ParamStore::new(0, &Device::Cpu);
    let logvar = match settings.class {
        Class::Kl { logvar, .. } => Some(own.root().param("logvar", (), Init::Constant(logvar))?),
        Class::Vq { .. } => None,
    };
    let nll = match &logvar {
        Some(logvar) => learned_variance_nll(&residuals, logvar)?,
        None => residuals.mean_all()?,
    };
    let g = generator_loss(&disc.judge(&y)?)?;
    let d_weight = settings.weight.adaptive_from(&nll, &g, last_layer.as_tensor())?;
    let factor = settings.weight.factor_at(settings.step);
    let mut total = (&nll + (&g * (d_weight * factor))?)?;
    let mut moments = None;
    match settings.class {
        Class::Kl { kl_weight, .. } => {
            let given = Var::from_tensor(&case.input("moments")?)?;
            let kl = Posterior::new(given.as_tensor())?.kl()?;
            let kl_loss = kl.mean_all()?;
            total = (total + (&kl_loss * kl_weight)?)?;
            answer.insert("out.kl_per_sample", kl);
            answer.insert("out.kl_loss", kl_loss.reshape(1)?);
            moments = Some(given);
        }
        Class::Vq { codebook_weight, .. } => {
            total = (total + (case.input("codebook_loss")?.mean_all()? * codebook_weight)?)?;
        }
    }
    let grads = total.backward()?;
    let mut gradient = |name: &str, tensor: Option<&Tensor>| {
        if case.expects(name) {
            let grad = tensor.and_then(|t| grads.get(t)).cloned();
            let grad = grad.with_context(|| format!("`{name}`: no gradient"))?;
            answer.insert(name, if grad.rank() == 0 { grad.reshape(1)? } else { grad });
        }
        anyhow::Ok(())
    };
    gradient("grad.last_layer", Some(last_layer.as_tensor()))?;
    gradient("grad.moments", moments.as_ref().map(Var::as_tensor))?;
    gradient("grad.logvar", logvar.as_ref().map(|p| p.var().as_tensor()))?;
    let scalars = [("total_loss", &total), ("rec_loss", &residuals.mean_all()?), ("nll_loss", &nll), ("g_loss", &g)];
    for (name, value) in scalars {
        answer.insert(format!("out.{name}"), value.reshape(1)?);
    }
    answer.insert_values("out.d_weight", vec![d_weight as f32], 1)?;
    answer.insert_values("out.disc_factor", vec![factor as f32], 1)?;
    answer.insert("out.reconstructions", y.detach());
    Ok(y.detach())
}

/// Part 5.
fn discriminator_step(case: &Case, settings: &Settings, disc: &Discriminator, y: &Tensor, answer: &mut Answer) -> Result<()> {
    let real = disc.judge(&case.input("inputs")?)?;
    let fake = disc.judge(y)?;
    let loss = (settings.gan.discriminator(&real, &fake)? * settings.weight.factor_at(settings.step))?;
    let grads = loss.backward()?;
    for name in case.expected_names().filter(|name| name.starts_with("grad.discriminator.")) {
        let parameter = disc.parameter(&name["grad.".len()..])?;
        answer.insert(name, grads.get(parameter.var()).cloned().with_context(|| format!("`{name}`: no gradient"))?);
    }
    answer.insert("out.disc_loss", loss.reshape(1)?);
    for (name, logits) in [("real", &real), ("fake", &fake)] {
        answer.insert(format!("out.logits_{name}_mean"), logits.mean_all()?.to_dtype(DType::F32)?.reshape(1)?);
    }
    disc.running(case, answer, "after2")
}
