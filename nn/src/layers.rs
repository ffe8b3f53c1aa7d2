//! Layers: parameters plus an operator. Parameter names and layouts are those of the checkpoints.

use candle_core::Tensor;

use crate::{
    Error, Result,
    ops::{self, Activation, Conv2dConfig},
    params::{Init, Parameter, Scope},
};

/// Convolution with `weight` `[C_out, C_in, k, k]` and `bias` `[C_out]`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Parameter,
    bias: Option<Parameter>,
    config: Conv2dConfig,
}

impl Conv2d {
    /// Stride 1 and padding (k - 1)/2, initialised as PyTorch does.
    pub fn new(scope: &Scope, c_in: usize, c_out: usize, kernel: usize) -> Result<Self> {
        Self::with(scope, [c_in, c_out, kernel], Conv2dConfig::same(kernel), Init::FanIn)
    }

    /// The same, all zeros at the beginning.
    pub fn zeros(scope: &Scope, c_in: usize, c_out: usize, kernel: usize) -> Result<Self> {
        Self::with(scope, [c_in, c_out, kernel], Conv2dConfig::same(kernel), Init::ZEROS)
    }

    /// Any stride, padding and initialiser; `[c_in, c_out, kernel]`. The bias begins as PyTorch's, or at zero with any other
    /// initialiser than [`Init::FanIn`].
    pub fn with(scope: &Scope, [c_in, c_out, kernel]: [usize; 3], config: Conv2dConfig, init: Init) -> Result<Self> {
        let mut layer = Self::without_bias(scope, [c_in, c_out, kernel], config, init)?;
        layer.bias = Some(scope.param("bias", c_out, bias_init(init, c_in * kernel * kernel))?);
        Ok(layer)
    }

    /// As [`Conv2d::with`], without a bias.
    pub fn without_bias(scope: &Scope, [c_in, c_out, kernel]: [usize; 3], config: Conv2dConfig, init: Init) -> Result<Self> {
        Ok(Self { weight: scope.param("weight", (c_out, c_in, kernel, kernel), init)?, bias: None, config })
    }

    /// x: `[B, H, W, C_in]` -> `[B, H', W', C_out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Parameter::get);
        ops::conv2d(x, &self.weight.get(), bias.as_ref(), self.config)
    }

    /// The same, plus `shift` `[B, C_out]` at every position of a sample.
    pub fn forward_shifted(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        let bias = match &self.bias {
            Some(bias) => shift.broadcast_add(&bias.get().to_dtype(shift.dtype())?)?,
            None => shift.clone(),
        };
        ops::conv2d(x, &self.weight.get(), Some(&bias), self.config)
    }

    /// The weight, for losses that look at the last layer.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }
}

/// Affine map with `weight` `[n_out, n_in]` and `bias` `[n_out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// Initialised as PyTorch does.
    pub fn new(scope: &Scope, n_in: usize, n_out: usize) -> Result<Self> {
        Self::with(scope, n_in, n_out, Init::FanIn)
    }

    /// Any initialiser; the bias as in [`Conv2d::with`].
    pub fn with(scope: &Scope, n_in: usize, n_out: usize, init: Init) -> Result<Self> {
        let mut layer = Self::without_bias(scope, n_in, n_out, init)?;
        layer.bias = Some(scope.param("bias", n_out, bias_init(init, n_in))?);
        Ok(layer)
    }

    /// As [`Linear::with`], without a bias.
    pub fn without_bias(scope: &Scope, n_in: usize, n_out: usize, init: Init) -> Result<Self> {
        Ok(Self { weight: scope.param("weight", (n_out, n_in), init)?, bias: None })
    }

    /// A 1×1 convolution of a checkpoint, whose weight is stored as `[n_out, n_in, 1]` (`trailing` 1) or `[n_out, n_in, 1, 1]`
    /// (`trailing` 2) but is a matrix product all the same.
    pub fn pointwise(scope: &Scope, n_in: usize, n_out: usize, trailing: usize, init: Init) -> Result<Self> {
        let dims: Vec<usize> = [n_out, n_in].into_iter().chain(std::iter::repeat_n(1, trailing)).collect();
        let weight = scope.param("weight", dims, init)?;
        Ok(Self { weight, bias: Some(scope.param("bias", n_out, bias_init(init, n_in))?) })
    }

    /// x: `[..., n_in]` -> `[..., n_out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.get().flatten_from(1)?, self.bias.as_ref().map(Parameter::get));
        ops::linear(x, &weight, bias.as_ref())
    }
}

fn bias_init(weight: Init, fan_in: usize) -> Init {
    match weight {
        Init::FanIn => Init::Uniform { bound: 1.0 / (fan_in as f64).sqrt() },
        _ => Init::ZEROS,
    }
}

/// Group norm with `weight` and `bias` `[C]`.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Parameter,
    bias: Parameter,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// # Errors
    /// If `channels` is not divisible by `groups`.
    pub fn new(scope: &Scope, channels: usize, groups: usize, eps: f64) -> Result<Self> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::Config(format!(
                "group norm `{}`: {channels} channels cannot be divided into {groups} groups",
                scope.path()
            )));
        }
        Ok(Self {
            weight: scope.param("weight", channels, Init::ONES)?,
            bias: scope.param("bias", channels, Init::ZEROS)?,
            groups,
            eps,
        })
    }

    /// The factor of each channel, `[C]`.
    pub fn weight(&self) -> &Parameter {
        &self.weight
    }

    /// What is added to each channel, `[C]`.
    pub fn bias(&self) -> &Parameter {
        &self.bias
    }

    /// Number of groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// x: `[B, ..., C]`, same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight.get(), &self.bias.get(), self.groups, self.eps, None, Activation::Identity)
    }

    /// The same, followed by SiLU.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight.get(), &self.bias.get(), self.groups, self.eps, None, Activation::Silu)
    }

    /// `silu(norm(x) · (1 + scale) + shift)`; scale and shift: `[B, C]`.
    pub fn forward_scale_shift_silu(&self, x: &Tensor, scale: &Tensor, shift: &Tensor) -> Result<Tensor> {
        ops::group_norm(x, &self.weight.get(), &self.bias.get(), self.groups, self.eps, Some((scale, shift)), Activation::Silu)
    }
}

/// Layer norm over the last dimension with `weight` and `bias` `[C]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f64,
}

impl LayerNorm {
    /// Weight 1, bias 0.
    pub fn new(scope: &Scope, channels: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: scope.param("weight", channels, Init::ONES)?, bias: scope.param("bias", channels, Init::ZEROS)?, eps })
    }

    /// x: `[..., C]`, same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight.get(), &self.bias.get(), self.eps)
    }
}

/// A table `weight` `[count, width]` of vectors.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Parameter,
}

impl Embedding {
    /// N(0, 1) at the beginning, as PyTorch does.
    pub fn new(scope: &Scope, count: usize, width: usize) -> Result<Self> {
        Ok(Self { weight: scope.param("weight", (count, width), Init::Normal { std: 1.0 })? })
    }

    /// ids: `[...]` u32 -> `[..., width]`.
    ///
    /// # Errors
    /// If an id is outside the table.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let weight = self.weight.get();
        let mut dims = ids.dims().to_vec();
        dims.push(weight.dim(1)?);
        Ok(weight.index_select(&ids.flatten_all()?, 0)?.reshape(dims)?)
    }
}
