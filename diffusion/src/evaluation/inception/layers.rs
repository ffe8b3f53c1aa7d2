//! Convolution, batch norm and ReLU as one step, and how they are found in a weight file.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use strata_nn::ops::{Conv2dConfig, Padding, conv2d, relu};

use crate::{Error, Result};

/// `relu(batch norm(convolution))`.
#[derive(Debug)]
pub(super) struct Conv {
    weight: Tensor,
    bias: Tensor,
    config: Conv2dConfig,
}

impl Conv {
    /// x: `[B, H, W, C_in]` -> `[B, H', W', C_out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(relu(&conv2d(x, &self.weight, Some(&self.bias), self.config)?)?)
    }

    /// The same of the 3×3 averages of x, which the convolution, 1×1, is taken before: both are linear, and it has fewer
    /// channels to average.
    pub(super) fn forward_averaged(&self, x: &Tensor) -> Result<Tensor> {
        let y = average3(&conv2d(x, &self.weight, None, self.config)?)?;
        Ok(relu(&y.broadcast_add(&self.bias)?)?)
    }
}

/// Means over 3×3 windows, stride 1, of the pixels that are there.
fn average3(x: &Tensor) -> Result<Tensor> {
    let sum3 = |x: &Tensor, dim: usize| -> Result<Tensor> {
        let n = x.dim(dim)?;
        let padded = x.pad_with_zeros(dim, 1, 1)?;
        let part = |first: usize| padded.narrow(dim, first, n);
        Ok(((part(0)? + part(1)?)? + part(2)?)?)
    };
    let (_, h, w, _) = x.dims4()?;
    let counts = |n: usize| (0..n).map(move |i| 3.0 - f32::from(u8::from(i == 0)) - f32::from(u8::from(i + 1 == n)));
    let shares: Vec<f32> = counts(h).flat_map(|rows| counts(w).map(move |columns| 1.0 / (rows * columns))).collect();
    let shares = Tensor::from_vec(shares, (1, h, w, 1), x.device())?;
    Ok(sum3(&sum3(x, 1)?, 2)?.broadcast_mul(&shares)?)
}

/// Takes tensors by name and remembers what is wrong with them.
pub(super) struct Loader<'a> {
    tensors: &'a HashMap<String, Tensor>,
    eps: f64,
    problems: Vec<String>,
    device: Device,
}

impl<'a> Loader<'a> {
    pub(super) fn new(tensors: &'a HashMap<String, Tensor>, eps: f64) -> Self {
        let device = tensors.values().next().map_or(Device::Cpu, |t| t.device().clone());
        let mut problems = Vec::new();
        if tensors.keys().any(|name| name.starts_with("AuxLogits.")) {
            problems.push("`AuxLogits` is there: this is a classifier's Inception v3, not the network of FID".to_string());
        }
        Self { tensors, eps, problems, device }
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Option<Tensor> {
        match self.tensors.get(name) {
            None => self.problems.push(format!("missing `{name}` {shape:?}")),
            Some(t) if t.dims() != shape => self.problems.push(format!("`{name}`: expected {shape:?}, got {:?}", t.dims())),
            // A rectifier takes what is not a number for 0, and nothing would show it.
            Some(t) if !is_finite(t) => self.problems.push(format!("`{name}`: holds numbers that are not finite")),
            Some(t) => return Some(t.clone()),
        }
        None
    }

    /// The convolution `name`, `[c_in, c_out]`, with its batch norm.
    pub(super) fn conv(
        &mut self,
        name: &str,
        [c_in, c_out]: [usize; 2],
        [kh, kw]: [usize; 2],
        stride: usize,
        [py, px]: [usize; 2],
    ) -> Option<Conv> {
        let weight = self.take(&format!("{name}.conv.weight"), &[c_out, c_in, kh, kw]);
        let [gain, shift, mean, variance] =
            ["weight", "bias", "running_mean", "running_var"].map(|part| self.take(&format!("{name}.bn.{part}"), &[c_out]));
        let padding = Padding { top: py, bottom: py, left: px, right: px };
        let folded = fold(&weight?, [&gain?, &shift?, &mean?, &variance?], self.eps);
        match folded {
            Ok((weight, bias)) => Some(Conv { weight, bias, config: Conv2dConfig { stride, padding } }),
            Err(e) => {
                self.problems.push(format!("`{name}`: {e}"));
                None
            }
        }
    }

    /// The weight of the classifier, where there is one of `n_in` features.
    pub(super) fn head(&mut self, n_in: usize) -> Option<Tensor> {
        let weight = self.tensors.get("fc.weight")?;
        if weight.dims() == [super::CLASSES, n_in] {
            return weight.to_dtype(DType::F32).ok();
        }
        let expected = [super::CLASSES, n_in];
        self.problems.push(format!("`fc.weight`: expected {expected:?}, got {:?}", weight.dims()));
        None
    }

    /// Where the tensors live.
    ///
    /// # Errors
    /// All problems at once.
    pub(super) fn finish(self, origin: &str) -> Result<Device> {
        match self.problems.is_empty() {
            true => Ok(self.device),
            false => Err(strata_nn::Error::Weights { origin: origin.to_string(), problems: self.problems }.into()),
        }
    }
}

fn is_finite(t: &Tensor) -> bool {
    let sum = t.to_dtype(DType::F64).and_then(|t| t.sum_all()?.to_scalar::<f64>());
    sum.is_ok_and(f64::is_finite)
}

/// What cannot be: every tensor was found and yet a layer is missing.
pub(super) fn incomplete(origin: &str) -> Error {
    strata_nn::Error::Weights { origin: origin.to_string(), problems: vec!["a layer could not be made".into()] }.into()
}

/// Weight and bias of the convolution that does what a convolution and its batch norm do; worked out in float64.
fn fold(weight: &Tensor, [gain, shift, mean, variance]: [&Tensor; 4], eps: f64) -> Result<(Tensor, Tensor)> {
    let wide = |t: &Tensor| t.to_dtype(DType::F64);
    let scale = (wide(gain)? / (wide(variance)? + eps)?.sqrt()?)?;
    let bias = (wide(shift)? - (wide(mean)? * &scale)?)?;
    let weight = wide(weight)?.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?;
    Ok((weight.to_dtype(DType::F32)?, bias.to_dtype(DType::F32)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn averages_count_the_pixels_that_are_there() {
        let x = Tensor::new(&[[1f32, 2., 3.], [4., 5., 6.]], &Device::Cpu).unwrap().reshape((1, 2, 3, 1)).unwrap();
        let y = average3(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(y.iter().zip([3., 3.5, 4., 3., 3.5, 4.]).all(|(a, b)| (a - b).abs() < 1e-6), "{y:?}");
    }
}
