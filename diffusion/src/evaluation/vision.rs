//! Vision transformers as extractors: CLIP's image tower (Radford et al. 2021) and DINOv2 (Oquab et al. 2023), from the folders in
//! which transformers publishes them. A distance of their features is named after them, and is no FID.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use strata_conditioning::text::TextActivation;
use strata_datasets::{Crop, Resampling, RgbImage, Transform, resize::Filter};
use strata_nn::{
    layers::{LayerNorm, Linear},
    ops,
    params::{Init, ParamStore, Parameter, Scope},
    weights,
};
use strata_training::sha256_file;

use super::extractor::{Extractor, Identity, Rows, in_parts};
use crate::{Error, Result};

/// Side of DINOv2's pictures, whatever its positions were trained at: 16 patches, as evaluations have it.
const DINOV2_SIDE: usize = 224;

/// Sizes, by their names in `config.json`; its other keys do not concern the network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[allow(missing_docs)]
struct VisionConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default)]
    intermediate_size: Option<usize>,
    #[serde(default = "mlp_ratio")]
    mlp_ratio: usize,
    image_size: usize,
    patch_size: usize,
    #[serde(default)]
    hidden_act: Option<TextActivation>,
    #[serde(default)]
    layer_norm_eps: Option<f64>,
    #[serde(default)]
    use_swiglu_ffn: bool,
}

fn mlp_ratio() -> usize {
    4
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Clip,
    Dinov2,
}

impl Family {
    /// Means and deviations of the channels that pictures are brought to.
    fn normalization(self) -> [[f32; 3]; 2] {
        match self {
            Self::Clip => [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]],
            Self::Dinov2 => [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]],
        }
    }
}

/// The network: patches and a class token through blocks, the class token's answer under a norm, and for CLIP a projection.
#[derive(Debug)]
struct Vision {
    class: Parameter,
    patches: Parameter,
    patch_bias: Option<Parameter>,
    positions: Parameter,
    norm_before: Option<LayerNorm>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    projection: Option<Linear>,
    patch: usize,
}

/// Where the parts are called what.
struct Names {
    class: &'static str,
    patches: &'static str,
    positions: &'static str,
    layers: &'static str,
    maps: [&'static str; 4],
    norms: [&'static str; 2],
    last_norm: &'static str,
}

const CLIP: Names = Names {
    class: "vision_model.embeddings.class_embedding",
    patches: "vision_model.embeddings.patch_embedding",
    positions: "vision_model.embeddings.position_embedding.weight",
    layers: "vision_model.encoder.layers",
    maps: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"],
    norms: ["layer_norm1", "layer_norm2"],
    last_norm: "vision_model.post_layernorm",
};

const DINOV2: Names = Names {
    class: "embeddings.cls_token",
    patches: "embeddings.patch_embeddings.projection",
    positions: "embeddings.position_embeddings",
    layers: "encoder.layer",
    maps: ["attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"],
    norms: ["norm1", "norm2"],
    last_norm: "layernorm",
};

impl Vision {
    fn new(family: Family, config: &VisionConfig, projection: Option<usize>, scope: &Scope) -> Result<Self> {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let heads = config.num_attention_heads;
        if heads == 0
            || !width.is_multiple_of(heads)
            || patch == 0
            || config.image_size / patch.max(1) == 0
            || config.use_swiglu_ffn
        {
            let message =
                "vision transformer: heads must share the width, patches fit the picture, and the blocks' maps be plain ones";
            return Err(Error::Config(message.into()));
        }
        let tokens = (config.image_size / patch).pow(2) + 1;
        let clip = family == Family::Clip;
        let names = if clip { CLIP } else { DINOV2 };
        let shape = |plain: &[usize]| if clip { plain.to_vec() } else { [&[1; 3][plain.len()..], plain].concat() };
        let block = |n: usize| Block::new(&scope.pp(names.layers).pp(n), family, &names, config);
        let project = |n| Linear::without_bias(&scope.pp("visual_projection"), width, n, Init::FanIn);
        let eps = config.layer_norm_eps.unwrap_or(if clip { 1e-5 } else { 1e-6 });
        let patches = scope.pp(names.patches);
        Ok(Self {
            class: scope.param(names.class, shape(&[width]), Init::ZEROS)?,
            patches: patches.param("weight", (width, 3, patch, patch), Init::FanIn)?,
            patch_bias: (!clip).then(|| patches.param("bias", width, Init::ZEROS)).transpose()?,
            positions: scope.param(names.positions, shape(&[tokens, width]), Init::ZEROS)?,
            norm_before: clip.then(|| LayerNorm::new(&scope.pp("vision_model.pre_layrnorm"), width, eps)).transpose()?,
            blocks: (0..config.num_hidden_layers).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(&scope.pp(names.last_norm), width, eps)?,
            projection: projection.map(project).transpose()?,
            patch,
        })
    }

    /// x: `[B, S, S, 3]` -> `[B, D]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, side, _, _) = x.dims4()?;
        let (n, p) = (side / self.patch, self.patch);
        let patches = x.reshape((batch, n, p, n, p * 3))?.permute((0, 1, 3, 2, 4))?.reshape((batch, n * n, p * p * 3))?;
        let weight = self.patches.get().permute((0, 2, 3, 1))?.flatten_from(1)?.contiguous()?;
        let bias = self.patch_bias.as_ref().map(Parameter::get);
        let patches = ops::linear(&patches, &weight, bias.as_ref())?;
        let width = patches.dim(2)?;
        let class = self.class.get().reshape((1, 1, width))?.broadcast_as((batch, 1, width))?;
        let mut x = Tensor::cat(&[class.contiguous()?, patches], 1)?.broadcast_add(&self.positions(n)?)?;
        if let Some(norm) = &self.norm_before {
            x = norm.forward(&x)?;
        }
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        let class = self.norm.forward(&x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?)?;
        match &self.projection {
            Some(projection) => Ok(projection.forward(&class)?),
            None => Ok(class),
        }
    }

    /// Those of a map of n x n patches, bicubic between those that were trained: `[1 + n², D]`.
    fn positions(&self, n: usize) -> Result<Tensor> {
        let all = self.positions.get();
        let width = all.dims().last().copied().unwrap_or(0);
        let all = all.reshape(((), width))?;
        let trained = ((all.dim(0)? - 1) as f64).sqrt().round() as usize;
        if trained == n {
            return Ok(all);
        }
        let taps = Tensor::from_vec(cubic(trained, n), (n, trained), all.device())?;
        let map = all.narrow(0, 1, trained * trained)?.reshape((trained, trained * width))?;
        let rows =
            taps.matmul(&map)?.reshape((n, trained, width))?.transpose(0, 1)?.contiguous()?.reshape((trained, n * width))?;
        let map = taps.matmul(&rows)?.reshape((n, n, width))?.transpose(0, 1)?.contiguous()?.reshape((n * n, width))?;
        Ok(Tensor::cat(&[all.narrow(0, 0, 1)?, map], 0)?)
    }
}

/// Weights `[m, n]` of bicubic interpolation from n points to m, a = -0.75, between centres, edges repeated, not antialiased.
fn cubic(n: usize, m: usize) -> Vec<f32> {
    const A: f64 = -0.75;
    let weight = |d: f64| match d.abs() {
        d if d <= 1.0 => ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0,
        d if d < 2.0 => (((d - 5.0) * d + 8.0) * d - 4.0) * A,
        _ => 0.0,
    };
    let mut taps = vec![0f32; m * n];
    for o in 0..m {
        let at = (o as f64 + 0.5) * n as f64 / m as f64 - 0.5;
        for k in -1..=2 {
            let i = at.floor() + f64::from(k);
            taps[o * n + (i.max(0.0) as usize).min(n - 1)] += weight(at - i) as f32;
        }
    }
    taps
}

/// Pre-norm attention and a map of two layers; DINOv2 scales both answers by a vector each.
#[derive(Debug)]
struct Block {
    norms: [LayerNorm; 2],
    maps: [Linear; 4],
    wide: Linear,
    narrow: Linear,
    scales: Option<[Parameter; 2]>,
    activation: TextActivation,
    heads: usize,
}

impl Block {
    fn new(scope: &Scope, family: Family, names: &Names, config: &VisionConfig) -> Result<Self> {
        let (width, clip) = (config.hidden_size, family == Family::Clip);
        let inner = config.intermediate_size.filter(|_| clip).unwrap_or(config.mlp_ratio * width);
        let eps = config.layer_norm_eps.unwrap_or(if clip { 1e-5 } else { 1e-6 });
        let [a, b] = names.norms.map(|name| LayerNorm::new(&scope.pp(name), width, eps));
        let [q, k, v, out] = names.maps.map(|name| Linear::new(&scope.pp(name), width, width));
        let scale = |name: &str| scope.pp(name).param("lambda1", width, Init::ONES);
        let scales = (!clip).then(|| -> Result<_> { Ok([scale("layer_scale1")?, scale("layer_scale2")?]) }).transpose()?;
        Ok(Self {
            norms: [a?, b?],
            maps: [q?, k?, v?, out?],
            wide: Linear::new(&scope.pp("mlp.fc1"), width, inner)?,
            narrow: Linear::new(&scope.pp("mlp.fc2"), inner, width)?,
            scales,
            activation: config.hidden_act.unwrap_or(if clip { TextActivation::QuickGelu } else { TextActivation::Gelu }),
            heads: config.num_attention_heads,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = (x + self.scaled(0, self.attention(&self.norms[0].forward(x)?)?)?)?;
        let inner = self.activation.apply(&self.wide.forward(&self.norms[1].forward(&x)?)?)?;
        Ok((&x + self.scaled(1, self.narrow.forward(&inner)?)?)?)
    }

    fn attention(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let split =
            |map: &Linear| -> Result<Tensor> { Ok(map.forward(x)?.reshape((batch, tokens, self.heads, width / self.heads))?) };
        let [q, k, v, out] = &self.maps;
        let scale = ((width / self.heads) as f64).powf(-0.5);
        let y = ops::attention(&split(q)?, &split(k)?, &split(v)?, scale, None)?;
        Ok(out.forward(&y.flatten_from(2)?)?)
    }

    fn scaled(&self, which: usize, x: Tensor) -> Result<Tensor> {
        match &self.scales {
            Some(scales) => Ok(x.broadcast_mul(&scales[which].get())?),
            None => Ok(x),
        }
    }
}

/// A vision transformer as an extractor.
#[derive(Debug)]
pub struct VisionExtractor {
    network: Vision,
    transform: Transform,
    normalization: [[f32; 3]; 2],
    device: Device,
    identity: Identity,
}

impl VisionExtractor {
    /// From a folder with `config.json` and `model.safetensors` (or `pytorch_model.bin`): of CLIP, whole or its image tower, whose
    /// features are the projected ones where there is a projection; or of DINOv2, whose features are those of the class token.
    ///
    /// # Errors
    /// If a file is missing or damaged, or it is another network.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let (family, config, projection) = read_config(&folder.join("config.json"))?;
        let file = ["model.safetensors", "pytorch_model.bin"].map(|name| folder.join(name)).into_iter().find(|f| f.is_file());
        let file = file.ok_or_else(|| Error::file(folder, "there is no model.safetensors beside config.json"))?;
        let mut tensors = weights::load(&file, device)?.tensors;
        // A whole CLIP has a text tower as well, and old files the numbers of the positions.
        let ours =
            |name: &str| family == Family::Dinov2 || name.starts_with("vision_model.") || name == "visual_projection.weight";
        tensors.retain(|name, _| ours(name) && !name.ends_with(".position_ids") && name != "embeddings.mask_token");
        let projection = projection.filter(|_| tensors.contains_key("visual_projection.weight"));
        let store = ParamStore::new(0, device);
        let network = Vision::new(family, &config, projection, &store.root())?;
        store.load(&tensors, &file.display().to_string())?;
        store.freeze();
        let size = if family == Family::Clip { config.image_size } else { DINOV2_SIDE };
        let transform = Transform { size, crop: Crop::SmallestSide, filter: Resampling::Pillow(Filter::Bicubic) };
        let identity = Identity {
            network: if family == Family::Clip { "clip".into() } else { "dinov2".into() },
            weights_sha256: sha256_file(&file)?,
            resize: transform.to_string(),
            features: projection.unwrap_or(config.hidden_size),
        };
        Ok(Self { network, transform, normalization: family.normalization(), device: device.clone(), identity })
    }

    fn part(&self, images: &[RgbImage]) -> Result<Rows> {
        let (size, [means, deviations]) = (self.transform.size, self.normalization);
        let mut values = Vec::with_capacity(images.len() * size * size * 3);
        for image in images {
            let pixels = self.transform.apply(image)?.pixels;
            values.extend(pixels.iter().enumerate().map(|(i, v)| (f32::from(*v) / 255.0 - means[i % 3]) / deviations[i % 3]));
        }
        let x = Tensor::from_vec(values, (images.len(), size, size, 3), &self.device)?;
        Ok(Rows { features: self.network.forward(&x)?.flatten_all()?.to_vec1()?, ..Rows::default() })
    }
}

impl Extractor for VisionExtractor {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn classes(&self) -> usize {
        0
    }

    fn describe(&self, images: &[RgbImage]) -> Result<Rows> {
        in_parts(images, &self.device, |part| self.part(part))
    }
}

/// Family, sizes, and the width of the projection.
fn read_config(file: &Path) -> Result<(Family, VisionConfig, Option<usize>)> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::file(file, e))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::file(file, e))?;
    let kind = json["model_type"].as_str().unwrap_or_default();
    let family = match kind {
        "clip" | "clip_vision_model" => Family::Clip,
        "dinov2" => Family::Dinov2,
        _ => return Err(Error::file(file, format!("`model_type`: expected clip, clip_vision_model or dinov2, got `{kind}`"))),
    };
    let own = if kind == "clip" { json["vision_config"].clone() } else { json.clone() };
    let mut own = own;
    if family == Family::Clip {
        // What published files leave out, because it is the default there.
        for (key, default) in [
            ("hidden_size", 768),
            ("intermediate_size", 3072),
            ("num_hidden_layers", 12),
            ("num_attention_heads", 12),
            ("image_size", 224),
            ("patch_size", 32),
        ] {
            if own[key].is_null() {
                own[key] = default.into();
            }
        }
    }
    let projection = json["projection_dim"].as_u64().map(|n| n as usize).or(Some(512)).filter(|_| family == Family::Clip);
    let config = serde_json::from_value(own).map_err(|e| Error::file(file, e))?;
    Ok((family, config, projection))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_between_positions_sum_to_one_and_keep_what_is_there() {
        for (n, m) in [(37, 16), (4, 7), (5, 5)] {
            let taps = cubic(n, m);
            assert!(taps.chunks(n).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
        }
        let same = cubic(5, 5);
        assert!((0..25).all(|k| (same[k] - f32::from(u8::from(k / 5 == k % 5))).abs() < 1e-6));
    }
}
