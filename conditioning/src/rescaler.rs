//! An image-shaped condition brought to the size and width of the latents it is concatenated to.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::{layers::Conv2d, ops::Conv2dConfig, params::Init, params::Scope};

use crate::{Condition, Error, Result};

/// How pixels between pixels are found. None of them filters before shrinking, but for `Area`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The pixel whose area the output's corner falls into.
    Nearest,
    /// Linear in both directions, pixel centres at half integers.
    #[default]
    Bilinear,
    /// Cubic convolution with a = -0.75 (Keys 1981), the border repeated.
    Bicubic,
    /// The mean over all pixels that the output pixel touches.
    Area,
}

/// What a [`SpatialRescaler`] does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RescalerConfig {
    /// Resizes, one after the other.
    pub stages: usize,
    /// How each is done.
    pub method: Resize,
    /// Output size over input size of each, above 0; sizes are rounded down.
    pub multiplier: f64,
    /// Channels of the condition.
    pub in_channels: usize,
    /// Channels of the answer, by a 1×1 convolution; without it, none is made.
    pub out_channels: Option<usize>,
    /// Whether that convolution has a bias.
    pub bias: bool,
}

impl Default for RescalerConfig {
    /// One halving of an RGB image (Rombach et al. 2022).
    fn default() -> Self {
        Self { stages: 1, method: Resize::Bilinear, multiplier: 0.5, in_channels: 3, out_channels: None, bias: false }
    }
}

/// Resizes a condition and maps its channels (Rombach et al. 2022): parameters `channel_mapper.weight` `[out, in, 1, 1]` and
/// `channel_mapper.bias` `[out]`, where the configuration asks for them.
#[derive(Clone, Debug)]
pub struct SpatialRescaler {
    config: RescalerConfig,
    mapper: Option<Conv2d>,
}

impl SpatialRescaler {
    /// # Errors
    /// If the multiplier is not above 0 or a number of channels is 0.
    pub fn new(config: &RescalerConfig, scope: &Scope) -> Result<Self> {
        if !(config.multiplier > 0.0 && config.multiplier.is_finite()) {
            return Err(Error::Config(format!("rescaler: multiplier {}: expected a number above 0", config.multiplier)));
        }
        if config.in_channels == 0 || config.out_channels == Some(0) {
            return Err(Error::Config(format!(
                "rescaler: expected channels, got in_channels {} and out_channels {:?}",
                config.in_channels, config.out_channels
            )));
        }
        let mapper = config.out_channels.map(|out| {
            let (scope, dims, conv) = (scope.pp("channel_mapper"), [config.in_channels, out, 1], Conv2dConfig::same(1));
            match config.bias {
                true => Conv2d::with(&scope, dims, conv, Init::FanIn),
                false => Conv2d::without_bias(&scope, dims, conv, Init::FanIn),
            }
        });
        Ok(Self { config: config.clone(), mapper: mapper.transpose()? })
    }

    /// All stages and the channel mapper. x: `[B, in_channels, H, W]`, floating point; answers `[B, out_channels, H', W']`.
    ///
    /// # Errors
    /// If x has another shape, or is too small for so many stages.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.rank() != 4 || x.dim(1)? != self.config.in_channels {
            let expected = self.config.in_channels;
            return Err(Error::Config(format!("rescaler: expected [B, {expected}, H, W], got {:?}", x.dims())));
        }
        let mut x = x.clone();
        for _ in 0..self.config.stages {
            x = self.stage(&x)?;
        }
        let Some(mapper) = &self.mapper else { return Ok(x) };
        let y = mapper.forward(&x.permute((0, 2, 3, 1))?.contiguous()?)?;
        Ok(y.permute((0, 3, 1, 2))?.contiguous()?)
    }

    /// One resize, as every stage does it.
    ///
    /// # Errors
    /// As [`rescale`].
    pub fn stage(&self, x: &Tensor) -> Result<Tensor> {
        rescale(x, self.config.multiplier, self.config.method)
    }

    /// The same as [`SpatialRescaler::forward`], as the concatenated part of a [`Condition`].
    ///
    /// # Errors
    /// As [`SpatialRescaler::forward`].
    pub fn condition(&self, x: &Tensor) -> Result<Condition> {
        Ok(Condition { concat: Some(self.forward(x)?), ..Condition::default() })
    }
}

/// Resizes both sides by `multiplier`. x: `[B, C, H, W]`, floating point; answers `[B, C, floor(H m), floor(W m)]`.
/// Source coordinates are those of PyTorch's `interpolate` with a given scale factor and `align_corners` off: they step by 1/m,
/// whatever the rounded sizes are. Differentiable in x.
///
/// # Errors
/// If x has another rank or nothing is left of it.
pub fn rescale(x: &Tensor, multiplier: f64, method: Resize) -> Result<Tensor> {
    let &[b, c, h, w] = x.dims() else {
        return Err(Error::Config(format!("rescale: expected [B, C, H, W], got {:?}", x.dims())));
    };
    let scaled = |size: usize| (size as f64 * multiplier).floor() as usize;
    let (h_out, w_out) = (scaled(h), scaled(w));
    if h_out == 0 || w_out == 0 {
        return Err(Error::Config(format!("rescale: {h}x{w} by {multiplier}: nothing is left")));
    }
    let along = |n: usize, m: usize| -> Result<Tensor> {
        let weights = Axis { n, m, step: (1.0 / multiplier) as f32 }.weights(method);
        Ok(Tensor::from_vec(weights, (m, n), &Device::Cpu)?.to_device(x.device())?.to_dtype(x.dtype())?)
    };
    let (rows, columns) = (along(h, h_out)?, along(w, w_out)?);
    let y = x.reshape((b * c * h, w))?.matmul(&columns.t()?)?.reshape((b * c, h, w_out))?;
    Ok(rows.broadcast_matmul(&y)?.reshape((b, c, h_out, w_out))?)
}

/// One direction of a resize: `n` pixels to `m`, `step` input pixels per output pixel. Resizing is linear, so it is a matrix.
struct Axis {
    n: usize,
    m: usize,
    step: f32,
}

impl Axis {
    /// The matrix `[m, n]`, row-major.
    fn weights(&self, method: Resize) -> Vec<f32> {
        let mut matrix = vec![0f32; self.m * self.n];
        for (o, row) in matrix.chunks_exact_mut(self.n).enumerate() {
            match method {
                Resize::Nearest => row[self.clamp((o as f32 * self.step).floor())] = 1.0,
                Resize::Bilinear => self.linear(o, row),
                Resize::Bicubic => self.cubic(o, row),
                Resize::Area => self.area(o, row),
            }
        }
        matrix
    }

    /// The centre of output pixel `o`, in input pixels.
    fn centre(&self, o: usize) -> f32 {
        (o as f32 + 0.5) * self.step - 0.5
    }

    fn clamp(&self, i: f32) -> usize {
        (i.max(0.0) as usize).min(self.n - 1)
    }

    fn linear(&self, o: usize, row: &mut [f32]) {
        let x = self.centre(o).max(0.0);
        let (i, f) = (x.floor(), x - x.floor());
        row[self.clamp(i)] += 1.0 - f;
        row[self.clamp(i + 1.0)] += f;
    }

    fn cubic(&self, o: usize, row: &mut [f32]) {
        const A: f32 = -0.75;
        let near = |t: f32| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
        let far = |t: f32| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
        let x = self.centre(o);
        let (i, f) = (x.floor(), x - x.floor());
        for (offset, weight) in [(-1.0, far(f + 1.0)), (0.0, near(f)), (1.0, near(1.0 - f)), (2.0, far(2.0 - f))] {
            row[self.clamp(i + offset)] += weight;
        }
    }

    /// The mean over rows floor(o n/m) .. ceil((o + 1) n/m).
    fn area(&self, o: usize, row: &mut [f32]) {
        let (lo, hi) = (o * self.n / self.m, ((o + 1) * self.n).div_ceil(self.m));
        row[lo..hi].fill(1.0 / (hi - lo) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;
    use strata_nn::params::ParamStore;

    const METHODS: [Resize; 4] = [Resize::Nearest, Resize::Bilinear, Resize::Bicubic, Resize::Area];

    fn row(values: &[f32]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, (1, 1, 1, values.len()), &Device::Cpu)?.broadcast_as((1, 1, 2, values.len()))?)
    }

    #[test]
    fn a_constant_stays_constant_at_every_size() -> Result<()> {
        for (h, w, multiplier) in [(5, 7, 0.5), (4, 3, 2.0), (6, 5, 1.5), (1, 9, 3.0)] {
            for method in METHODS {
                let h = if multiplier < 1.0 { h.max(2) } else { h };
                let x = Tensor::full(0.75f32, (2, 3, h, w), &Device::Cpu)?;
                for v in rescale(&x, multiplier, method)?.flatten_all()?.to_vec1::<f32>()? {
                    assert!((v - 0.75).abs() < 1e-6, "{method:?} {h}x{w} by {multiplier}: {v}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn values_by_hand() -> Result<()> {
        let x = row(&[0.0, 1.0, 2.0, 3.0, 40.0])?;
        let half = |method| -> Result<Vec<f32>> { Ok(rescale(&x, 0.5, method)?.flatten_all()?.to_vec1::<f32>()?) };
        assert_eq!(half(Resize::Nearest)?, [0.0, 2.0]);
        assert_eq!(half(Resize::Bilinear)?, [0.5, 2.5], "step 2, not 5/2");
        let area = half(Resize::Area)?;
        assert!((area[0] - 1.0).abs() < 1e-6 && (area[1] - 15.0).abs() < 1e-5, "pixels 0..3 and 2..5: {area:?}");
        let cubic = half(Resize::Bicubic)?;
        assert!((cubic[0] - 0.40625).abs() < 1e-6, "-0.09375 (0 + 2) + 0.59375 (0 + 1): {cubic:?}");
        Ok(())
    }

    #[test]
    fn gradients_reach_the_image_and_the_mapper() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let config = RescalerConfig { stages: 2, out_channels: Some(4), bias: true, ..RescalerConfig::default() };
        let rescaler = SpatialRescaler::new(&config, &store.root())?;
        let x = Var::ones((2, 3, 9, 6), candle_core::DType::F32, &Device::Cpu)?;
        let y = rescaler.forward(x.as_tensor())?;
        assert_eq!(y.dims(), [2, 4, 2, 1]);
        let grads = y.sqr()?.sum_all()?.backward()?;
        assert!(grads.get(&x).is_some());
        for p in store.parameters() {
            assert!(grads.get(p.var()).is_some(), "{}", p.name());
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_done_is_said() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let config = RescalerConfig { multiplier: 0.0, ..RescalerConfig::default() };
        assert!(SpatialRescaler::new(&config, &store.root()).is_err());
        let rescaler = SpatialRescaler::new(&RescalerConfig::default(), &store.root())?;
        let small = Tensor::ones((1, 3, 1, 4), candle_core::DType::F32, &Device::Cpu)?;
        let message = rescaler.forward(&small).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("1x4 by 0.5"), "{message}");
        let two = Tensor::ones((1, 2, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
        assert!(rescaler.forward(&two).is_err());
        Ok(())
    }
}
