//! Resampling of images by a separable filter, rows and columns in one kernel.

use candle_core::{Result, Tensor};

use super::{
    device::{Arg, Buffer, Card, Launch, View},
    operator::{Operator, apply1},
    sources::RESAMPLE,
};
use crate::ops::FirConfig;

/// Resampling of images `[b, h, w, c]` to `output` height and width.
pub(in crate::ops) fn fir_resample(
    x: &Tensor,
    taps: &[f32],
    config: FirConfig,
    input: [usize; 4],
    output: [usize; 2],
) -> crate::Result<Tensor> {
    let filter = Filter { taps: taps.to_vec(), up: config.up, down: config.down, before: config.before as isize };
    apply1(Resample { filter, input, output }, x)
}

struct Resample {
    filter: Filter,
    input: [usize; 4],
    output: [usize; 2],
}

struct Filter {
    taps: Vec<f32>,
    up: usize,
    down: usize,
    before: isize,
}

impl Filter {
    /// The same form with the taps backwards, `up` and `down` exchanged.
    fn adjoint(&self) -> Self {
        let last = self.taps.len() as isize - 1;
        Self { taps: self.taps.iter().rev().copied().collect(), up: self.down, down: self.up, before: last - self.before }
    }

    fn run(&self, card: &Card, x: View<'_>, [b, h, w, c]: [usize; 4], [oh, ow]: [usize; 2]) -> Result<Buffer> {
        let n = b * oh * ow * c;
        let taps = card.upload(&self.taps.iter().map(|t| t.to_bits()).collect::<Vec<_>>())?;
        let mut y = card.alloc(x.dtype(), n)?;
        let mut args = vec![Arg::In(x), Arg::In(taps.view()), Arg::Out(&mut y), Arg::Long(n)];
        args.extend([h, w, c, oh, ow, self.taps.len(), self.up, self.down].map(Arg::Int));
        args.push(Arg::Offset(self.before));
        card.launch(Launch::each(&RESAMPLE, x.dtype(), "fir", n), args)?;
        Ok(y)
    }
}

impl Operator<1> for Resample {
    const NAME: &'static str = "fir_resample";

    fn shape(&self) -> Vec<usize> {
        vec![self.input[0], self.output[0], self.output[1], self.input[3]]
    }

    fn forward(&self, card: &Card, [x]: [View<'_>; 1]) -> Result<Buffer> {
        self.filter.run(card, x, self.input, self.output)
    }

    fn backward(&self, card: &Card, _: [View<'_>; 1], _: [bool; 1], _: View<'_>, dy: View<'_>) -> Result<[Option<Buffer>; 1]> {
        let ([b, h, w, c], [oh, ow]) = (self.input, self.output);
        Ok([Some(self.filter.adjoint().run(card, dy, [b, oh, ow, c], [h, w])?)])
    }
}
