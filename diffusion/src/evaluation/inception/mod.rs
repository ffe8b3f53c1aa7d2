//! The Inception v3 network behind FID (Szegedy et al. 2016), as the published FID weights need it.
//!
//! Parameters are named as in those weights (`Mixed_5b.branch1x1.conv.weight`, ...). Three things differ from the classifier that
//! torchvision has under the same names: average pools divide by the real pixels alone, the last block pools the largest values
//! in place of means, and there are 1008 classes.

mod layers;
mod mixed;
mod resize;

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use strata_nn::ops::{PoolConfig, max_pool2d};

use crate::Result;
use layers::{Conv, Loader};
use mixed::Mixed;
pub use resize::{Resize, resize};

/// Width of the features.
pub const FEATURES: usize = 2048;
/// Width of the spatial features: the first [`SPATIAL_CHANNELS`] channels of a map of 17 x 17.
pub const SPATIAL: usize = SPATIAL_CHANNELS * 17 * 17;
/// Channels of the seventh block (`Mixed_6d`) that the spatial features take.
pub const SPATIAL_CHANNELS: usize = 7;
/// Classes of the published weights.
pub const CLASSES: usize = 1008;
/// Side that pictures are resized to.
pub const SIDE: usize = 299;
/// Smallest side that reaches the last block.
pub const MIN_SIDE: usize = 75;

const BN_EPS: f64 = 1e-3;

/// The network, batch norms folded into the convolutions before them.
#[derive(Debug)]
pub struct Inception {
    stem: [Conv; 5],
    mixed: Vec<Mixed>,
    /// `[classes, 2048]`; absent where the weights have none.
    head: Option<Tensor>,
    device: Device,
}

/// What the network makes of a batch.
#[derive(Debug)]
pub struct Described {
    /// `[B, 2048]`: the features of FID.
    pub pool: Tensor,
    /// `[B, 7 * h * w]`, channels last: what of `Mixed_6d`, the fourth block of 17 x 17, sFID looks at (Nash et al. 2021; ADM's
    /// evaluator takes the first seven channels, which are of its 1x1 branch). [`SPATIAL`] wide for pictures of 299 pixels.
    pub spatial: Tensor,
    /// `[B, 1008]`: without the head's bias, as the reference programs take them; absent where the weights have no head.
    pub logits: Option<Tensor>,
}

impl Inception {
    /// From a weight file of any kind.
    ///
    /// # Errors
    /// If it cannot be read, or is not of this network: every tensor that is missing or has another shape, at once.
    pub fn load(file: &Path, device: &Device) -> Result<Self> {
        Self::new(&strata_nn::weights::load(file, device)?.tensors, BN_EPS, &file.display().to_string())
    }

    /// From tensors by their published names; `origin` says where they are from, `eps` is what batch norms add to variances.
    ///
    /// # Errors
    /// As [`Inception::load`].
    pub fn new(tensors: &HashMap<String, Tensor>, eps: f64, origin: &str) -> Result<Self> {
        let mut loader = Loader::new(tensors, eps);
        let stem = [
            loader.conv("Conv2d_1a_3x3", [3, 32], [3, 3], 2, [0, 0]),
            loader.conv("Conv2d_2a_3x3", [32, 32], [3, 3], 1, [0, 0]),
            loader.conv("Conv2d_2b_3x3", [32, 64], [3, 3], 1, [1, 1]),
            loader.conv("Conv2d_3b_1x1", [64, 80], [1, 1], 1, [0, 0]),
            loader.conv("Conv2d_4a_3x3", [80, 192], [3, 3], 1, [0, 0]),
        ];
        let mixed = vec![
            Mixed::a(&mut loader, "Mixed_5b", 192, 32),
            Mixed::a(&mut loader, "Mixed_5c", 256, 64),
            Mixed::a(&mut loader, "Mixed_5d", 288, 64),
            Mixed::b(&mut loader, "Mixed_6a", 288),
            Mixed::c(&mut loader, "Mixed_6b", 128),
            Mixed::c(&mut loader, "Mixed_6c", 160),
            Mixed::c(&mut loader, "Mixed_6d", 160),
            Mixed::c(&mut loader, "Mixed_6e", 192),
            Mixed::d(&mut loader, "Mixed_7a", 768),
            Mixed::e(&mut loader, "Mixed_7b", 1280, false),
            Mixed::e(&mut loader, "Mixed_7c", 2048, true),
        ];
        let head = loader.head(FEATURES);
        let device = loader.finish(origin)?;
        let stem = stem.into_iter().collect::<Option<Vec<_>>>();
        let mixed = mixed.into_iter().collect::<Option<Vec<_>>>();
        let (Some(stem), Some(mixed)) = (stem.and_then(|s| s.try_into().ok()), mixed) else {
            return Err(layers::incomplete(origin));
        };
        Ok(Self { stem, mixed, head, device })
    }

    /// Where its weights live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the weights can classify.
    pub fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// The maps after the four blocks of the FID network, channels last; the last one before its mean. x: `[B, H, W, 3]` in
    /// [-1, 1], sides of 75 or more.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn blocks(&self, x: &Tensor) -> Result<[Tensor; 4]> {
        let [first, second, _, third, fourth] = self.maps(x)?;
        Ok([first, second, third, fourth])
    }

    /// The maps of [`Inception::blocks`], and that after `Mixed_6d` in the middle of them.
    fn maps(&self, x: &Tensor) -> Result<[Tensor; 5]> {
        let pool = |x: &Tensor| max_pool2d(x, PoolConfig::new(3, 2));
        let [a, b, c, d, e] = &self.stem;
        let first = pool(&c.forward(&b.forward(&a.forward(x)?)?)?)?;
        let second = pool(&e.forward(&d.forward(&first)?)?)?;
        let run = |x: &Tensor, blocks: &[Mixed]| blocks.iter().try_fold(x.clone(), |x, block| block.forward(&x));
        let middle = run(&second, &self.mixed[..7])?;
        let third = run(&middle, &self.mixed[7..8])?;
        let fourth = run(&third, &self.mixed[8..])?;
        Ok([first, second, middle, third, fourth])
    }

    /// Features, and logits where the weights have a head. x as for [`Inception::blocks`].
    ///
    /// # Errors
    /// If the shape is another.
    pub fn forward(&self, x: &Tensor) -> Result<Described> {
        let [_, _, middle, _, last] = self.maps(x)?;
        let spatial = middle.narrow(3, 0, SPATIAL_CHANNELS)?.contiguous()?.flatten_from(1)?;
        let pool = last.flatten(1, 2)?.mean(1)?;
        let logits = self.head.as_ref().map(|head| strata_nn::ops::linear(&pool, head, None)).transpose()?;
        Ok(Described { pool, spatial, logits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_at_once() {
        let some = HashMap::from([("Conv2d_1a_3x3.conv.weight".to_string(), zeros((32, 3, 5, 5)))]);
        let message = Inception::new(&some, BN_EPS, "some.pth").err().map(|e| e.to_string()).unwrap_or_default();
        for part in ["some.pth", "expected [32, 3, 3, 3], got [32, 3, 5, 5]", "missing `Conv2d_1a_3x3.bn.weight`", "more"] {
            assert!(message.contains(part), "{message}");
        }
        let name = "Conv2d_1a_3x3.bn.bias".to_string();
        #[allow(clippy::unwrap_used)]
        let broken = HashMap::from([(name, (zeros(32) / 0.0).unwrap())]);
        let message = Inception::new(&broken, BN_EPS, "x").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("`Conv2d_1a_3x3.bn.bias`: holds numbers that are not finite"), "{message}");
        let classifier = HashMap::from([("AuxLogits.fc.weight".to_string(), zeros((1000, 768)))]);
        let message = Inception::new(&classifier, BN_EPS, "x").err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("not the network of FID"), "{message}");
    }

    fn zeros(shape: impl Into<candle_core::Shape>) -> Tensor {
        #[allow(clippy::unwrap_used)]
        Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap()
    }
}
