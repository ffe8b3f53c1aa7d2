//! Convolution: through cuDNN, or (without it, and emulated) as products of windows, some images at a time.

use candle_core::{DType, Result, Tensor};

#[cfg(feature = "cudnn")]
use super::cudnn::Direction;
use super::{
    device::{Arg, Buffer, Card, Launch, View},
    gemm::{Gemm, Side},
    linear,
    operator::{Operator, apply2, apply3, float},
    sources::CONVOLUTION,
    sums::column_sums,
};
use crate::ops::cpu::{convolution::Geometry, linear::Sizes};

/// Elements of the windows that exist at a time; one image's at least. Emulated, so few that the tests see several rounds.
const WINDOWS: usize = if cfg!(feature = "emulate") { 20_000 } else { 1 << 26 };

/// Convolution of shapes that are known to agree; weight and bias are taken in float32.
pub(in crate::ops) fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, geometry: Geometry) -> crate::Result<Tensor> {
    match bias {
        Some(bias) => apply3(Convolution(geometry), x, &float(weight)?, &float(bias)?),
        None => apply2(Convolution(geometry), x, &float(weight)?),
    }
}

struct Convolution(Geometry);

/// A float32 weight `[c_out, c_in, area]` as `[c_out, area, c_in]` of another type.
pub(super) fn weight_in(card: &Card, weight: View<'_>, dtype: DType, c_in: usize, area: usize) -> Result<Buffer> {
    let mut y = card.alloc(dtype, weight.len)?;
    let args = vec![Arg::In(weight), Arg::Out(&mut y), Arg::Long(weight.len), Arg::Int(c_in), Arg::Int(area)];
    card.launch(Launch::each(&CONVOLUTION, dtype, "weight_in", weight.len), args)?;
    Ok(y)
}

/// A gradient `[c_out, area, c_in]` as `[c_out, c_in, area]` in float32.
fn weight_out(card: &Card, gradient: View<'_>, c_in: usize, area: usize) -> Result<Buffer> {
    let mut y = card.alloc(DType::F32, gradient.len)?;
    let args = vec![Arg::In(gradient), Arg::Out(&mut y), Arg::Long(gradient.len), Arg::Int(c_in), Arg::Int(area)];
    card.launch(Launch::each(&CONVOLUTION, gradient.dtype(), "weight_out", gradient.len), args)?;
    Ok(y)
}

/// Adds a float32 bias to each row of y.
pub(super) fn add_bias(card: &Card, y: &mut Buffer, dtype: DType, bias: View<'_>) -> Result<()> {
    let n = y.len();
    let args = vec![Arg::Out(y), Arg::In(bias), Arg::Long(n), Arg::Int(bias.len)];
    card.launch(Launch::each(&CONVOLUTION, dtype, "add_bias", n), args)
}

impl Convolution {
    /// A 1×1 convolution without stride or padding as an affine map.
    fn as_linear(&self) -> Option<Sizes> {
        let Geometry { input: [b, h, w, _], output, weight: [n_out, n_in, kh, kw], stride, top_left } = self.0;
        let pointwise = [kh, kw, stride] == [1, 1, 1] && top_left == [0, 0] && output == [h, w];
        pointwise.then_some(Sizes { rows: b * h * w, n_in, n_out })
    }

    fn area(&self) -> usize {
        self.0.weight[2] * self.0.weight[3]
    }

    /// Width of a window.
    fn window(&self) -> usize {
        self.area() * self.0.weight[1]
    }

    fn pixels(&self) -> usize {
        self.0.output[0] * self.0.output[1]
    }

    fn forward(&self, card: &Card, x: View<'_>, weight: View<'_>, bias: Option<View<'_>>) -> Result<Buffer> {
        if let Some(sizes) = self.as_linear() {
            return linear::forward(card, sizes, x, weight, bias);
        }
        let weight = weight_in(card, weight, x.dtype(), self.0.weight[1], self.area())?;
        let mut y = self.product(card, x, weight.view())?;
        if let Some(bias) = bias {
            add_bias(card, &mut y, x.dtype(), bias)?;
        }
        Ok(y)
    }

    fn gradients(&self, card: &Card, [x, w]: [View<'_>; 2], wanted: [bool; 2], dy: View<'_>) -> Result<[Option<Buffer>; 2]> {
        if let Some(sizes) = self.as_linear() {
            let dx = wanted[0].then(|| linear::input_gradient(card, sizes, dy, w)).transpose()?;
            return Ok([dx, wanted[1].then(|| linear::weight_gradient(card, sizes, x, dy)).transpose()?]);
        }
        let [_, c_in, ..] = self.0.weight;
        let dx = wanted[0].then(|| {
            let weight = weight_in(card, w, dy.dtype(), c_in, self.area())?;
            self.input_gradient(card, dy, weight.view())
        });
        let dw = wanted[1].then(|| weight_out(card, self.weight_gradient(card, x, dy)?.view(), c_in, self.area()));
        Ok([dx.transpose()?, dw.transpose()?])
    }

    /// y of x and the weight `[c_out, area, c_in]`.
    fn product(&self, card: &Card, x: View<'_>, weight: View<'_>) -> Result<Buffer> {
        #[cfg(feature = "cudnn")]
        if let Some(y) = self.through_cudnn(card, Direction::Forward, x, weight)? {
            return Ok(y);
        }
        let (n, k, c_out) = (self.pixels(), self.window(), self.0.weight[0]);
        let mut y = card.alloc(x.dtype(), self.0.input[0] * n * c_out)?;
        self.by_images(card, x, |first, images, windows| {
            let product = Gemm::new([images * n, c_out, k], Side::rows(k), Side::rows(k).t());
            card.gemm(&product, windows.view(), weight, &mut y, first * n * c_out)
        })?;
        Ok(y)
    }

    /// The weight's gradient `[c_out, area, c_in]`.
    fn weight_gradient(&self, card: &Card, x: View<'_>, dy: View<'_>) -> Result<Buffer> {
        #[cfg(feature = "cudnn")]
        if let Some(dw) = self.through_cudnn(card, Direction::WeightGradient, x, dy)? {
            return Ok(dw);
        }
        let (n, k, c_out) = (self.pixels(), self.window(), self.0.weight[0]);
        let mut dw = card.alloc(DType::F32, c_out * k)?;
        self.by_images(card, x, |first, images, windows| {
            let dy = dy.part(first * n * c_out, images * n * c_out);
            let product = Gemm::new([c_out, k, images * n], Side::rows(c_out).t(), Side::rows(k));
            card.gemm(&product.added(first > 0), dy, windows.view(), &mut dw, 0)
        })?;
        Ok(dw)
    }

    /// The input's gradient from that of the output and the weight `[c_out, area, c_in]`.
    fn input_gradient(&self, card: &Card, dy: View<'_>, weight: View<'_>) -> Result<Buffer> {
        #[cfg(feature = "cudnn")]
        if let Some(dx) = self.through_cudnn(card, Direction::InputGradient, dy, weight)? {
            return Ok(dx);
        }
        let ([batch, h, w, c], n, k, c_out) = (self.0.input, self.pixels(), self.window(), self.0.weight[0]);
        let mut dx = card.alloc(dy.dtype(), batch * h * w * c)?;
        let step = self.images();
        for first in (0..batch).step_by(step) {
            let images = step.min(batch - first);
            // Float32 until the overlapping windows are summed.
            let mut windows = card.alloc(DType::F32, images * n * k)?;
            let dy = dy.part(first * n * c_out, images * n * c_out);
            card.gemm(&Gemm::new([images * n, k, c_out], Side::rows(c_out), Side::rows(k)), dy, weight, &mut windows, 0)?;
            let elements = images * h * w * c;
            let mut args = vec![Arg::In(windows.view()), Arg::OutAt(&mut dx, first * h * w * c), Arg::Long(elements)];
            args.extend(self.sizes());
            card.launch(Launch::each(&CONVOLUTION, dy.dtype(), "windows_back", elements), args)?;
        }
        Ok(dx)
    }

    /// Images whose windows exist at a time.
    fn images(&self) -> usize {
        (WINDOWS / (self.pixels() * self.window())).clamp(1, self.0.input[0])
    }

    /// Calls `f` with the first of some images, their number and their windows, until all have been seen.
    fn by_images(&self, card: &Card, x: View<'_>, mut f: impl FnMut(usize, usize, &Buffer) -> Result<()>) -> Result<()> {
        let [batch, h, w, c] = self.0.input;
        let step = self.images();
        for first in (0..batch).step_by(step) {
            let images = step.min(batch - first);
            let n = images * self.pixels() * self.window();
            let mut windows = card.alloc(x.dtype(), n)?;
            let mut args = vec![Arg::In(x.part(first * h * w * c, images * h * w * c)), Arg::Out(&mut windows), Arg::Long(n)];
            args.extend(self.sizes());
            card.launch(Launch::each(&CONVOLUTION, x.dtype(), "windows", n), args)?;
            f(first, images, &windows)?;
        }
        Ok(())
    }

    /// What the kernels over windows are told: h, w, c, oh, ow, kh, kw, stride, top, left.
    fn sizes(&self) -> [Arg<'static>; 10] {
        let Geometry { input: [_, h, w, c], output: [oh, ow], weight: [_, _, kh, kw], stride, top_left: [top, left] } = self.0;
        [h, w, c, oh, ow, kh, kw, stride, top, left].map(Arg::Int)
    }
}

/// How cuDNN gets the images: as they are, or with their padding written out, since it pads both sides alike.
#[cfg(feature = "cudnn")]
impl Convolution {
    fn plan(&self, dtype: DType) -> super::cudnn::Shape {
        let Geometry { input, output: [oh, ow], weight: [c_out, _, kh, kw], stride, top_left } =
            self.written_out().unwrap_or(self.0);
        super::cudnn::Shape { input, output: [input[0], oh, ow, c_out], kernel: [kh, kw], padding: top_left, stride, dtype }
    }

    /// What cuDNN answers, if this is a card and it has an algorithm: of x and the weight, x and dy, or dy and the weight.
    fn through_cudnn(&self, card: &Card, direction: Direction, a: View<'_>, b: View<'_>) -> Result<Option<Buffer>> {
        #[cfg_attr(not(feature = "emulate"), allow(irrefutable_let_patterns))]
        let Card::Nvidia(device) = card else { return Ok(None) };
        let (shape, [top, left]) = (self.plan(a.dtype()), self.0.top_left.map(|v| v as isize));
        if self.written_out().is_none() {
            return Ok(super::cudnn::run(device, shape, direction, a, b)?.map(Buffer::Nvidia));
        }
        if direction != Direction::InputGradient {
            let padded = place(card, a, self.0.input, shape.input, [top, left])?;
            return Ok(super::cudnn::run(device, shape, direction, padded.view(), b)?.map(Buffer::Nvidia));
        }
        let Some(dx) = super::cudnn::run(device, shape, direction, a, b)?.map(Buffer::Nvidia) else { return Ok(None) };
        place(card, dx.view(), shape.input, self.0.input, [-top, -left]).map(Some)
    }
}

#[cfg(any(feature = "cudnn", test))]
impl Convolution {
    /// The same convolution of images whose padding is written out, unless it is the same on opposite sides.
    fn written_out(&self) -> Option<Geometry> {
        let Geometry { input: [b, h, w, c], output: [oh, ow], weight: [_, _, kh, kw], stride, top_left: [top, left] } = self.0;
        let alike = |size: usize, pad: usize, k: usize, out: usize| {
            (size + 2 * pad).checked_sub(k).is_some_and(|v| v / stride + 1 == out)
        };
        if alike(h, top, kh, oh) && alike(w, left, kw, ow) {
            return None;
        }
        Some(Geometry { input: [b, (oh - 1) * stride + kh, (ow - 1) * stride + kw, c], top_left: [0, 0], ..self.0 })
    }
}

/// Images of shape `from` inside images of shape `to`, `offset` from their upper left corner; what is left over is zero.
#[cfg(any(feature = "cudnn", test))]
fn place(card: &Card, x: View<'_>, from: [usize; 4], to: [usize; 4], [top, left]: [isize; 2]) -> Result<Buffer> {
    let n = to.iter().product();
    let mut y = card.alloc(x.dtype(), n)?;
    let mut args = vec![Arg::In(x), Arg::Out(&mut y), Arg::Long(n)];
    args.extend([from[1], from[2], from[3], to[1], to[2]].map(Arg::Int));
    args.extend([Arg::Offset(top), Arg::Offset(left)]);
    card.launch(Launch::each(&CONVOLUTION, x.dtype(), "place", n), args)?;
    Ok(y)
}

impl Operator<2> for Convolution {
    const NAME: &'static str = "conv2d";

    fn shape(&self) -> Vec<usize> {
        vec![self.0.input[0], self.0.output[0], self.0.output[1], self.0.weight[0]]
    }

    fn forward(&self, card: &Card, [x, w]: [View<'_>; 2]) -> Result<Buffer> {
        Self::forward(self, card, x, w, None)
    }

    fn backward(
        &self,
        card: &Card,
        args: [View<'_>; 2],
        wanted: [bool; 2],
        _: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 2]> {
        self.gradients(card, args, wanted, dy)
    }
}

impl Operator<3> for Convolution {
    const NAME: &'static str = "conv2d";

    fn shape(&self) -> Vec<usize> {
        <Self as Operator<2>>::shape(self)
    }

    fn forward(&self, card: &Card, [x, w, b]: [View<'_>; 3]) -> Result<Buffer> {
        Self::forward(self, card, x, w, Some(b))
    }

    fn backward(
        &self,
        card: &Card,
        [x, w, _]: [View<'_>; 3],
        wanted: [bool; 3],
        _: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 3]> {
        let [dx, dw] = self.gradients(card, [x, w], [wanted[0], wanted[1]], dy)?;
        Ok([dx, dw, wanted[2].then(|| column_sums(card, dy, self.0.weight[0])).transpose()?])
    }
}

#[cfg(all(test, feature = "emulate"))]
mod tests {
    use candle_core::{CpuStorage, Layout};

    use super::*;
    use crate::{ops::cuda::device::Memory, random::Key};

    fn random(name: &str, n: usize) -> CpuStorage {
        CpuStorage::F32(Key::new(2, name).normal(n))
    }

    fn view(storage: &CpuStorage, n: usize) -> Result<View<'_>> {
        View::contiguous(Memory::Emulated(storage), &Layout::contiguous(n))
    }

    fn floats(buffer: Buffer) -> Vec<f32> {
        match buffer {
            Buffer::Emulated(CpuStorage::F32(v)) => v,
            _ => Vec::new(),
        }
    }

    /// What cuDNN gets and gives where the padding is written out: the same results, and gradients cut back to the image.
    #[test]
    fn padding_written_out_changes_nothing() -> Result<()> {
        let card = Card::Emulated;
        for (input, output, stride, top_left) in
            [([2, 8, 6, 3], [4, 3], 2, [0, 0]), ([1, 5, 6, 3], [5, 8], 1, [2, 1]), ([1, 7, 9, 3], [2, 4], 2, [0, 1])]
        {
            let geometry = Geometry { input, output, weight: [4, 3, 3, 3], stride, top_left };
            let convolution = Convolution(geometry);
            let Some(padded) = convolution.written_out() else { candle_core::bail!("{geometry:?} is taken for symmetric") };
            let (n, outputs) = (input.iter().product(), input[0] * output[0] * output[1] * 4);
            let (x, w, dy) = (random("x", n), random("w", 4 * 27), random("dy", outputs));
            let (x, w, dy) = (view(&x, n)?, view(&w, 4 * 27)?, view(&dy, outputs)?);
            let [top, left] = top_left.map(|v| v as isize);
            let wide = place(&card, x, input, padded.input, [top, left])?;
            let padded = Convolution(padded);
            assert_eq!(floats(padded.product(&card, wide.view(), w)?), floats(convolution.product(&card, x, w)?));
            assert_eq!(
                floats(padded.weight_gradient(&card, wide.view(), dy)?),
                floats(convolution.weight_gradient(&card, x, dy)?)
            );
            let dx = padded.input_gradient(&card, dy, w)?;
            let cut = place(&card, dx.view(), padded.0.input, input, [-top, -left])?;
            assert_eq!(floats(cut), floats(convolution.input_gradient(&card, dy, w)?));
        }
        Ok(())
    }
}
