//! Group norm and layer norm.

use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor};

use super::{
    device::{Arg, Buffer, Card, Launch, View},
    operator::{Operator, apply3, float},
    sources::{GROUP_NORM, LAYER_NORM},
    sums::{chunks, sum_axis},
};

/// Shapes and settings of one group norm; x is `[samples, rows, channels]`.
pub(in crate::ops) struct GroupNorm {
    pub shape: Vec<usize>,
    pub samples: usize,
    pub rows: usize,
    pub channels: usize,
    pub groups: usize,
    pub eps: f64,
    /// Whether weight and bias are `[samples, channels]` instead of `[channels]`.
    pub per_sample: bool,
    pub silu: bool,
}

/// Group norm of x; weight and bias are taken in float32.
pub(in crate::ops) fn group_norm(norm: GroupNorm, x: &Tensor, weight: &Tensor, bias: &Tensor) -> crate::Result<Tensor> {
    apply3(Grouped { norm, moments: OnceLock::new() }, x, &float(weight)?, &float(bias)?)
}

struct Grouped {
    norm: GroupNorm,
    /// Mean and 1/deviation of each channel's group, `[samples, 2, channels]`, kept for the backward pass.
    moments: OnceLock<Buffer>,
}

impl GroupNorm {
    fn columns(&self, x: View<'_>, kernel: &'static str, count: usize) -> Launch {
        Launch::columns(&GROUP_NORM, x.dtype(), kernel, [self.channels, count, self.samples])
    }

    fn elements(&self, x: View<'_>, kernel: &'static str) -> Launch {
        let mut launch = Launch::each(&GROUP_NORM, x.dtype(), kernel, self.rows * self.channels);
        launch.grid[1] = self.samples;
        launch
    }

    fn moments(&self, card: &Card, x: View<'_>) -> Result<Buffer> {
        let Self { samples, rows, channels, groups, .. } = *self;
        let (chunk, count) = chunks(rows);
        let mut partial = card.alloc(DType::F32, samples * count * 2 * channels)?;
        let args = vec![Arg::In(x), Arg::Out(&mut partial), Arg::Int(rows), Arg::Int(channels), Arg::Int(chunk)];
        card.launch(self.columns(x, "chunk_moments", count), args)?;
        let mut moments = card.alloc(DType::F32, samples * 2 * channels)?;
        let args = vec![
            Arg::In(partial.view()),
            Arg::Out(&mut moments),
            Arg::Int(rows),
            Arg::Int(channels),
            Arg::Int(groups),
            Arg::Int(chunk),
            Arg::Float(self.eps as f32),
        ];
        card.launch(Launch::blocks(&GROUP_NORM, x.dtype(), "group_moments", [groups, samples]), args)?;
        Ok(moments)
    }

    /// Per sample: sum over rows of dz, then of dz·xhat, where z is what the activation takes. `[samples, 2, channels]`.
    fn sums(&self, card: &Card, moments: View<'_>, [x, weight, bias]: [View<'_>; 3], dy: View<'_>) -> Result<Buffer> {
        let (chunk, count) = chunks(self.rows);
        let mut partial = card.alloc(DType::F32, self.samples * count * 2 * self.channels)?;
        let args = vec![
            Arg::In(x),
            Arg::In(dy),
            Arg::In(moments),
            Arg::In(weight),
            Arg::In(bias),
            Arg::Out(&mut partial),
            Arg::Int(self.rows),
            Arg::Int(self.channels),
            Arg::Int(chunk),
            Arg::Int(usize::from(self.per_sample)),
            Arg::Int(usize::from(self.silu)),
        ];
        card.launch(self.columns(x, "gradient_sums", count), args)?;
        sum_axis(card, partial.view(), [self.samples, count, 2 * self.channels], 1.0)
    }

    fn group_means(&self, card: &Card, sums: &Buffer, weight: View<'_>) -> Result<Buffer> {
        let mut means = card.alloc(DType::F32, sums.len())?;
        let args = vec![
            Arg::In(sums.view()),
            Arg::In(weight),
            Arg::Out(&mut means),
            Arg::Int(self.rows),
            Arg::Int(self.channels),
            Arg::Int(self.groups),
            Arg::Int(usize::from(self.per_sample)),
        ];
        card.launch(Launch::blocks(&GROUP_NORM, DType::F32, "group_means", [self.groups, self.samples]), args)?;
        Ok(means)
    }

    fn input_gradient(
        &self,
        card: &Card,
        moments: View<'_>,
        [x, weight, bias]: [View<'_>; 3],
        dy: View<'_>,
        sums: &Buffer,
    ) -> Result<Buffer> {
        let means = self.group_means(card, sums, weight)?;
        let mut dx = card.alloc(x.dtype(), x.len)?;
        let args = vec![
            Arg::In(x),
            Arg::In(dy),
            Arg::In(moments),
            Arg::In(weight),
            Arg::In(bias),
            Arg::In(means.view()),
            Arg::Out(&mut dx),
            Arg::Long(self.rows * self.channels),
            Arg::Int(self.channels),
            Arg::Int(usize::from(self.per_sample)),
            Arg::Int(usize::from(self.silu)),
        ];
        card.launch(self.elements(x, "group_norm_gradient"), args)?;
        Ok(dx)
    }

    /// Part `which` of sums `[samples, 2, channels]`, summed over the samples if they share their weights.
    fn parameter_gradient(&self, card: &Card, sums: &Buffer, which: usize) -> Result<Buffer> {
        let c = self.channels;
        let part = super::resample::columns_from(card, sums.view(), [2 * c, which * c, c])?;
        if self.per_sample { Ok(part) } else { sum_axis(card, part.view(), [1, self.samples, c], 1.0) }
    }
}

impl Operator<3> for Grouped {
    const NAME: &'static str = "group_norm";

    fn shape(&self) -> Vec<usize> {
        self.norm.shape.clone()
    }

    fn forward(&self, card: &Card, [x, weight, bias]: [View<'_>; 3]) -> Result<Buffer> {
        let norm = &self.norm;
        let moments = norm.moments(card, x)?;
        let mut y = card.alloc(x.dtype(), x.len)?;
        let args = vec![
            Arg::In(x),
            Arg::In(moments.view()),
            Arg::In(weight),
            Arg::In(bias),
            Arg::Out(&mut y),
            Arg::Long(norm.rows * norm.channels),
            Arg::Int(norm.channels),
            Arg::Int(usize::from(norm.per_sample)),
            Arg::Int(usize::from(norm.silu)),
        ];
        card.launch(norm.elements(x, "group_norm"), args)?;
        let _ = self.moments.set(moments);
        Ok(y)
    }

    fn backward(
        &self,
        card: &Card,
        args: [View<'_>; 3],
        wanted: [bool; 3],
        _: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 3]> {
        let norm = &self.norm;
        let moments = self.moments.get().ok_or_else(super::device::elsewhere)?.view();
        let sums = norm.sums(card, moments, args, dy)?;
        let dx = wanted[0].then(|| norm.input_gradient(card, moments, args, dy, &sums)).transpose()?;
        let dw = wanted[1].then(|| norm.parameter_gradient(card, &sums, 1)).transpose()?;
        let db = wanted[2].then(|| norm.parameter_gradient(card, &sums, 0)).transpose()?;
        Ok([dx, dw, db])
    }
}

/// Layer norm of x over its last dimension; weight and bias are taken in float32.
pub(in crate::ops) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> crate::Result<Tensor> {
    let width = weight.elem_count();
    let norm = LayerNorm { shape: x.dims().to_vec(), width, eps: eps as f32, moments: OnceLock::new() };
    apply3(norm, x, &float(weight)?, &float(bias)?)
}

struct LayerNorm {
    shape: Vec<usize>,
    width: usize,
    eps: f32,
    /// Mean and 1/deviation of each row, kept for the backward pass.
    moments: OnceLock<Buffer>,
}

impl LayerNorm {
    fn rows(&self, x: View<'_>, kernel: &'static str) -> Launch {
        Launch::blocks(&LAYER_NORM, x.dtype(), kernel, [x.len / self.width, 1])
    }

    /// The gradients of weight and bias, one after the other.
    fn parameter_gradients(&self, card: &Card, x: View<'_>, dy: View<'_>, moments: View<'_>) -> Result<Buffer> {
        let rows = x.len / self.width;
        let (chunk, count) = chunks(rows);
        let mut partial = card.alloc(DType::F32, count * 2 * self.width)?;
        let args = vec![
            Arg::In(x),
            Arg::In(dy),
            Arg::In(moments),
            Arg::Out(&mut partial),
            Arg::Long(rows),
            Arg::Int(self.width),
            Arg::Int(chunk),
        ];
        card.launch(Launch::columns(&LAYER_NORM, x.dtype(), "parameter_sums", [self.width, count, 1]), args)?;
        sum_axis(card, partial.view(), [1, count, 2 * self.width], 1.0)
    }
}

impl Operator<3> for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, card: &Card, [x, weight, bias]: [View<'_>; 3]) -> Result<Buffer> {
        let mut y = card.alloc(x.dtype(), x.len)?;
        let mut moments = card.alloc(DType::F32, x.len / self.width * 2)?;
        let args = vec![
            Arg::In(x),
            Arg::In(weight),
            Arg::In(bias),
            Arg::Out(&mut y),
            Arg::Out(&mut moments),
            Arg::Int(self.width),
            Arg::Float(self.eps),
        ];
        card.launch(self.rows(x, "layer_norm"), args)?;
        let _ = self.moments.set(moments);
        Ok(y)
    }

    fn backward(
        &self,
        card: &Card,
        [x, weight, _]: [View<'_>; 3],
        wanted: [bool; 3],
        _: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 3]> {
        let moments = self.moments.get().ok_or_else(super::device::elsewhere)?.view();
        let dx = wanted[0].then(|| {
            let mut dx = card.alloc(x.dtype(), x.len)?;
            let args = vec![Arg::In(x), Arg::In(dy), Arg::In(weight), Arg::In(moments), Arg::Out(&mut dx), Arg::Int(self.width)];
            card.launch(self.rows(x, "layer_norm_gradient"), args)?;
            Ok::<_, candle_core::Error>(dx)
        });
        if !wanted[1] && !wanted[2] {
            return Ok([dx.transpose()?, None, None]);
        }
        let both = self.parameter_gradients(card, x, dy, moments)?;
        let part = |i: usize| super::resample::columns_from(card, both.view(), [2 * self.width, i * self.width, self.width]);
        Ok([dx.transpose()?, Some(part(0)?), Some(part(1)?)])
    }
}
