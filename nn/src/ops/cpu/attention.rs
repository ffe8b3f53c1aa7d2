//! Softmax attention by blocks of queries; the scores of one block at a time exist, and are computed anew in the backward pass.

use std::{ops::Range, sync::OnceLock};

use rayon::prelude::*;

use super::{
    exp::exp,
    gemm::{Matrix, gemm},
    kernel::Kernel,
    reduce::{add, sum, sum_pairs},
    scratch::with_scratch,
    simd::vectorized,
};

/// Scores that one thread holds at a time: about a second-level cache.
const SCORES: usize = 1 << 18;

/// Arguments q `[batch, queries, heads, width]`, k and v `[batch, keys, heads, width]`.
pub(crate) struct Attention {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub scale: f32,
    /// What is added to the scores of each key, `[batch, keys]`.
    pub bias: Option<Vec<f32>>,
    /// Largest score and 1/sum of exponentials of each `[batch, heads, queries]`, kept for the backward pass.
    pub softmax: OnceLock<Vec<[f32; 2]>>,
}

/// Gradients of one head from one span of queries: `dq` of those queries, `dk` and `dv` of all keys.
struct Part {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

impl Kernel<3> for Attention {
    const NAME: &'static str = "attention";

    fn shape(&self) -> Vec<usize> {
        vec![self.batch, self.queries, self.heads, self.width]
    }

    fn forward(&self, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
        let (row, block) = (self.row(), self.block());
        let mut y = vec![0.0; q.len()];
        let tasks: Vec<_> = y
            .chunks_mut(self.queries * row)
            .enumerate()
            .flat_map(|(i, y)| y.chunks_mut(block * row).enumerate().map(move |(j, y)| (i, j * block, y)))
            .collect();
        let softmax: Vec<Vec<[f32; 2]>> = tasks
            .into_par_iter()
            .map(|(sample, first, y)| {
                let span = first..first + y.len() / row;
                (0..self.heads).flat_map(|head| self.block_forward([sample, head], span.clone(), [q, k, v], y)).collect()
            })
            .collect();
        let _ = self.softmax.set(softmax.concat());
        y
    }

    fn backward(&self, args: [&[f32]; 3], _: [bool; 3], y: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 3] {
        let spans = self.spans();
        let tasks = self.batch * self.heads * spans.len();
        let parts: Vec<Part> = (0..tasks)
            .into_par_iter()
            .map(|i| {
                let (head, span) = (i / spans.len(), spans[i % spans.len()].clone());
                self.head_gradients([head / self.heads, head % self.heads], span, args, y, dy)
            })
            .collect();
        let dq = self.assemble(self.queries, spans.len(), &parts, |p| &p.dq, false);
        let dk = self.assemble(self.keys, spans.len(), &parts, |p| &p.dk, true);
        let dv = self.assemble(self.keys, spans.len(), &parts, |p| &p.dv, true);
        [Some(dq), Some(dk), Some(dv)]
    }
}

impl Attention {
    /// Distance of two positions of one head.
    fn row(&self) -> usize {
        self.heads * self.width
    }

    /// Queries at a time.
    fn block(&self) -> usize {
        (SCORES / self.keys).clamp(14, 126).min(self.queries.div_ceil(2))
    }

    /// The spans of queries that are worked on apart: one if the heads suffice to keep the threads busy.
    fn spans(&self) -> Vec<Range<usize>> {
        let blocks = self.queries.div_ceil(self.block());
        let spans = 16usize.div_ceil(self.batch * self.heads).clamp(1, blocks.min(8));
        let per_span = blocks.div_ceil(spans) * self.block();
        (0..self.queries).step_by(per_span).map(|i| i..self.queries.min(i + per_span)).collect()
    }

    /// The matrix `[positions, width]` of one head from position `first` on.
    fn head<'a>(&self, x: &'a [f32], positions: usize, [sample, head]: [usize; 2], first: usize) -> Matrix<'a> {
        Matrix::rows(&x[(sample * positions + first) * self.row() + head * self.width..], self.row())
    }

    /// Unnormalised scores, with the mask's bias.
    fn scores(&self, at: [usize; 2], span: &Range<usize>, q: &[f32], k: &[f32], scores: &mut [f32]) {
        let (q, k) = (self.head(q, self.queries, at, span.start), self.head(k, self.keys, at, 0));
        gemm([span.len(), self.keys, self.width], (scores, self.keys), false, self.scale, q, k.t());
        if let Some(bias) = &self.bias {
            let bias = &bias[at[0] * self.keys..(at[0] + 1) * self.keys];
            scores.chunks_exact_mut(self.keys).for_each(|row| add(row, bias));
        }
    }

    /// Writes one head of one block of y (which begins at query `span.start`); answers the block's softmax statistics.
    fn block_forward(&self, at: [usize; 2], span: Range<usize>, [q, k, v]: [&[f32]; 3], y: &mut [f32]) -> Vec<[f32; 2]> {
        let n = span.len();
        with_scratch(n * self.keys, |scores| {
            self.scores(at, &span, q, k, scores);
            let statistics: Vec<[f32; 2]> = scores.chunks_exact_mut(self.keys).map(softmax_row).collect();
            let v = self.head(v, self.keys, at, 0);
            let y = &mut y[at[1] * self.width..];
            gemm([n, self.width, self.keys], (y, self.row()), false, 1.0, Matrix::rows(scores, self.keys), v);
            for (y, [_, inverse]) in y.chunks_mut(self.row()).zip(&statistics) {
                y[..self.width].iter_mut().for_each(|v| *v *= inverse);
            }
            statistics
        })
    }

    /// Where the statistics of a query lie in `softmax`: by sample, block, head, query.
    fn statistics(&self, [sample, head]: [usize; 2], span: &Range<usize>) -> &[[f32; 2]] {
        let at = (sample * self.queries + span.start) * self.heads + head * span.len();
        self.softmax.get().map_or(&[], |s| &s[at..at + span.len()])
    }

    fn head_gradients(&self, at: [usize; 2], span: Range<usize>, args: [&[f32]; 3], y: &[f32], dy: &[f32]) -> Part {
        let (keys, d) = (self.keys, self.width);
        let mut part = Part { dq: vec![0.0; span.len() * d], dk: vec![0.0; keys * d], dv: vec![0.0; keys * d] };
        for first in span.clone().step_by(self.block()) {
            let block = first..span.end.min(first + self.block());
            with_scratch(2 * block.len() * keys, |scratch| {
                self.block_gradients(at, block, first - span.start, args, [y, dy], scratch, &mut part);
            });
        }
        part
    }

    #[allow(clippy::too_many_arguments)]
    fn block_gradients(
        &self,
        at: [usize; 2],
        block: Range<usize>,
        offset: usize,
        [q, k, v]: [&[f32]; 3],
        [y, dy]: [&[f32]; 2],
        scratch: &mut [f32],
        part: &mut Part,
    ) {
        let (n, keys, d, again) = (block.len(), self.keys, self.width, offset > 0);
        let (p, ds) = scratch.split_at_mut(n * keys);
        self.scores(at, &block, q, k, p);
        let (dy_head, v) = (self.head(dy, self.queries, at, block.start), self.head(v, keys, at, 0));
        gemm([n, keys, d], (ds, keys), false, 1.0, dy_head, v.t());
        let statistics = self.statistics(at, &block);
        for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
            let line = (at[0] * self.queries + block.start + i) * self.row() + at[1] * d;
            let dot = dot(&y[line..line + d], &dy[line..line + d]);
            score_gradients(p, ds, statistics[i], dot);
        }
        let (p, ds) = (Matrix::rows(p, keys), Matrix::rows(ds, keys));
        let (q, k) = (self.head(q, self.queries, at, block.start), self.head(k, keys, at, 0));
        gemm([keys, d, n], (&mut part.dv, d), again, 1.0, p.t(), dy_head);
        gemm([keys, d, n], (&mut part.dk, d), again, self.scale, ds.t(), q);
        gemm([n, d, keys], (&mut part.dq[offset * d..], d), false, self.scale, ds, k);
    }

    /// The heads side by side, `[batch, positions, heads, width]`; over the spans one sums (`all` positions each) or continues.
    fn assemble(
        &self,
        positions: usize,
        spans: usize,
        parts: &[Part],
        of: impl Fn(&Part) -> &[f32] + Sync,
        all: bool,
    ) -> Vec<f32> {
        let (d, row) = (self.width, self.row());
        let mut out = vec![0.0; self.batch * positions * row];
        out.par_chunks_mut(positions * row).enumerate().for_each(|(sample, out)| {
            for (i, part) in parts[sample * self.heads * spans..(sample + 1) * self.heads * spans].iter().enumerate() {
                let (head, span) = (i / spans, i % spans);
                let first = if all { 0 } else { self.spans()[span].start };
                for (row, part) in out[first * row..].chunks_exact_mut(row).zip(of(part).chunks_exact(d)) {
                    add(&mut row[head * d..(head + 1) * d], part);
                }
            }
        });
        out
    }
}

vectorized! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        sum_pairs(a, b, |a, b| a * b)
    }

    /// Replaces scores by `exp(score - largest)`; answers the largest and 1/sum.
    fn softmax_row(scores: &mut [f32]) -> [f32; 2] {
        let mut parts = [f32::MIN; 16];
        for chunk in scores.chunks(16) {
            for (p, s) in parts.iter_mut().zip(chunk) {
                *p = if *s > *p { *s } else { *p };
            }
        }
        let largest = parts.iter().fold(f32::MIN, |a, b| a.max(*b));
        for s in scores.iter_mut() {
            *s = exp_or_zero(*s - largest);
        }
        [largest, 1.0 / sum(scores, |v| v)]
    }

    /// Scores to probabilities p, and dp to the gradients of the scores: `p · (dp - dot)`.
    fn score_gradients(p: &mut [f32], dp: &mut [f32], statistics: [f32; 2], dot: f32) {
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = exp_or_zero(*p - statistics[0]) * statistics[1];
            *dp = *p * (*dp - dot);
        }
    }
}

/// [`exp`], and exactly zero where it would be below the smallest normal number: what a mask relies on.
#[inline(always)]
fn exp_or_zero(x: f32) -> f32 {
    if x < -87.0 { 0.0 } else { exp(x) }
}
