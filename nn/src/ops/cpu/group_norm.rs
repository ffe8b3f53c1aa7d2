//! Group norm with a scale and shift per sample or shared, and optionally SiLU, in one pass forward and two backward.

use std::sync::OnceLock;

use rayon::prelude::*;

use super::{activation::silu_slope, exp::sigmoid, kernel::Kernel, reduce::add, scratch::fresh, simd::vectorized};

/// Numbers of x that one piece of work takes: they stay in the second-level cache between two looks at them.
const PIECE: usize = 1 << 16;

/// Arguments x `[samples, rows, channels]`, weight and bias `[channels]`, or `[samples, channels]` if `per_sample`.
pub(crate) struct GroupNorm {
    pub shape: Vec<usize>,
    pub samples: usize,
    pub rows: usize,
    pub channels: usize,
    pub groups: usize,
    pub eps: f64,
    pub per_sample: bool,
    pub silu: bool,
    /// Mean and 1/deviation of each channel's group, `[samples, 2, channels]`, kept for the backward pass.
    pub moments: OnceLock<Vec<f32>>,
}

impl Kernel<3> for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, [x, weight, bias]: [&[f32]; 3]) -> Vec<f32> {
        let moments = self.moments.get_or_init(|| self.moments(x));
        let mut y = fresh(x.len());
        self.pieces_mut(&mut y).zip(self.pieces(x)).for_each(|((sample, y), (_, x))| {
            let p = self.parameters(sample, moments, weight, bias);
            if self.silu { normalize_silu(x, &p, y) } else { normalize(x, &p, y) }
        });
        y
    }

    fn backward(&self, [x, weight, bias]: [&[f32]; 3], wanted: [bool; 3], _: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 3] {
        let moments = self.moments.get_or_init(|| self.moments(x));
        let sums = self.sums(x, dy, moments, weight, bias);
        let dx = wanted[0].then(|| self.input_gradient(x, dy, moments, [weight, bias], &sums));
        let shared = |first: usize| {
            let mut total = Vec::new();
            for s in sums.chunks_exact(2 * self.channels) {
                let part = &s[first..first + self.channels];
                match self.per_sample || total.is_empty() {
                    true => total.extend_from_slice(part),
                    false => add(&mut total, part),
                }
            }
            total
        };
        [dx, wanted[1].then(|| shared(self.channels)), wanted[2].then(|| shared(0))]
    }
}

/// What one sample's channels are mapped by.
struct Parameters<'a> {
    mean: &'a [f32],
    inverse: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
}

impl GroupNorm {
    fn piece_rows(&self) -> usize {
        (PIECE / self.channels).clamp(1, self.rows)
    }

    fn pieces_per_sample(&self) -> usize {
        self.rows.div_ceil(self.piece_rows())
    }

    /// Pieces of whole rows with their sample; a piece never crosses samples.
    fn pieces<'a>(&self, x: &'a [f32]) -> impl IndexedParallelIterator<Item = (usize, &'a [f32])> {
        let (piece, sample) = (self.piece_rows() * self.channels, self.rows * self.channels);
        let all: Vec<_> = x.chunks(sample).enumerate().flat_map(|(i, s)| s.chunks(piece).map(move |p| (i, p))).collect();
        all.into_par_iter()
    }

    fn pieces_mut<'a>(&self, x: &'a mut [f32]) -> impl IndexedParallelIterator<Item = (usize, &'a mut [f32])> {
        let (piece, sample) = (self.piece_rows() * self.channels, self.rows * self.channels);
        let all: Vec<_> = x.chunks_mut(sample).enumerate().flat_map(|(i, s)| s.chunks_mut(piece).map(move |p| (i, p))).collect();
        all.into_par_iter()
    }

    fn parameters<'a>(&self, i: usize, moments: &'a [f32], weight: &'a [f32], bias: &'a [f32]) -> Parameters<'a> {
        let c = self.channels;
        let (mean, inverse) = moments[i * 2 * c..(i + 1) * 2 * c].split_at(c);
        let at = if self.per_sample { i * c } else { 0 };
        Parameters { mean, inverse, weight: &weight[at..at + c], bias: &bias[at..at + c] }
    }

    /// Mean and squared deviations of each piece in two passes, then of each group (Chan et al. 1979).
    fn moments(&self, x: &[f32]) -> Vec<f32> {
        let per_group = self.channels / self.groups;
        let pieces: Vec<Vec<[f64; 3]>> = self.pieces(x).map(|(_, x)| piece_moments(x, self.groups, per_group)).collect();
        let mut moments = Vec::with_capacity(self.samples * 2 * self.channels);
        for sample in pieces.chunks(self.pieces_per_sample()) {
            let groups: Vec<(f32, f32)> = (0..self.groups).map(|g| self.combine(sample, g)).collect();
            moments.extend((0..self.channels).map(|c| groups[c / per_group].0));
            moments.extend((0..self.channels).map(|c| groups[c / per_group].1));
        }
        moments
    }

    fn combine(&self, pieces: &[Vec<[f64; 3]>], group: usize) -> (f32, f32) {
        let [mut n, mut mean, mut squares] = [0.0f64; 3];
        for [count, m, s] in pieces.iter().map(|p| p[group]) {
            let (delta, total) = (m - mean, n + count);
            squares += s + delta * delta * n * count / total;
            mean += delta * count / total;
            n = total;
        }
        (mean as f32, (1.0 / (squares / n + self.eps).sqrt()) as f32)
    }

    /// Per sample: sum over rows of dz, then of dz·xhat, where z is what the activation takes. `[samples, 2, channels]`.
    fn sums(&self, x: &[f32], dy: &[f32], moments: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let pieces: Vec<Vec<f32>> = self
            .pieces(x)
            .zip(self.pieces(dy))
            .map(|((sample, x), (_, dy))| {
                let p = self.parameters(sample, moments, weight, bias);
                let mut sums = vec![0.0; 2 * self.channels];
                let (s0, s1) = sums.split_at_mut(self.channels);
                if self.silu {
                    piece_sums_silu(x, dy, &p, s0, s1);
                } else {
                    piece_sums(x, dy, &p, s0, s1);
                }
                sums
            })
            .collect();
        let mut total = vec![0.0; self.samples * 2 * self.channels];
        for (t, pieces) in total.chunks_exact_mut(2 * self.channels).zip(pieces.chunks(self.pieces_per_sample())) {
            pieces.iter().for_each(|p| add(t, p));
        }
        total
    }

    /// `dx = inverse · (w dz - mean(w dz) - xhat · mean(w dz xhat))`, the means over the group.
    fn input_gradient(&self, x: &[f32], dy: &[f32], moments: &[f32], [w, b]: [&[f32]; 2], sums: &[f32]) -> Vec<f32> {
        let means: Vec<Vec<f32>> = (0..self.samples)
            .map(|i| self.group_means(self.parameters(i, moments, w, b).weight, &sums[i * 2 * self.channels..]))
            .collect();
        let mut dx = fresh(x.len());
        self.pieces_mut(&mut dx).zip(self.pieces(x)).zip(self.pieces(dy)).for_each(|(((i, dx), (_, x)), (_, dy))| {
            let p = self.parameters(i, moments, w, b);
            let (m0, m1) = means[i].split_at(self.channels);
            if self.silu { gradient_silu(x, dy, &p, m0, m1, dx) } else { gradient(x, dy, &p, m0, m1, dx) }
        });
        dx
    }

    fn group_means(&self, weight: &[f32], sums: &[f32]) -> Vec<f32> {
        let (c, per_group) = (self.channels, self.channels / self.groups);
        let n = (self.rows * per_group) as f64;
        let mean = |first: usize, group: usize| {
            let channels = group * per_group..(group + 1) * per_group;
            (channels.map(|c| f64::from(weight[c]) * f64::from(sums[first + c])).sum::<f64>() / n) as f32
        };
        (0..2 * c).map(|i| mean(i / c * c, i % c / per_group)).collect()
    }
}

/// Count, mean and sum of squared deviations of each group of a piece.
fn piece_moments(x: &[f32], groups: usize, per_group: usize) -> Vec<[f64; 3]> {
    let channels = groups * per_group;
    let count = (x.len() / channels * per_group) as f64;
    let fold = |sums: &[f32]| -> Vec<f64> {
        sums.chunks_exact(per_group).map(|s| s.iter().map(|v| f64::from(*v)).sum::<f64>()).collect()
    };
    let mut sums = vec![0.0; channels];
    channel_sums(x, &mut sums);
    let means: Vec<f64> = fold(&sums).iter().map(|s| s / count).collect();
    let centre: Vec<f32> = (0..channels).map(|c| means[c / per_group] as f32).collect();
    sums.fill(0.0);
    channel_squares(x, &centre, &mut sums);
    means.iter().zip(fold(&sums)).map(|(m, s)| [count, *m, s]).collect()
}

vectorized! {
    fn channel_sums(x: &[f32], sums: &mut [f32]) {
        for row in x.chunks_exact(sums.len()) {
            for (s, x) in sums.iter_mut().zip(row) {
                *s += x;
            }
        }
    }

    fn channel_squares(x: &[f32], centre: &[f32], sums: &mut [f32]) {
        for row in x.chunks_exact(sums.len()) {
            for ((s, x), m) in sums.iter_mut().zip(row).zip(centre) {
                *s += (x - m) * (x - m);
            }
        }
    }

    fn normalize(x: &[f32], p: &Parameters<'_>, y: &mut [f32]) {
        rows_of(x, p, y, |z| z);
    }

    fn normalize_silu(x: &[f32], p: &Parameters<'_>, y: &mut [f32]) {
        rows_of(x, p, y, |z| z * sigmoid(z));
    }

    fn piece_sums(x: &[f32], dy: &[f32], p: &Parameters<'_>, s0: &mut [f32], s1: &mut [f32]) {
        sums_of(x, dy, p, s0, s1, |_| 1.0);
    }

    fn piece_sums_silu(x: &[f32], dy: &[f32], p: &Parameters<'_>, s0: &mut [f32], s1: &mut [f32]) {
        sums_of(x, dy, p, s0, s1, silu_slope);
    }

    fn gradient(x: &[f32], dy: &[f32], p: &Parameters<'_>, m0: &[f32], m1: &[f32], dx: &mut [f32]) {
        gradient_of(x, dy, p, m0, m1, dx, |_| 1.0);
    }

    fn gradient_silu(x: &[f32], dy: &[f32], p: &Parameters<'_>, m0: &[f32], m1: &[f32], dx: &mut [f32]) {
        gradient_of(x, dy, p, m0, m1, dx, silu_slope);
    }
}

#[inline(always)]
fn rows_of(x: &[f32], p: &Parameters<'_>, y: &mut [f32], activation: impl Fn(f32) -> f32) {
    let c = p.mean.len();
    let (mean, inverse, weight, bias) = (&p.mean[..c], &p.inverse[..c], &p.weight[..c], &p.bias[..c]);
    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
        for i in 0..c {
            y[i] = activation((x[i] - mean[i]) * inverse[i] * weight[i] + bias[i]);
        }
    }
}

#[inline(always)]
fn sums_of(x: &[f32], dy: &[f32], p: &Parameters<'_>, s0: &mut [f32], s1: &mut [f32], slope: impl Fn(f32) -> f32) {
    let c = p.mean.len();
    let (mean, inverse, weight, bias) = (&p.mean[..c], &p.inverse[..c], &p.weight[..c], &p.bias[..c]);
    let (s0, s1) = (&mut s0[..c], &mut s1[..c]);
    for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
        for i in 0..c {
            let xhat = (x[i] - mean[i]) * inverse[i];
            let dz = dy[i] * slope(xhat * weight[i] + bias[i]);
            s0[i] += dz;
            s1[i] += dz * xhat;
        }
    }
}

#[inline(always)]
fn gradient_of(x: &[f32], dy: &[f32], p: &Parameters<'_>, m0: &[f32], m1: &[f32], dx: &mut [f32], slope: impl Fn(f32) -> f32) {
    let c = p.mean.len();
    let (mean, inverse, weight, bias) = (&p.mean[..c], &p.inverse[..c], &p.weight[..c], &p.bias[..c]);
    let (m0, m1) = (&m0[..c], &m1[..c]);
    for ((x, dy), dx) in x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
        for i in 0..c {
            let xhat = (x[i] - mean[i]) * inverse[i];
            let dz = dy[i] * slope(xhat * weight[i] + bias[i]);
            dx[i] = inverse[i] * (weight[i] * dz - m0[i] - xhat * m1[i]);
        }
    }
}
