//! Softmax attention by blocks of queries; the scores of one block at a time exist, and are computed anew in the backward pass.

use std::{ops::Range, sync::OnceLock};

use rayon::prelude::*;

use super::{
    exp::exp,
    gemm::{Lent, Matrix, gemm, with_packed},
    kernel::Kernel,
    reduce::{add, sum, sum_pairs},
    scratch::{fresh, with_scratch},
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

/// What many blocks of queries of one head are multiplied with.
#[derive(Clone, Copy)]
struct Factors<'a> {
    turned_k: Lent<'a>,
    turned_v: Lent<'a>,
    k: Lent<'a>,
}

impl Kernel<3> for Attention {
    const NAME: &'static str = "attention";

    fn shape(&self) -> Vec<usize> {
        vec![self.batch, self.queries, self.heads, self.width]
    }

    fn forward(&self, args: [&[f32]; 3]) -> Vec<f32> {
        let (row, spans) = (self.row(), self.spans(self.batch));
        let mut y = fresh(args[0].len());
        let tasks: Vec<_> = y
            .chunks_mut(self.queries * row)
            .enumerate()
            .flat_map(|(i, mut y)| {
                let mut parts = Vec::with_capacity(spans.len());
                for span in &spans {
                    let (part, rest) = std::mem::take(&mut y).split_at_mut(span.len() * row);
                    parts.push((i, span.clone(), part));
                    y = rest;
                }
                parts
            })
            .collect();
        let parts: Vec<Vec<[f32; 2]>> = tasks
            .into_par_iter()
            .map(|(sample, span, y)| (0..self.heads).flat_map(|head| self.span_forward([sample, head], &span, args, y)).collect())
            .collect();
        let _ = self.softmax.set(self.by_head(&spans, &parts));
        y
    }

    fn backward(&self, args: [&[f32]; 3], _: [bool; 3], y: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; 3] {
        let spans = self.spans(self.batch * self.heads);
        let tasks = self.batch * self.heads * spans.len();
        let parts: Vec<Part> = (0..tasks)
            .into_par_iter()
            .map(|i| {
                let (head, span) = (i / spans.len(), spans[i % spans.len()].clone());
                self.head_gradients([head / self.heads, head % self.heads], span, args, y, dy)
            })
            .collect();
        let dq = self.assemble(self.queries, &spans, &parts, |p| &p.dq, false);
        let dk = self.assemble(self.keys, &spans, &parts, |p| &p.dk, true);
        let dv = self.assemble(self.keys, &spans, &parts, |p| &p.dv, true);
        [Some(dq), Some(dk), Some(dv)]
    }
}

impl Attention {
    /// Distance of two positions of one head.
    fn row(&self) -> usize {
        self.heads * self.width
    }

    /// Queries at a time: blocks of about one size.
    fn block(&self) -> usize {
        let most = (SCORES / self.keys).clamp(14, 128);
        self.queries.div_ceil(self.queries.div_ceil(most).max(2))
    }

    /// The spans of queries that are worked on apart: one if the `others` (samples or heads) suffice to keep the threads busy.
    fn spans(&self, others: usize) -> Vec<Range<usize>> {
        let blocks = self.queries.div_ceil(self.block());
        let spans = 16usize.div_ceil(others).clamp(1, blocks.min(8));
        let per_span = blocks.div_ceil(spans) * self.block();
        (0..self.queries).step_by(per_span).map(|i| i..self.queries.min(i + per_span)).collect()
    }

    /// The blocks of a span.
    fn blocks(&self, span: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let (block, end) = (self.block(), span.end);
        span.clone().step_by(block).map(move |first| first..end.min(first + block))
    }

    /// The matrix `[positions, width]` of one head from position `first` on.
    fn head<'a>(&self, x: &'a [f32], positions: usize, [sample, head]: [usize; 2], first: usize) -> Matrix<'a> {
        Matrix::rows(&x[(sample * positions + first) * self.row() + head * self.width..], self.row())
    }

    /// Unnormalised scores, with the mask's bias. `keys`: those of the head, turned.
    fn scores(&self, at: [usize; 2], span: &Range<usize>, q: &[f32], keys: Lent<'_>, scores: &mut [f32]) {
        let q = self.head(q, self.queries, at, span.start);
        keys.product(span.len(), (scores, self.keys), false, self.scale, q);
        if let Some(bias) = &self.bias {
            let bias = &bias[at[0] * self.keys..(at[0] + 1) * self.keys];
            scores.chunks_exact_mut(self.keys).for_each(|row| add(row, bias));
        }
    }

    /// Writes one head of one span of y; answers the span's softmax statistics.
    fn span_forward(&self, at: [usize; 2], span: &Range<usize>, [q, k, v]: [&[f32]; 3], y: &mut [f32]) -> Vec<[f32; 2]> {
        let (k, v) = (self.head(k, self.keys, at, 0), self.head(v, self.keys, at, 0));
        let mut statistics = Vec::with_capacity(span.len());
        with_packed(k.t(), [self.width, self.keys], |k| {
            with_packed(v, [self.keys, self.width], |v| {
                for block in self.blocks(span) {
                    let y = &mut y[(block.start - span.start) * self.row() + at[1] * self.width..];
                    with_scratch(block.len() * self.keys, |scores| {
                        self.scores(at, &block, q, k, scores);
                        let found = statistics.len();
                        statistics.extend(scores.chunks_exact_mut(self.keys).map(softmax_row));
                        v.product(block.len(), (y, self.row()), false, 1.0, Matrix::rows(scores, self.keys));
                        for (y, [_, inverse]) in y.chunks_mut(self.row()).zip(&statistics[found..]) {
                            y[..self.width].iter_mut().for_each(|v| *v *= inverse);
                        }
                    });
                }
            });
        });
        statistics
    }

    /// Statistics by sample, span, head and query in the order sample, head, query.
    fn by_head(&self, spans: &[Range<usize>], parts: &[Vec<[f32; 2]>]) -> Vec<[f32; 2]> {
        let mut all = Vec::with_capacity(self.batch * self.heads * self.queries);
        for parts in parts.chunks(spans.len()) {
            for head in 0..self.heads {
                for (span, part) in spans.iter().zip(parts) {
                    all.extend_from_slice(&part[head * span.len()..(head + 1) * span.len()]);
                }
            }
        }
        all
    }

    /// The softmax statistics of some queries of one head.
    fn statistics(&self, [sample, head]: [usize; 2], block: &Range<usize>) -> &[[f32; 2]] {
        let at = (sample * self.heads + head) * self.queries;
        self.softmax.get().map_or(&[], |s| &s[at + block.start..at + block.end])
    }

    fn head_gradients(&self, at: [usize; 2], span: Range<usize>, args: [&[f32]; 3], y: &[f32], dy: &[f32]) -> Part {
        let (keys, d) = (self.keys, self.width);
        let mut part = Part { dq: fresh(span.len() * d), dk: fresh(keys * d), dv: fresh(keys * d) };
        let (k, v) = (self.head(args[1], keys, at, 0), self.head(args[2], keys, at, 0));
        with_packed(k.t(), [d, keys], |turned_k| {
            with_packed(v.t(), [d, keys], |turned_v| {
                with_packed(k, [keys, d], |k| {
                    let right = Factors { turned_k, turned_v, k };
                    for block in self.blocks(&span) {
                        with_scratch(2 * block.len() * keys, |scratch| {
                            self.block_gradients(at, (block, span.start), args[0], [y, dy], right, scratch, &mut part);
                        });
                    }
                });
            });
        });
        part
    }

    #[allow(clippy::too_many_arguments)]
    fn block_gradients(
        &self,
        at: [usize; 2],
        (block, start): (Range<usize>, usize),
        q: &[f32],
        [y, dy]: [&[f32]; 2],
        right: Factors<'_>,
        scratch: &mut [f32],
        part: &mut Part,
    ) {
        let (n, keys, d, offset) = (block.len(), self.keys, self.width, block.start - start);
        let (p, ds) = scratch.split_at_mut(n * keys);
        self.scores(at, &block, q, right.turned_k, p);
        let dy_head = self.head(dy, self.queries, at, block.start);
        right.turned_v.product(n, (ds, keys), false, 1.0, dy_head);
        let statistics = self.statistics(at, &block);
        for (i, (p, ds)) in p.chunks_exact_mut(keys).zip(ds.chunks_exact_mut(keys)).enumerate() {
            let line = (at[0] * self.queries + block.start + i) * self.row() + at[1] * d;
            let dot = dot(&y[line..line + d], &dy[line..line + d]);
            score_gradients(p, ds, statistics[i], dot);
        }
        let (p, ds) = (Matrix::rows(p, keys), Matrix::rows(ds, keys));
        let (q, again) = (self.head(q, self.queries, at, block.start), offset > 0);
        gemm([keys, d, n], (&mut part.dv, d), again, 1.0, p.t(), dy_head);
        gemm([keys, d, n], (&mut part.dk, d), again, self.scale, ds.t(), q);
        right.k.product(n, (&mut part.dq[offset * d..], d), false, self.scale, ds);
    }

    /// The heads side by side, `[batch, positions, heads, width]`; over the spans one sums (`all` positions each) or continues.
    fn assemble(
        &self,
        positions: usize,
        spans: &[Range<usize>],
        parts: &[Part],
        of: impl Fn(&Part) -> &[f32] + Sync,
        all: bool,
    ) -> Vec<f32> {
        let (d, row) = (self.width, self.row());
        let mut out = vec![0.0; self.batch * positions * row];
        out.par_chunks_mut(positions * row).enumerate().for_each(|(sample, out)| {
            for (i, part) in parts[sample * self.heads * spans.len()..(sample + 1) * self.heads * spans.len()].iter().enumerate()
            {
                let (head, span) = (i / spans.len(), i % spans.len());
                let first = if all { 0 } else { spans[span].start };
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
