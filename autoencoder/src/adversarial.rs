//! The patch discriminator and the adversarial losses of latent diffusion's first stage.

use std::collections::HashMap;

use candle_core::{Tensor, backprop::GradStore};
use serde::{Deserialize, Serialize};
use strata_nn::{
    layers::Conv2d,
    ops::{Conv2dConfig, Padding, leaky_relu},
    params::{Init, ParamStore, Parameter, Scope},
};

pub use crate::batch_norm::Statistics;
use crate::{
    Error, Result,
    batch_norm::BatchNorm,
    coder::{channels_first, channels_last},
};

/// Configuration of a [`PatchDiscriminator`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscriminatorConfig {
    /// Channels of an image.
    pub in_channels: usize,
    /// Channels of the first convolution; they double up to eight times that.
    pub width: usize,
    /// Convolutions with batch norm.
    pub layers: usize,
}

impl Default for DiscriminatorConfig {
    /// The published one: it looks at patches of 70 pixels.
    fn default() -> Self {
        Self { in_channels: 3, width: 64, layers: 3 }
    }
}

/// Judges patches of an image (Isola et al. 2017).
#[derive(Clone, Debug)]
pub struct PatchDiscriminator {
    conv_in: Conv2d,
    blocks: Vec<(Conv2d, BatchNorm)>,
    conv_out: Conv2d,
}

impl PatchDiscriminator {
    /// Creates the parameters below `scope`; convolutions begin as N(0, 0.02²).
    ///
    /// # Errors
    /// If a number of the configuration is 0.
    pub fn new(config: &DiscriminatorConfig, scope: &Scope) -> Result<Self> {
        let DiscriminatorConfig { in_channels, width, layers } = *config;
        if in_channels * width * layers == 0 {
            return Err(Error::config("discriminator", "channels, width and layers of 1 or more", format!("{config:?}")));
        }
        let init = Init::Normal { std: 0.02 };
        let stride = |stride| Conv2dConfig { stride, padding: Padding::all(1) };
        let conv_in = Conv2d::with(&scope.pp("conv_in"), [in_channels, width, 4], stride(2), init)?;
        let (mut blocks, mut c) = (Vec::new(), width);
        for i in 0..layers {
            let scope = scope.pp("blocks").pp(i);
            let c_out = width * (1 << (i + 1).min(3));
            let config = stride(if i + 1 < layers { 2 } else { 1 });
            let conv = Conv2d::without_bias(&scope.pp("conv"), [c, c_out, 4], config, init)?;
            blocks.push((conv, BatchNorm::new(&scope.pp("norm"), c_out)?));
            c = c_out;
        }
        let conv_out = Conv2d::with(&scope.pp("conv_out"), [c, 1, 4], stride(1), init)?;
        Ok(Self { conv_in, blocks, conv_out })
    }

    /// x: `[B, C, H, W]` in [-1, 1] -> logits `[B, 1, h, w]`, above 0 where a patch looks real.
    pub fn forward(&self, x: &Tensor, statistics: Statistics) -> Result<Tensor> {
        let mut h = leaky_relu(&self.conv_in.forward(&channels_last(x)?)?)?;
        for (conv, norm) in &self.blocks {
            h = leaky_relu(&norm.forward(&conv.forward(&h)?, statistics)?)?;
        }
        Ok(channels_first(&self.conv_out.forward(&h)?)?)
    }
}

/// Our names of the parameters and running statistics of a discriminator in `store`, by their published names below `main.`.
pub fn published_names(store: &ParamStore) -> HashMap<String, String> {
    let blocks = store.parameters().iter().filter(|p| p.name().ends_with("norm.weight")).count();
    let theirs = |ours: &str| -> Option<String> {
        let (module, leaf) = ours.rsplit_once('.')?;
        let parts: Vec<&str> = module.rsplitn(3, '.').collect();
        let number = match parts.as_slice() {
            ["conv_in", ..] => 0,
            ["conv_out", ..] => 2 + 3 * blocks,
            ["conv", i, ..] => 2 + 3 * i.parse::<usize>().ok()?,
            ["norm", i, ..] => 3 + 3 * i.parse::<usize>().ok()?,
            _ => return None,
        };
        Some(format!("main.{number}.{leaf}"))
    };
    store.parameters().iter().filter_map(|p| Some((theirs(p.name())?, p.name().to_string()))).collect()
}

/// How the discriminator's logits are punished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GanLoss {
    /// `½ (mean relu(1 - real) + mean relu(1 + fake))`.
    #[default]
    Hinge,
    /// `½ (mean softplus(-real) + mean softplus(fake))`.
    Vanilla,
}

impl GanLoss {
    /// The discriminator's loss, a scalar. Logits of any shape.
    pub fn discriminator(self, real: &Tensor, fake: &Tensor) -> Result<Tensor> {
        let (real, fake) = match self {
            Self::Hinge => ((real.neg()? + 1.0)?.relu()?, (fake + 1.0)?.relu()?),
            Self::Vanilla => (softplus(&real.neg()?)?, softplus(fake)?),
        };
        Ok(((real.mean_all()? + fake.mean_all()?)? * 0.5)?)
    }
}

/// `-mean(logits)`: the generator's loss under either of the discriminator's; a scalar.
pub fn generator_loss(fake: &Tensor) -> Result<Tensor> {
    Ok(fake.mean_all()?.neg()?)
}

/// `log(1 + eˣ)` without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let tail = ((x.abs()?.neg()?.exp()? + 1.0)?).log()?;
    Ok((x.relu()? + tail)?)
}

/// When and how much the adversarial term counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdversarialWeight {
    /// Step from which on it counts.
    pub start_step: u64,
    /// Factor from then on.
    pub factor: f64,
    /// Its gradient at the last layer against that of the reconstruction.
    pub weight: f64,
}

impl Default for AdversarialWeight {
    /// The published KL models.
    fn default() -> Self {
        Self { start_step: 50_001, factor: 1.0, weight: 0.5 }
    }
}

impl AdversarialWeight {
    /// The factor at `step`: 0 before the start.
    pub fn factor_at(&self, step: u64) -> f64 {
        if step < self.start_step { 0.0 } else { self.factor }
    }

    /// `weight · clamp(|∇nll| / (|∇g| + 1e-4), 0, 1e4)` (Esser et al. 2021), the norms being Euclidean.
    pub fn adaptive(&self, nll_grad: &Tensor, g_grad: &Tensor) -> Result<f64> {
        let norm = |t: &Tensor| -> Result<f64> { Ok(f64::from(t.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt()) };
        Ok(self.weight * (norm(nll_grad)? / (norm(g_grad)? + 1e-4)).clamp(0.0, 1e4))
    }

    /// The same from the two losses and the last layer's weight. One backward pass each.
    ///
    /// # Errors
    /// If a loss does not depend on the last layer.
    pub fn adaptive_from(&self, nll: &Tensor, g: &Tensor, last_layer: &Tensor) -> Result<f64> {
        let gradient = |grads: &GradStore| {
            let missing = || Error::input("last layer", "a weight that the losses depend on", last_layer.dims());
            grads.get(last_layer).cloned().ok_or_else(missing)
        };
        self.adaptive(&gradient(&nll.backward()?)?, &gradient(&g.backward()?)?)
    }
}

/// `Σ (r / exp(s) + s) / B`: the negative log-likelihood of residuals r `[B, ...]` (absolute or squared differences) with a
/// learned log-variance s (a scalar parameter); a scalar.
pub fn learned_variance_nll(residuals: &Tensor, logvar: &Parameter) -> Result<Tensor> {
    Ok((scaled_residuals(residuals, logvar)?.sum_all()? / residuals.dim(0)? as f64)?)
}

/// `r / exp(s) + s`, of any shape.
pub(crate) fn scaled_residuals(residuals: &Tensor, logvar: &Parameter) -> Result<Tensor> {
    let s = logvar.get();
    Ok(residuals.broadcast_mul(&s.neg()?.exp()?)?.broadcast_add(&s)?)
}
