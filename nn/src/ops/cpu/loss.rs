//! Losses per sample.

use rayon::prelude::*;

use super::{kernel::Kernel, reduce::sum_pairs, scratch::fresh, simd::vectorized};

/// Numbers that one piece of work takes.
const PIECE: usize = 1 << 14;

/// Which function of the difference.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Distance {
    Squared,
    Absolute,
    Huber(f32),
}

/// The mean over each of `samples` samples of a function of `a - b`.
pub(crate) struct Loss {
    pub samples: usize,
    pub distance: Distance,
}

impl Kernel<2> for Loss {
    const NAME: &'static str = "loss";

    fn shape(&self) -> Vec<usize> {
        vec![self.samples]
    }

    fn forward(&self, [a, b]: [&[f32]; 2]) -> Vec<f32> {
        let n = a.len() / self.samples;
        let sample = |(a, b): (&[f32], &[f32])| {
            let pieces = a.par_chunks(PIECE).zip(b.par_chunks(PIECE));
            let sums: Vec<f32> = pieces.map(|(a, b)| piece(a, b, self.distance)).collect();
            (sums.iter().map(|s| f64::from(*s)).sum::<f64>() / n as f64) as f32
        };
        a.par_chunks(n).zip(b.par_chunks(n)).map(sample).collect()
    }

    fn backward(&self, [a, b]: [&[f32]; 2], wanted: [bool; 2], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 2] {
        let n = a.len() / self.samples;
        let gradient = |sign: f32| {
            let mut out = fresh(a.len());
            out.par_chunks_mut(n).zip(a.par_chunks(n)).zip(b.par_chunks(n)).zip(dy.par_iter()).for_each(|(((out, a), b), dy)| {
                let factor = sign * dy / n as f32;
                let pieces = out.par_chunks_mut(PIECE).zip(a.par_chunks(PIECE)).zip(b.par_chunks(PIECE));
                pieces.for_each(|((out, a), b)| slopes(a, b, self.distance, factor, out));
            });
            out
        };
        [wanted[0].then(|| gradient(1.0)), wanted[1].then(|| gradient(-1.0))]
    }
}

vectorized! {
    fn piece(a: &[f32], b: &[f32], distance: Distance) -> f32 {
        match distance {
            Distance::Squared => sum_pairs(a, b, |a, b| (a - b) * (a - b)),
            Distance::Absolute => sum_pairs(a, b, |a, b| (a - b).abs()),
            Distance::Huber(delta) => sum_pairs(a, b, |a, b| {
                let d = a - b;
                let inner = d.clamp(-delta, delta);
                inner * (d - 0.5 * inner)
            }),
        }
    }

    fn slopes(a: &[f32], b: &[f32], distance: Distance, factor: f32, out: &mut [f32]) {
        let pairs = out.iter_mut().zip(a.iter().zip(b));
        match distance {
            Distance::Squared => pairs.for_each(|(out, (a, b))| *out = factor * 2.0 * (a - b)),
            Distance::Absolute => pairs.for_each(|(out, (a, b))| {
                let sign = f32::from(u8::from(a > b)) - f32::from(u8::from(a < b));
                *out = factor * sign;
            }),
            Distance::Huber(delta) => pairs.for_each(|(out, (a, b))| *out = factor * (a - b).clamp(-delta, delta)),
        }
    }
}
