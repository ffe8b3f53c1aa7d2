//! Dropout with the masks that the CPU draws: the kernel computes the stream's words where it needs them, in both directions, so
//! that no mask is kept.

use candle_core::{Result, Tensor};

use super::{
    device::{Arg, BLOCK, Buffer, Card, Launch, View},
    operator::{Operator, apply1},
    sources::DROPOUT,
};
use crate::random::Key;

/// Words of one block of the stream.
const WORDS: usize = 16;

/// Zeroes each element with probability `p` in [0, 1) and divides the rest by `1 - p`.
pub(in crate::ops) fn dropout(x: &Tensor, p: f64, key: Key) -> crate::Result<Tensor> {
    // A draw is a number of 24 bits over 2^24, and falls out if it is below p.
    let threshold = (p * f64::from(1 << 24)).ceil() as u32;
    apply1(Dropout { shape: x.dims().to_vec(), key: key.words(), threshold, keep: (1.0 / (1.0 - p)) as f32 }, x)
}

struct Dropout {
    shape: Vec<usize>,
    key: [u32; 8],
    threshold: u32,
    keep: f32,
}

impl Dropout {
    fn masked(&self, card: &Card, x: View<'_>) -> Result<Buffer> {
        let mut y = card.alloc(x.dtype(), x.len)?;
        let mut args = vec![Arg::In(x), Arg::Out(&mut y), Arg::Long(x.len)];
        args.extend(self.key.map(Arg::Word));
        args.extend([Arg::Word(self.threshold), Arg::Float(self.keep)]);
        card.launch(Launch::blocks(&DROPOUT, x.dtype(), "dropout", [x.len.div_ceil(BLOCK * WORDS), 1]), args)?;
        Ok(y)
    }
}

impl Operator<1> for Dropout {
    const NAME: &'static str = "dropout";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, card: &Card, [x]: [View<'_>; 1]) -> Result<Buffer> {
        self.masked(card, x)
    }

    fn backward(&self, card: &Card, _: [View<'_>; 1], _: [bool; 1], _: View<'_>, dy: View<'_>) -> Result<[Option<Buffer>; 1]> {
        Ok([Some(self.masked(card, dy)?)])
    }
}
