//! Doubling, halving, joining and cutting of images.

use candle_core::{Result, Tensor};

use super::{
    device::{Arg, Buffer, Card, Launch, View},
    operator::{Operator, apply1, apply2},
    sources::RESAMPLE,
};

/// Nearest-neighbour doubling; `small` is the shape of x.
pub(in crate::ops) fn upsample_nearest2x(x: &Tensor, small: [usize; 4]) -> crate::Result<Tensor> {
    apply1(Upsample2x(small), x)
}

/// 2×2 mean; `small` is the shape of the result.
pub(in crate::ops) fn average_pool2x(x: &Tensor, small: [usize; 4]) -> crate::Result<Tensor> {
    apply1(Average2x(small), x)
}

/// Two tensors side by side in the last dimension.
pub(in crate::ops) fn concat_channels(a: &Tensor, b: &Tensor, shape: Vec<usize>, widths: [usize; 2]) -> crate::Result<Tensor> {
    apply2(Join { shape, widths }, a, b)
}

struct Upsample2x([usize; 4]);

struct Average2x([usize; 4]);

struct Join {
    shape: Vec<usize>,
    widths: [usize; 2],
}

/// `kernel` (`spread` or `collect`) from x to `n` elements; `small` is the shape of the smaller image.
fn resized(card: &Card, kernel: &'static str, x: View<'_>, n: usize, [_, _, w, c]: [usize; 4], factor: f32) -> Result<Buffer> {
    let mut y = card.alloc(x.dtype(), n)?;
    let args = vec![Arg::In(x), Arg::Out(&mut y), Arg::Long(n), Arg::Int(w), Arg::Int(c), Arg::Float(factor)];
    card.launch(Launch::each(&RESAMPLE, x.dtype(), kernel, n), args)?;
    Ok(y)
}

/// `part` columns from `first` on of a matrix `width` wide; the sizes are `[width, first, part]`.
pub(super) fn columns_from(card: &Card, x: View<'_>, [width, first, part]: [usize; 3]) -> Result<Buffer> {
    let n = x.len / width * part;
    let mut y = card.alloc(x.dtype(), n)?;
    let args = vec![Arg::In(x), Arg::Out(&mut y), Arg::Long(n), Arg::Int(part), Arg::Int(width), Arg::Int(first)];
    card.launch(Launch::each(&RESAMPLE, x.dtype(), "columns_from", n), args)?;
    Ok(y)
}

impl Operator<1> for Upsample2x {
    const NAME: &'static str = "upsample_nearest2x";

    fn shape(&self) -> Vec<usize> {
        let [b, h, w, c] = self.0;
        vec![b, 2 * h, 2 * w, c]
    }

    fn forward(&self, card: &Card, [x]: [View<'_>; 1]) -> Result<Buffer> {
        resized(card, "spread", x, 4 * x.len, self.0, 1.0)
    }

    fn backward(&self, card: &Card, [x]: [View<'_>; 1], _: [bool; 1], _: View<'_>, dy: View<'_>) -> Result<[Option<Buffer>; 1]> {
        Ok([Some(resized(card, "collect", dy, x.len, self.0, 1.0)?)])
    }
}

impl Operator<1> for Average2x {
    const NAME: &'static str = "average_pool2x";

    fn shape(&self) -> Vec<usize> {
        self.0.to_vec()
    }

    fn forward(&self, card: &Card, [x]: [View<'_>; 1]) -> Result<Buffer> {
        resized(card, "collect", x, x.len / 4, self.0, 0.25)
    }

    fn backward(&self, card: &Card, [x]: [View<'_>; 1], _: [bool; 1], _: View<'_>, dy: View<'_>) -> Result<[Option<Buffer>; 1]> {
        Ok([Some(resized(card, "spread", dy, x.len, self.0, 0.25)?)])
    }
}

impl Operator<2> for Join {
    const NAME: &'static str = "concat_channels";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, card: &Card, [a, b]: [View<'_>; 2]) -> Result<Buffer> {
        let n = a.len + b.len;
        let mut y = card.alloc(a.dtype(), n)?;
        let [wa, wb] = self.widths;
        let args = vec![Arg::In(a), Arg::In(b), Arg::Out(&mut y), Arg::Long(n), Arg::Int(wa), Arg::Int(wb)];
        card.launch(Launch::each(&RESAMPLE, a.dtype(), "join", n), args)?;
        Ok(y)
    }

    fn backward(
        &self,
        card: &Card,
        _: [View<'_>; 2],
        wanted: [bool; 2],
        _: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 2]> {
        let [wa, wb] = self.widths;
        let part = |first: usize, width: usize| columns_from(card, dy, [wa + wb, first, width]);
        Ok([wanted[0].then(|| part(0, wa)).transpose()?, wanted[1].then(|| part(wa, wb)).transpose()?])
    }
}
