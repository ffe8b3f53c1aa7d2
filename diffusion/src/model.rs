//! A multistage diffusion model: the U-Net, its class embedder, the preconditioning and the stages, as one denoiser.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_conditioning::{AttributeEmbedder, ClassEmbedder, Condition, ImageConditioner, ImageInput, Shown};
use strata_datasets::EmbeddingSource;
use strata_nn::{
    params::{ParamStore, Scope},
    random::Key,
    weights,
};

use crate::{
    Error, Result,
    denoiser::{Estimate, Parametrization, Preconditioning},
    noise::{check_boundaries, stage_of},
    schedule::Schedule,
    unet::{CostInput, UNet, UNetConfig},
};

/// Everything needed to build the network and to use it; stored in the metadata of its weight files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The network.
    pub unet: UNetConfig,
    /// What it predicts.
    pub parametrization: Parametrization,
    /// The schedule whose time it is told.
    pub schedule: Schedule,
    /// Sigmas between the stages, ascending; one fewer than decoders.
    pub boundaries: Vec<f64>,
    /// Real classes; 0 for an unconditional model.
    pub classes: usize,
    /// Names of the classes, in order; empty when they have none.
    pub class_names: Vec<String>,
    /// Names of the binary attributes that it can be told, in order; empty when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attribute_names: Vec<String>,
    /// The text encoder whose embeddings it is told; none where it is told no texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<EmbeddingSource>,
    /// The images that it is shown; none where it is shown none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInput>,
    /// Shape of a sample: channels, height, width.
    pub shape: [usize; 3],
    /// What turns the model's samples back into latents of the autoencoder.
    pub latents: LatentScaling,
}

/// How latents were normalised for the model: `(z - shift) scale`, per channel or one value for all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentScaling {
    /// Factor.
    pub scale: Vec<f32>,
    /// Subtracted before.
    pub shift: Vec<f32>,
    /// SHA-256 of the weight file of the autoencoder; empty where the samples are pictures, RGB in [-1, 1].
    pub autoencoder_sha256: String,
}

impl LatentScaling {
    /// Of pictures, which are nobody's latents.
    pub fn pixels() -> Self {
        Self { scale: vec![1.0], shift: vec![0.0], autoencoder_sha256: String::new() }
    }

    /// Whether samples are pictures.
    pub fn is_pixels(&self) -> bool {
        self.autoencoder_sha256.is_empty()
    }

    /// Latents of the autoencoder from samples of the model, `[B, C, H, W]`: `x / scale + shift`.
    ///
    /// # Errors
    /// If there are neither one nor C values.
    pub fn undo(&self, x: &Tensor) -> Result<Tensor> {
        let (scale, shift) = self.rows(x)?;
        Ok(x.broadcast_div(&scale)?.broadcast_add(&shift)?)
    }

    /// Samples of the model from latents of the autoencoder, `[B, C, H, W]`: `(z - shift) scale`.
    ///
    /// # Errors
    /// As [`Self::undo`].
    pub fn apply(&self, z: &Tensor) -> Result<Tensor> {
        let (scale, shift) = self.rows(z)?;
        Ok(z.broadcast_sub(&shift)?.broadcast_mul(&scale)?)
    }

    /// Scale and shift, [1, C or 1, 1, 1].
    fn rows(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let channels = x.dim(1)?;
        if [&self.scale, &self.shift].iter().any(|v| v.len() != 1 && v.len() != channels) {
            return Err(Error::Mismatch {
                what: "scale and shift of the latents".into(),
                expected: format!("1 or {channels} values"),
                got: format!("{} and {}", self.scale.len(), self.shift.len()),
            });
        }
        let row = |values: &[f32]| Tensor::from_slice(values, (1, values.len(), 1, 1), x.device());
        Ok((row(&self.scale)?, row(&self.shift)?))
    }
}

impl ModelConfig {
    /// # Errors
    /// If the parts do not agree; the message says which value and why.
    pub fn validate(&self) -> Result<()> {
        check_boundaries(&self.boundaries)?;
        let decoders = self.unet.decoders.len();
        if self.boundaries.len() + 1 != decoders {
            return Err(Error::Config(format!(
                "{} stage boundaries make {} stages, but the U-Net has {decoders} decoders",
                self.boundaries.len(),
                self.boundaries.len() + 1
            )));
        }
        self.unet.validate()?;
        if let Some(n) = self.unet.classes.filter(|&n| n != self.classes) {
            return Err(Error::Config(format!("`unet.classes` is {n}, but the model has {} classes", self.classes)));
        }
        if self.unet.transformer.is_some() && !self.is_conditional() {
            return Err(Error::Config(
                "the U-Net attends to a context (`unet.transformer`), but the model has no classes, attributes, texts or pictures".into(),
            ));
        }
        self.check_text()?;
        self.check_image()?;
        self.unet.check_size(self.shape[1], self.shape[2])
    }

    /// Embeddings are attended to, and nothing else is then.
    fn check_text(&self) -> Result<()> {
        let Some(text) = &self.text else { return Ok(()) };
        let Some(transformer) = &self.unet.transformer else {
            let what = text.what();
            return Err(Error::Config(format!(
                "the model is told {what}s, but the U-Net attends to no context: set `unet.transformer`"
            )));
        };
        if transformer.context_width != text.width {
            return Err(Error::Config(format!(
                "`unet.transformer.context_width` is {}, but the {} encoder's embeddings are {} wide",
                transformer.context_width,
                text.what(),
                text.width
            )));
        }
        if self.classes > 0 || !self.attribute_names.is_empty() {
            return Err(Error::Config(format!("a model that is told {}s is told no classes or attributes", text.what())));
        }
        Ok(())
    }

    /// The images that are shown are further channels of the input.
    fn check_image(&self) -> Result<()> {
        let Some(image) = &self.image else { return Ok(()) };
        image.condition.validate()?;
        let (got, expected) = (self.unet.in_channels, self.shape[0] + image.channels());
        if got == expected {
            return Ok(());
        }
        Err(Error::Config(format!("`unet.in_channels`: expected {expected} for samples and what is shown, got {got}")))
    }

    /// The size of a sample, for what the network costs.
    pub fn cost_input(&self) -> CostInput {
        let [_, height, width] = self.shape;
        CostInput { height, width, context_tokens: self.text.as_ref().map_or(1, |text| text.tokens) }
    }

    /// Whether there is anything to be told.
    pub fn is_conditional(&self) -> bool {
        self.classes > 0 || !self.attribute_names.is_empty() || self.text.is_some()
    }
}

/// The network with its parameters.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    store: ParamStore,
    unet: UNet,
    classes: Classes,
    attributes: Option<AttributeEmbedder>,
    images: Option<ImageConditioner>,
}

/// Who turns classes into a condition, and which part of it.
#[derive(Debug)]
enum Classes {
    None,
    /// The network's own map.
    Network,
    /// A table, added to the embedding of the noise level.
    Vector(ClassEmbedder),
    /// A table, attended to as a context of one token.
    Context(ClassEmbedder),
}

impl Classes {
    fn new(config: &ModelConfig, scope: &Scope) -> Result<Self> {
        let (unet, n) = (&config.unet, config.classes);
        let table = || ClassEmbedder::new(scope, n, condition_width(unet));
        Ok(match (&unet.transformer, unet.classes) {
            _ if n == 0 => Self::None,
            (_, Some(_)) => Self::Network,
            (Some(_), None) => Self::Context(table()?),
            (None, None) => Self::Vector(table()?),
        })
    }
}

/// Width of the vector by which the network is told a condition.
fn condition_width(unet: &UNetConfig) -> usize {
    match (&unet.transformer, unet.classes) {
        (Some(transformer), None) => transformer.context_width,
        _ => unet.condition_width.unwrap_or(unet.vector_width()),
    }
}

impl Model {
    /// A model with fresh parameters.
    pub fn new(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self> {
        config.validate()?;
        let store = ParamStore::new(seed, device);
        let unet = UNet::new(&config.unet, &store.root().pp("unet"))?;
        let classes = Classes::new(config, &store.root().pp("classes"))?;
        let (n, width) = (config.attribute_names.len(), condition_width(&config.unet));
        let attributes = (n > 0).then(|| AttributeEmbedder::new(&store.root().pp("attributes"), n, width)).transpose()?;
        let size = [config.shape[1], config.shape[2]];
        let images =
            config.image.as_ref().map(|image| ImageConditioner::new(&store.root().pp("image"), image, size)).transpose()?;
        Ok(Self { config: config.clone(), store, unet, classes, attributes, images })
    }

    /// A frozen model from a weight file that carries its config.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let file = weights::load(path, device)?;
        let config = file
            .metadata
            .get("config")
            .ok_or_else(|| Error::file(path, "has no `config` in its metadata: this is not a Strata diffusion model"))?;
        let config: ModelConfig =
            serde_json::from_str(config).map_err(|e| Error::file(path, format!("its config cannot be read: {e}")))?;
        let model = Self::new(&config, 0, device)?;
        model.store.load(&file.tensors, &path.display().to_string())?;
        model.store.freeze();
        Ok(model)
    }

    /// The metadata that makes a weight file loadable by [`Model::load`].
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        let config = serde_json::to_string(&self.config).map_err(|e| Error::Config(e.to_string()))?;
        Ok(BTreeMap::from([("config".to_string(), config), ("format".to_string(), "strata-diffusion-1".to_string())]))
    }

    /// As [`UNet::checkpoint_activations`].
    pub fn checkpoint_activations(&mut self, on: bool) {
        self.unet.checkpoint_activations(on);
    }

    /// What it was built from.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its parameters.
    pub fn store(&self) -> &ParamStore {
        &self.store
    }

    /// Number of stages.
    pub fn stages(&self) -> usize {
        self.config.boundaries.len() + 1
    }

    /// The stage (from 0) that a sigma belongs to.
    pub fn stage(&self, sigma: f64) -> usize {
        stage_of(&self.config.boundaries, sigma)
    }

    /// The condition for labels, of which `None` is "no class", and attributes: 1, -1 or, where nothing is said, 0, for each name;
    /// a sample with an empty row, or beyond the last row, is told none.
    ///
    /// # Errors
    /// If the model does not know a class, or a row is neither empty nor as long as its attributes.
    pub fn condition(&self, labels: &[Option<u32>], attributes: &[Vec<i8>]) -> Result<Condition> {
        let mut condition = self.class_condition(labels)?;
        let Some(embedder) = &self.attributes else {
            return match attributes.iter().find(|row| !row.is_empty()) {
                None => Ok(condition),
                Some(_) => Err(Error::Config("attributes are asked for, but the model knows none".into())),
            };
        };
        let mut rows = attributes.to_vec();
        rows.resize(labels.len(), Vec::new());
        let told = embedder.forward(&rows)?;
        let place = if self.config.unet.transformer.is_some() && self.config.unet.classes.is_none() {
            (&mut condition.context, told.unsqueeze(1)?)
        } else {
            (&mut condition.vector, told)
        };
        *place.0 = Some(match place.0.take() {
            Some(class) => (class + place.1)?,
            None => place.1,
        });
        Ok(condition)
    }

    /// The condition for embedded texts or pictures `[B, tokens, width]`.
    ///
    /// # Errors
    /// If the model is told none, or they are of another shape.
    pub fn text_condition(&self, context: &Tensor) -> Result<Condition> {
        let Some(text) = &self.config.text else {
            return Err(Error::Config("a text or picture is asked for, but the model was trained without embeddings".into()));
        };
        let (_, tokens, width) = context.dims3()?;
        if (tokens, width) != (text.tokens, text.width) {
            return Err(Error::Mismatch {
                what: format!("embedded {}", text.what()),
                expected: format!("{} tokens of width {}", text.tokens, text.width),
                got: format!("{tokens} of width {width}"),
            });
        }
        Ok(Condition { context: Some(context.clone()), ..Condition::none() })
    }

    /// `condition` of `rows` samples with the images that they are shown; none where nothing is shown.
    ///
    /// # Errors
    /// If the model is shown none, must be shown some, or they have another shape.
    pub fn with_images(&self, condition: Condition, shown: Option<&Shown>, rows: usize) -> Result<Condition> {
        match (&self.images, shown) {
            (None, None) => Ok(condition),
            (None, Some(_)) => Err(Error::Config("an image is shown, but the model was trained without".into())),
            (Some(images), Some(shown)) => Ok(images.add(condition, shown)?),
            (Some(images), None) if images.input().dropout > 0.0 => {
                Ok(Condition { concat: Some(images.nothing(rows, self.store.device())?), ..condition })
            }
            (Some(images), None) => Err(Error::Config(format!("the model must be shown {}", images.input().condition))),
        }
    }

    fn class_condition(&self, labels: &[Option<u32>]) -> Result<Condition> {
        match (&self.classes, labels.iter().flatten().next()) {
            (Classes::Vector(table), _) => Ok(table.condition(labels)?),
            (Classes::Context(table), _) => {
                Ok(Condition { context: Some(table.forward(labels)?.unsqueeze(1)?), ..Condition::none() })
            }
            (Classes::Network, _) => Ok(Condition { vector: Some(self.unet.embed_classes(labels)?), ..Condition::none() }),
            (Classes::None, None) => Ok(Condition::none()),
            (Classes::None, Some(class)) => {
                Err(Error::Config(format!("class {class} is asked for, but the model is unconditional")))
            }
        }
    }

    /// The coefficients around the network at one sigma.
    pub fn preconditioning(&self, sigma: f64) -> Preconditioning {
        self.config.parametrization.at(&self.config.schedule, sigma)
    }

    /// The network's raw answer at one sigma per sample. x: `[B, C, H, W]` = x0 + sigma eps.
    pub fn network(&self, x: &Tensor, sigmas: &[f64], condition: &Condition, train: Option<Key>) -> Result<Tensor> {
        let c_in = row_factors(sigmas, x, |s| self.preconditioning(s).c_in)?;
        let labels: Vec<f32> = sigmas.iter().map(|s| self.preconditioning(*s).c_noise as f32).collect();
        let stages: Vec<usize> = sigmas.iter().map(|s| self.stage(*s)).collect();
        self.unet.forward(&x.broadcast_mul(&c_in)?, &labels, &stages, condition, train)
    }

    /// The denoiser's answer x0 at one sigma per sample. x: `[B, C, H, W]` = x0 + sigma eps.
    pub fn denoise(&self, x: &Tensor, sigmas: &[f64], condition: &Condition) -> Result<Tensor> {
        Ok(self.estimate(x, sigmas, condition)?.x0)
    }

    /// The same, with the learned variance of a network of twice the channels.
    pub fn estimate(&self, x: &Tensor, sigmas: &[f64], condition: &Condition) -> Result<Estimate> {
        let f = self.network(x, sigmas, condition, None)?;
        let c_skip = row_factors(sigmas, x, |s| self.preconditioning(s).c_skip)?;
        let c_out = row_factors(sigmas, x, |s| self.preconditioning(s).c_out)?;
        Estimate::from_network(&f, x, |f| Ok((x.broadcast_mul(&c_skip)? + f.broadcast_mul(&c_out)?)?))
    }
}

/// `f(sigma)` per row as a tensor `[B, 1, 1, 1]` in the dtype of `x`.
pub(crate) fn row_factors(sigmas: &[f64], x: &Tensor, f: impl Fn(f64) -> f64) -> Result<Tensor> {
    let values: Vec<f32> = sigmas.iter().map(|s| f(*s) as f32).collect();
    Ok(Tensor::from_vec(values, (sigmas.len(), 1, 1, 1), x.device())?.to_dtype(x.dtype())?)
}
