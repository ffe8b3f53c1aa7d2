//! Softmax attention by blocks of queries and of keys; the scores of one pair of blocks at a time exist, and are computed anew in
//! the backward pass. Over the blocks of keys the softmax is carried along (Milakov & Gimelshein 2018).

use std::{ops::Range, sync::OnceLock};

use rayon::prelude::*;

use super::{
    exp::exp,
    gemm::{Lent, Matrix, with_packed},
    kernel::Kernel,
    reduce::{add, fold, sum_pairs},
    scratch::{fresh, with_scratch},
    simd::vectorized,
};

/// Queries of a block.
const QUERIES: usize = 128;
/// Keys of a block: two blocks of scores fit into a second-level cache of half a megabyte.
const KEYS: usize = 256;
/// From row to row of a block's scores: rows a power of two apart would fall into few sets of the first-level cache.
const DISTANCE: usize = KEYS + 16;

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

/// A block of queries in the backward pass.
struct Block<'a> {
    len: usize,
    /// Where it begins in its span.
    offset: usize,
    sample: usize,
    q: Matrix<'a>,
    dy: Matrix<'a>,
    packed_q: Lent<'a>,
    packed_dy: Lent<'a>,
    /// Largest score, 1/sum of exponentials and y · dy of each query.
    rows: &'a [[f32; 3]],
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

    /// Queries at a time: at least two blocks of about one size.
    fn block(&self) -> usize {
        self.queries.div_ceil(self.queries.div_ceil(QUERIES).max(2))
    }

    fn key_blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let keys = self.keys;
        (0..keys).step_by(KEYS).map(move |first| first..keys.min(first + KEYS))
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

    /// Scores of `count` queries of a sample and some keys, with the mask's bias. `turned_k`: all keys of the head, turned.
    fn scores(&self, sample: usize, q: Matrix<'_>, count: usize, turned_k: Lent<'_>, keys: &Range<usize>, scores: &mut [f32]) {
        turned_k.columns(keys.clone()).product(count, (scores, DISTANCE), false, self.scale, q);
        if let Some(bias) = &self.bias {
            let bias = &bias[sample * self.keys..(sample + 1) * self.keys][keys.clone()];
            scores.chunks_exact_mut(DISTANCE).for_each(|row| add(&mut row[..keys.len()], bias));
        }
    }

    /// Writes one head of one span of y; answers the span's softmax statistics.
    fn span_forward(&self, at: [usize; 2], span: &Range<usize>, [q, k, v]: [&[f32]; 3], y: &mut [f32]) -> Vec<[f32; 2]> {
        let (k, v) = (self.head(k, self.keys, at, 0), self.head(v, self.keys, at, 0));
        let mut statistics = vec![[f32::MIN, 0.0]; span.len()];
        with_packed(k.t(), [self.width, self.keys], |k| {
            with_packed(v, [self.keys, self.width], |v| {
                for block in self.blocks(span) {
                    let here = block.start - span.start..block.end - span.start;
                    let y = &mut y[here.start * self.row() + at[1] * self.width..];
                    self.block_forward(at[0], self.head(q, self.queries, at, block.start), [k, v], y, &mut statistics[here]);
                }
            });
        });
        statistics
    }

    /// One block of queries: y, and as `statistics` the largest score and 1/sum.
    fn block_forward(&self, sample: usize, q: Matrix<'_>, [k, v]: [Lent<'_>; 2], y: &mut [f32], statistics: &mut [[f32; 2]]) {
        let (count, row) = (statistics.len(), self.row());
        with_scratch(count * DISTANCE, |scores| {
            for keys in self.key_blocks() {
                self.scores(sample, q, count, k, &keys, scores);
                let lines = scores.chunks_exact_mut(DISTANCE).zip(statistics.iter_mut());
                for ((scores, statistics), y) in lines.zip(y.chunks_mut(row)) {
                    let shrink = softmax_part(&mut scores[..keys.len()], statistics);
                    if keys.start > 0 && shrink < 1.0 {
                        y[..self.width].iter_mut().for_each(|v| *v *= shrink);
                    }
                }
                let again = keys.start > 0;
                v.product_part(keys, count, (y, row), again, 1.0, Matrix::rows(scores, DISTANCE));
            }
        });
        for (y, [_, total]) in y.chunks_mut(row).zip(statistics) {
            *total = 1.0 / *total;
            y[..self.width].iter_mut().for_each(|v| *v *= *total);
        }
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
                        let q = self.head(args[0], self.queries, at, block.start);
                        let rows = self.query_rows(at, &block, y, dy);
                        let dy = self.head(dy, self.queries, at, block.start);
                        let (len, offset, sample) = (block.len(), block.start - span.start, at[0]);
                        with_packed(q, [len, d], |packed_q| {
                            with_packed(dy, [len, d], |packed_dy| {
                                let block = Block { len, offset, sample, q, dy, packed_q, packed_dy, rows: &rows };
                                self.block_gradients(&block, right, &mut part);
                            });
                        });
                    }
                });
            });
        });
        part
    }

    /// [`Block::rows`].
    fn query_rows(&self, at: [usize; 2], block: &Range<usize>, y: &[f32], dy: &[f32]) -> Vec<[f32; 3]> {
        let line = |i: usize| {
            let from = (at[0] * self.queries + block.start + i) * self.row() + at[1] * self.width;
            from..from + self.width
        };
        let statistics = self.statistics(at, block).iter().enumerate();
        statistics.map(|(i, [largest, inverse])| [*largest, *inverse, dot(&y[line(i)], &dy[line(i)])]).collect()
    }

    fn block_gradients(&self, block: &Block<'_>, right: Factors<'_>, part: &mut Part) {
        let (n, d) = (block.len, self.width);
        with_scratch(2 * n * DISTANCE, |scratch| {
            let (p, ds) = scratch.split_at_mut(n * DISTANCE);
            for keys in self.key_blocks() {
                self.scores(block.sample, block.q, n, right.turned_k, &keys, p);
                right.turned_v.columns(keys.clone()).product(n, (ds, DISTANCE), false, 1.0, block.dy);
                let lines = p.chunks_exact_mut(DISTANCE).zip(ds.chunks_exact_mut(DISTANCE));
                for ((p, ds), row) in lines.zip(block.rows) {
                    score_gradients(&mut p[..keys.len()], &mut ds[..keys.len()], *row);
                }
                let (p, ds) = (Matrix::rows(p, DISTANCE), Matrix::rows(ds, DISTANCE));
                let (again, first) = (block.offset > 0, keys.start * d);
                block.packed_dy.product(keys.len(), (&mut part.dv[first..], d), again, 1.0, p.t());
                block.packed_q.product(keys.len(), (&mut part.dk[first..], d), again, self.scale, ds.t());
                let dq = &mut part.dq[block.offset * d..];
                right.k.product_part(keys.clone(), n, (dq, d), keys.start > 0, self.scale, ds);
            }
        });
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
        let mut out = fresh(self.batch * positions * row);
        out.par_chunks_mut(positions * row).enumerate().for_each(|(sample, out)| {
            for (i, part) in parts[sample * self.heads * spans.len()..(sample + 1) * self.heads * spans.len()].iter().enumerate()
            {
                let (head, span) = (i / spans.len(), i % spans.len());
                let first = if all { 0 } else { spans[span].start };
                for (row, part) in out[first * row..].chunks_exact_mut(row).zip(of(part).chunks_exact(d)) {
                    let row = &mut row[head * d..(head + 1) * d];
                    if all && span > 0 { add(row, part) } else { row.copy_from_slice(part) }
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

    /// Replaces scores by `exp(score - largest)` and carries the largest score and the sum along; answers by what all that was
    /// summed before is to be multiplied.
    fn softmax_part(scores: &mut [f32], statistics: &mut [f32; 2]) -> f32 {
        let mut parts = [f32::MIN; 16];
        for chunk in scores.chunks(16) {
            for (p, s) in parts.iter_mut().zip(chunk) {
                *p = if *s > *p { *s } else { *p };
            }
        }
        let largest = parts.iter().fold(statistics[0], |a, b| a.max(*b));
        let shrink = exp_or_zero(statistics[0] - largest);
        let mut parts = [0.0f32; 16];
        let mut whole = scores.chunks_exact_mut(16);
        for scores in &mut whole {
            for (s, p) in scores.iter_mut().zip(&mut parts) {
                *s = exp_or_zero(*s - largest);
                *p += *s;
            }
        }
        for (s, p) in whole.into_remainder().iter_mut().zip(&mut parts) {
            *s = exp_or_zero(*s - largest);
            *p += *s;
        }
        *statistics = [largest, statistics[1] * shrink + fold(parts)];
        shrink
    }

    /// Scores to probabilities p, and dp to the gradients of the scores: `p · (dp - dot)`.
    fn score_gradients(p: &mut [f32], dp: &mut [f32], row: [f32; 3]) {
        let [largest, inverse, dot] = row;
        for (p, dp) in p.iter_mut().zip(dp) {
            *p = exp_or_zero(*p - largest) * inverse;
            *dp = *p * (*dp - dot);
        }
    }
}

/// [`exp`], and exactly zero where it would be below the smallest normal number: what a mask relies on.
#[inline(always)]
fn exp_or_zero(x: f32) -> f32 {
    if x < -87.0 { 0.0 } else { exp(x) }
}
