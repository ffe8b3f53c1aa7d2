//! Losses per sample, in float32.

use candle_core::{DType, Result, Tensor};

use super::{
    device::{Arg, BLOCK, Buffer, Card, Launch, View},
    operator::{Operator, apply2},
    sources::LOSS,
    sums::sum_axis,
};
use crate::ops::cpu::loss::Distance;

/// The mean over each of `samples` samples of a function of `a - b`, float32.
pub(in crate::ops) fn loss(a: &Tensor, b: &Tensor, samples: usize, distance: Distance) -> crate::Result<Tensor> {
    apply2(Loss { samples, distance }, a, b)
}

struct Loss {
    samples: usize,
    distance: Distance,
}

impl Loss {
    /// Elements that one block sums.
    fn chunk(n: usize) -> usize {
        (BLOCK * 16).max(n.div_ceil(1024)).min(n)
    }

    /// `SQUARED`, `ABSOLUTE` or any other number of the source, and the bound of the last.
    fn distance(&self) -> [Arg<'static>; 2] {
        match self.distance {
            Distance::Squared => [Arg::Int(0), Arg::Float(0.0)],
            Distance::Absolute => [Arg::Int(1), Arg::Float(0.0)],
            Distance::Huber(delta) => [Arg::Int(2), Arg::Float(delta)],
        }
    }

    fn gradient(&self, card: &Card, [a, b]: [View<'_>; 2], dy: View<'_>, sign: f32) -> Result<Buffer> {
        let n = a.len / self.samples;
        let mut out = card.alloc(a.dtype(), a.len)?;
        let mut args = vec![Arg::In(a), Arg::In(b), Arg::In(dy), Arg::Out(&mut out), Arg::Long(n), Arg::Float(sign / n as f32)];
        args.extend(self.distance());
        let mut launch = Launch::each(&LOSS, a.dtype(), "loss_gradient", n);
        launch.grid[1] = self.samples;
        card.launch(launch, args)?;
        Ok(out)
    }
}

impl Operator<2> for Loss {
    const NAME: &'static str = "loss";

    fn shape(&self) -> Vec<usize> {
        vec![self.samples]
    }

    fn forward(&self, card: &Card, [a, b]: [View<'_>; 2]) -> Result<Buffer> {
        let n = a.len / self.samples;
        let chunk = Self::chunk(n);
        let chunks = n.div_ceil(chunk);
        let mut partial = card.alloc(DType::F32, self.samples * chunks)?;
        let mut args = vec![Arg::In(a), Arg::In(b), Arg::Out(&mut partial), Arg::Long(n), Arg::Long(chunk)];
        args.extend(self.distance());
        card.launch(Launch::blocks(&LOSS, a.dtype(), "loss_sums", [chunks, self.samples]), args)?;
        sum_axis(card, partial.view(), [self.samples, chunks, 1], 1.0 / n as f32)
    }

    fn backward(
        &self,
        card: &Card,
        args: [View<'_>; 2],
        wanted: [bool; 2],
        _: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 2]> {
        let part = |wanted: bool, sign: f32| wanted.then(|| self.gradient(card, args, dy, sign)).transpose();
        Ok([part(wanted[0], 1.0)?, part(wanted[1], -1.0)?])
    }
}
