//! The learned perceptual distance.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use strata_nn::{
    params::{Init, ParamStore, Parameter},
    weights,
};

use super::backbone::{Backbone, LpipsNet};
use crate::{Error, Result, coder::channels_last};

/// The linear heads of LPIPS 0.1 (Zhang et al. 2018, BSD-2-Clause), which fit torchvision's backbones: some kilobytes, so that a
/// backbone's file alone is enough. They lie among the golden cases, with their licence.
const HEADS: &[u8] = include_bytes!("../../../tests/golden/features/lpips_heads/lpips_v0.1.safetensors");

/// Added to the norm of a feature vector.
const EPS: f64 = 1e-10;

/// Learned Perceptual Image Patch Similarity (Zhang et al. 2018), version 0.1 with linear heads. Frozen: gradients reach the
/// pictures alone.
#[derive(Clone, Debug)]
pub struct Lpips {
    net: LpipsNet,
    backbone: Backbone,
    /// `[C]` each.
    heads: Vec<Parameter>,
    store: ParamStore,
}

/// Distances by feature.
#[derive(Clone, Debug)]
pub struct LayerDistances {
    /// `[B, h, w]` each, from the finest feature to the coarsest.
    pub maps: Vec<Tensor>,
}

impl LayerDistances {
    /// The mean over the map of each feature, `[B]` each.
    ///
    /// # Errors
    /// Those of candle.
    pub fn means(&self) -> Result<Vec<Tensor>> {
        self.maps.iter().map(|map| Ok(map.flatten_from(1)?.mean(1)?)).collect()
    }

    /// The distance: the sum of the means, `[B]`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn distance(&self) -> Result<Tensor> {
        sum(self.means()?)
    }

    /// The sum of the maps, each resized bilinearly (without aligned corners) to `height` x `width`: `[B, 1, height, width]`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn spatial(&self, height: usize, width: usize) -> Result<Tensor> {
        sum(self.maps.iter().map(|map| resize(map, height, width)).collect::<Result<Vec<_>>>()?)
    }
}

fn sum(parts: Vec<Tensor>) -> Result<Tensor> {
    let total = parts.into_iter().map(Ok).reduce(|a, b| a? + b?);
    Ok(total.unwrap_or_else(|| Err(candle_core::Error::Msg("no features".into())))?)
}

impl Lpips {
    /// The network with the built-in heads and a backbone that is yet to be loaded.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(net: LpipsNet, device: &Device) -> Result<Self> {
        let store = ParamStore::new(0, device);
        let backbone = Backbone::new(net, &store.root())?;
        let head = |(k, c): (usize, &usize)| Ok(store.root().pp("heads").pp(k).param("weight", *c, Init::ZEROS)?);
        let heads = net.channels().iter().enumerate().map(head).collect::<Result<Vec<_>>>()?;
        store.freeze();
        let built_in = built_in_heads(net, device)?;
        for (head, value) in heads.iter().zip(&built_in) {
            head.var().set(value)?;
        }
        Ok(Self { net, backbone, heads, store })
    }

    /// Reads the backbone, and the heads where the file has some, from a weight file: one of torchvision (`features.0.weight`),
    /// of the lpips package (`net.slice1.0.weight`, `lin0.model.1.weight`), or of an autoencoder that was trained with it (the
    /// same below `loss.perceptual_loss.`).
    ///
    /// # Errors
    /// If the file cannot be read, or lacks tensors of the network (all are listed).
    pub fn load(net: LpipsNet, path: &Path, device: &Device) -> Result<Self> {
        let lpips = Self::new(net, device)?;
        lpips.import(&weights::load(path, device)?.tensors, &path.display().to_string())?;
        Ok(lpips)
    }

    /// The same from tensors; `origin` says in messages where they are from.
    ///
    /// # Errors
    /// One error that lists every missing and mis-shaped tensor; then nothing is changed.
    pub fn import(&self, tensors: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
        // A copy, since a variable cannot be set to itself.
        let kept = |head: &Parameter| Ok((head.name().to_string(), head.var().as_detached_tensor().copy()?));
        let mut ours = self.heads.iter().map(kept).collect::<Result<HashMap<String, Tensor>>>()?;
        for (name, t) in tensors {
            if let Some(name) = ours_of(name) {
                let t = if name.starts_with("heads.") { t.flatten_all()? } else { t.clone() };
                ours.insert(name, t);
            }
        }
        // Layers behind the last feature, and what else a file holds, are not the network's.
        let known: BTreeMap<String, Parameter> = self.store.parameters().into_iter().map(|p| (p.name().to_string(), p)).collect();
        ours.retain(|name, _| known.contains_key(name));
        self.store.load(&ours, &format!("{origin} (the {} network of LPIPS)", self.net.name()))?;
        Ok(())
    }

    /// Which network it is.
    pub fn net(&self) -> LpipsNet {
        self.net
    }

    /// Distances of two batches of pictures, `[B, 3, H, W]` in [-1, 1], feature by feature.
    ///
    /// # Errors
    /// If the shapes differ, or the pictures are too small for the network.
    pub fn compare(&self, a: &Tensor, b: &Tensor) -> Result<LayerDistances> {
        if a.dims() != b.dims() || a.rank() != 4 || a.dim(1)? != 3 {
            return Err(Error::input("pictures to compare", "two of one shape [B, 3, H, W]", (a.dims(), b.dims())));
        }
        let features = |x: &Tensor| self.backbone.features(&channels_last(&normalised(x)?)?);
        let (a, b) = (features(a)?, features(b)?);
        let maps = a.iter().zip(&b).zip(&self.heads).map(|((a, b), head)| {
            let squares = (unit(a)? - unit(b)?)?.sqr()?;
            let (batch, h, w, c) = squares.dims4()?;
            Ok(squares.reshape((batch * h * w, c))?.matmul(&head.get().unsqueeze(1)?)?.reshape((batch, h, w))?)
        });
        Ok(LayerDistances { maps: maps.collect::<Result<_>>()? })
    }

    /// The distance of each pair of pictures, `[B]`.
    ///
    /// # Errors
    /// As [`Self::compare`].
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.compare(a, b)?.distance()
    }
}

/// Our name of a tensor in a file.
fn ours_of(theirs: &str) -> Option<String> {
    let name = theirs.rsplit_once("perceptual_loss.").map_or(theirs, |(_, name)| name);
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["features", ..] => Some(name.to_string()),
        ["net", slice, rest @ ..] if slice.starts_with("slice") => Some(format!("features.{}", rest.join("."))),
        [lin, "model", "1", "weight"] => {
            lin.strip_prefix("lin").and_then(|k| k.parse::<usize>().ok()).map(|k| format!("heads.{k}.weight"))
        }
        ["lins", k, "model", "1", "weight"] => Some(format!("heads.{k}.weight")),
        _ => None,
    }
}

fn built_in_heads(net: LpipsNet, device: &Device) -> Result<Vec<Tensor>> {
    let damaged = |e: safetensors::SafeTensorError| Error::file("the built-in heads of LPIPS", e);
    let file = SafeTensors::deserialize(HEADS).map_err(damaged)?;
    let head = |k: usize| {
        let view = file.tensor(&format!("{}.lin{k}.model.1.weight", net.name())).map_err(damaged)?;
        Ok(Tensor::from_raw_buffer(view.data(), DType::F32, view.shape(), device)?.flatten_all()?)
    };
    (0..net.channels().len()).map(head).collect()
}

/// From [-1, 1] to what the backbones were trained on.
fn normalised(x: &Tensor) -> Result<Tensor> {
    let row = |values: [f32; 3]| Tensor::new(&values, x.device())?.reshape((1, 3, 1, 1));
    Ok(x.broadcast_sub(&row([-0.030, -0.088, -0.188])?)?.broadcast_div(&row([0.458, 0.448, 0.450])?)?)
}

/// Each pixel's features, scaled to length 1.
fn unit(f: &Tensor) -> Result<Tensor> {
    let squares = f.sqr()?.sum_keepdim(3)?;
    // The root of 0 has no gradient; a pixel without features is 0 whatever the root is.
    let root = squares.gt(0.0)?.where_cond(&squares, &squares.ones_like()?)?.sqrt()?;
    let norm = squares.gt(0.0)?.where_cond(&root, &squares.zeros_like()?)?;
    Ok(f.broadcast_div(&(norm + EPS)?)?)
}

/// Bilinear resizing of `[B, h, w]` to `[B, 1, height, width]` as two matrix products.
fn resize(map: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, h, w) = map.dims3()?;
    let rows = interpolation(h, height, map.device())?;
    let columns = interpolation(w, width, map.device())?.t()?.contiguous()?;
    let x = map.broadcast_matmul(&columns)?;
    Ok(rows.broadcast_matmul(&x)?.unsqueeze(1)?)
}

/// `[outputs, inputs]`: the weights of linear interpolation, corners not aligned.
fn interpolation(inputs: usize, outputs: usize, device: &Device) -> Result<Tensor> {
    let mut weights = vec![0f32; inputs * outputs];
    for o in 0..outputs {
        let at = ((o as f64 + 0.5) * inputs as f64 / outputs as f64 - 0.5).max(0.0);
        let low = (at as usize).min(inputs - 1);
        let high = (low + 1).min(inputs - 1);
        let share = (at - low as f64) as f32;
        weights[o * inputs + low] += 1.0 - share;
        weights[o * inputs + high] += share;
    }
    Ok(Tensor::from_vec(weights, (outputs, inputs), device)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_kinds_are_understood() {
        let cases = [
            ("features.0.weight", "features.0.weight"),
            ("net.slice2.7.bias", "features.7.bias"),
            ("loss.perceptual_loss.net.slice1.2.weight", "features.2.weight"),
            ("lin3.model.1.weight", "heads.3.weight"),
            ("loss.perceptual_loss.lin0.model.1.weight", "heads.0.weight"),
            ("lins.4.model.1.weight", "heads.4.weight"),
        ];
        for (theirs, ours) in cases {
            assert_eq!(ours_of(theirs).as_deref(), Some(ours));
        }
        assert_eq!(ours_of("classifier.0.weight"), None);
        let lpips = Lpips::new(LpipsNet::Squeeze, &Device::Cpu).unwrap();
        let message = lpips.import(&HashMap::new(), "x.safetensors").unwrap_err().to_string();
        assert!(message.contains("missing `features.0.weight`") && message.contains("squeeze"), "{message}");
    }

    #[test]
    fn equal_pictures_have_no_distance_and_flat_ones_a_gradient() {
        for net in [LpipsNet::Alex, LpipsNet::Vgg, LpipsNet::Squeeze] {
            let lpips = Lpips::new(net, &Device::Cpu).unwrap();
            let flat = candle_core::Var::zeros((1, 3, 64, 64), DType::F32, &Device::Cpu).unwrap();
            let other = (flat.as_detached_tensor() + 0.3).unwrap();
            assert_eq!(lpips.distance(&other, &other).unwrap().to_vec1::<f32>().unwrap(), [0.0]);
            let distance = lpips.distance(flat.as_tensor(), &other).unwrap();
            let grads = distance.sum_all().unwrap().backward().unwrap();
            let sum = grads.get(&flat).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(sum.is_finite() && distance.to_vec1::<f32>().unwrap()[0] >= 0.0);
        }
    }
}
