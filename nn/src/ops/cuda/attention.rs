//! Softmax attention by blocks of queries, as on the CPU: the scores of one block at a time exist (of all heads together), in
//! float32, and are computed anew in the backward pass. The products are cuBLAS's, on tensor cores in bfloat16, so that there
//! is no limit to the width of a head.

use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor};

use super::{
    device::{Arg, Buffer, Card, Launch, View},
    gemm::{Gemm, Side},
    operator::{Held, Operator, apply3},
    sources::ATTENTION,
};

/// Scores that exist at a time: 64 MiB, and in the backward pass as much again and their rounded copies. Emulated, so few that the
/// tests see several blocks.
const SCORES: usize = if cfg!(feature = "emulate") { 5000 } else { 1 << 24 };

/// Shapes and scale of one attention.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    pub width: usize,
    pub scale: f32,
}

/// q `[batch, queries, heads, width]`, k and v `[batch, keys, heads, width]`, mask `[batch, keys]`.
pub(in crate::ops) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    sizes: Sizes,
) -> crate::Result<Tensor> {
    let mask = mask.map(|m| m.detach().to_dtype(DType::F32)?.contiguous()).transpose()?;
    apply3(Attention { sizes, mask, moments: OnceLock::new() }, q, k, v)
}

struct Attention {
    sizes: Sizes,
    mask: Option<Tensor>,
    /// Largest score and 1/sum of exponentials, `[batch, heads, queries, 2]`, kept for the backward pass.
    moments: OnceLock<Buffer>,
}

/// One block of queries: the first, their number, and their scores `[batch, heads, number, keys]`.
struct Block {
    first: usize,
    count: usize,
    scores: Buffer,
}

/// The arguments with the heads apart: `[batch, heads, positions, width]`.
struct Apart {
    q: Buffer,
    k: Buffer,
    v: Buffer,
}

impl Sizes {
    fn groups(&self) -> usize {
        self.batch * self.heads
    }

    /// Queries of a block.
    fn block(&self) -> usize {
        (SCORES / (self.groups() * self.keys)).clamp(1, self.queries)
    }

    /// The last sizes that kernels over blocks are told: keys, heads, block, first, queries.
    fn block_args(&self, block: &Block) -> [Arg<'static>; 5] {
        [self.keys, self.heads, block.count, block.first, self.queries].map(Arg::Int)
    }

    /// A product per head of `[m, n, k]`, whose sides come one head after the other.
    fn product(&self, size: [usize; 3], a: Side, b: Side) -> Gemm {
        Gemm::new(size, a, b).batch(self.groups())
    }

    /// One head's rows of queries, `width` wide.
    fn query_rows(&self) -> Side {
        Side::rows(self.width).each(self.queries * self.width)
    }

    fn key_rows(&self) -> Side {
        Side::rows(self.width).each(self.keys * self.width)
    }

    /// One head's rows of a block, `keys` wide.
    fn score_rows(&self, block: &Block) -> Side {
        Side::rows(self.keys).each(block.count * self.keys)
    }

    fn heads_first(&self, card: &Card, x: View<'_>, positions: usize) -> Result<Buffer> {
        let mut y = card.alloc(x.dtype(), x.len)?;
        self.moved(card, "heads_first", x.dtype(), x, &mut y, positions)?;
        Ok(y)
    }

    /// `[batch, positions, heads, width]` in `dtype`.
    fn heads_last(&self, card: &Card, x: View<'_>, dtype: DType, positions: usize) -> Result<Buffer> {
        let mut y = card.alloc(dtype, x.len)?;
        let kernel = if x.dtype() == dtype { "heads_last" } else { "heads_last_of_floats" };
        self.moved(card, kernel, dtype, x, &mut y, positions)?;
        Ok(y)
    }

    fn moved(
        &self,
        card: &Card,
        kernel: &'static str,
        dtype: DType,
        x: View<'_>,
        y: &mut Buffer,
        positions: usize,
    ) -> Result<()> {
        let n = x.len;
        let mut args = vec![Arg::In(x), Arg::Out(y), Arg::Long(n)];
        args.extend([positions, self.heads, self.width].map(Arg::Int));
        card.launch(Launch::each(&ATTENTION, dtype, kernel, n), args)
    }

    fn apart(&self, card: &Card, [q, k, v]: [View<'_>; 3]) -> Result<Apart> {
        Ok(Apart {
            q: self.heads_first(card, q, self.queries)?,
            k: self.heads_first(card, k, self.keys)?,
            v: self.heads_first(card, v, self.keys)?,
        })
    }

    /// From query `first` on, the block's part of a tensor `[batch, heads, queries, width]`: what lies before is left out.
    fn query_on<'a>(&self, x: &'a Buffer, first: usize) -> View<'a> {
        x.view().part(first * self.width, x.len() - first * self.width)
    }

    /// `scale · q kᵀ` of one block.
    fn scores(&self, card: &Card, apart: &Apart, first: usize) -> Result<Block> {
        let count = self.block().min(self.queries - first);
        let mut scores = card.alloc(DType::F32, self.groups() * count * self.keys)?;
        let product = self.product([count, self.keys, self.width], self.query_rows(), self.key_rows().t()).times(self.scale);
        card.gemm(&product, self.query_on(&apart.q, first), apart.k.view(), &mut scores, 0)?;
        Ok(Block { first, count, scores })
    }
}

impl Attention {
    fn held(&self) -> Option<Held<'_>> {
        self.mask.as_ref().map(Held::of)
    }

    /// One thread block for each row of scores.
    fn rows(&self, dtype: DType, kernel: &'static str, block: &Block) -> Launch {
        Launch::blocks(&ATTENTION, dtype, kernel, [self.sizes.groups() * block.count, 1])
    }

    /// Writes the block's part of y `[batch, heads, queries, width]` and of the moments.
    fn block_forward(&self, card: &Card, apart: &Apart, first: usize, y: &mut Buffer, moments: &mut Buffer) -> Result<()> {
        let (s, dtype, held) = (&self.sizes, apart.q.view().dtype(), self.held());
        let block = s.scores(card, apart, first)?;
        let mut p = card.alloc(dtype, block.scores.len())?;
        let mask = held.as_ref().map(Held::view).transpose()?.map_or(Arg::Null, Arg::In);
        let mut args = vec![Arg::In(block.scores.view()), mask, Arg::Out(&mut p), Arg::Out(moments)];
        args.extend(s.block_args(&block));
        card.launch(self.rows(dtype, "softmax_rows", &block), args)?;
        let mut product = s.product([block.count, s.width, s.keys], s.score_rows(&block), s.key_rows());
        product.c = s.query_rows();
        card.gemm(&product, p.view(), apart.v.view(), y, first * s.width)
    }

    /// Adds what the block gives to the gradients `[dq, dk, dv]`, heads apart, float32.
    fn block_backward(
        &self,
        card: &Card,
        first: usize,
        apart: &Apart,
        [y, dy]: [&Buffer; 2],
        out: &mut [Buffer; 3],
    ) -> Result<()> {
        let (s, dtype, held) = (&self.sizes, apart.q.view().dtype(), self.held());
        let moments = self.moments.get().ok_or_else(super::device::elsewhere)?;
        let block = s.scores(card, apart, first)?;
        let mut dp = card.alloc(DType::F32, block.scores.len())?;
        let product = s.product([block.count, s.keys, s.width], s.query_rows(), s.key_rows().t());
        card.gemm(&product, s.query_on(dy, first), apart.v.view(), &mut dp, 0)?;
        let (mut p, mut ds) = (card.alloc(dtype, dp.len())?, card.alloc(dtype, dp.len())?);
        let mask = held.as_ref().map(Held::view).transpose()?.map_or(Arg::Null, Arg::In);
        let mut args = vec![Arg::In(block.scores.view()), mask, Arg::In(moments.view()), Arg::In(dp.view())];
        args.extend([Arg::In(y.view()), Arg::In(dy.view()), Arg::Out(&mut p), Arg::Out(&mut ds)]);
        args.extend(s.block_args(&block));
        args.push(Arg::Int(s.width));
        card.launch(self.rows(dtype, "score_gradients", &block), args)?;
        let [dq, dk, dv] = out;
        let again = first > 0;
        let over_keys = s.product([s.keys, s.width, block.count], s.score_rows(&block).t(), s.query_rows()).added(again);
        card.gemm(&over_keys, p.view(), s.query_on(dy, first), dv, 0)?;
        card.gemm(&over_keys.times(s.scale), ds.view(), s.query_on(&apart.q, first), dk, 0)?;
        let mut over_queries = s.product([block.count, s.width, s.keys], s.score_rows(&block), s.key_rows()).times(s.scale);
        over_queries.c = s.query_rows();
        card.gemm(&over_queries, ds.view(), apart.k.view(), dq, first * s.width)
    }
}

impl Operator<3> for Attention {
    const NAME: &'static str = "attention";

    fn shape(&self) -> Vec<usize> {
        vec![self.sizes.batch, self.sizes.queries, self.sizes.heads, self.sizes.width]
    }

    fn forward(&self, card: &Card, args: [View<'_>; 3]) -> Result<Buffer> {
        let s = &self.sizes;
        let apart = s.apart(card, args)?;
        let mut y = card.alloc(args[0].dtype(), args[0].len)?;
        let mut moments = card.alloc(DType::F32, s.groups() * s.queries * 2)?;
        for first in (0..s.queries).step_by(s.block()) {
            self.block_forward(card, &apart, first, &mut y, &mut moments)?;
        }
        let _ = self.moments.set(moments);
        s.heads_last(card, y.view(), args[0].dtype(), s.queries)
    }

    fn backward(
        &self,
        card: &Card,
        args: [View<'_>; 3],
        wanted: [bool; 3],
        y: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 3]> {
        let (s, dtype) = (&self.sizes, y.dtype());
        let apart = s.apart(card, args)?;
        let (y, dy) = (s.heads_first(card, y, s.queries)?, s.heads_first(card, dy, s.queries)?);
        let floats = |n: usize| card.alloc(DType::F32, n);
        let mut out = [floats(args[0].len)?, floats(args[1].len)?, floats(args[2].len)?];
        for first in (0..s.queries).step_by(s.block()) {
            self.block_backward(card, first, &apart, [&y, &dy], &mut out)?;
        }
        let last =
            |i: usize, positions: usize| wanted[i].then(|| s.heads_last(card, out[i].view(), dtype, positions)).transpose();
        Ok([last(0, s.queries)?, last(1, s.keys)?, last(2, s.keys)?])
    }
}
