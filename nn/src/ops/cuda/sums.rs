//! Sums over one axis, in a fixed order.

use candle_core::{DType, Result};

use super::{
    device::{Arg, Buffer, Card, Launch, View},
    sources::SUMS,
};

/// Rows that one block sums at least, and the most chunks of rows.
const ROWS: usize = 128;
const CHUNKS: usize = 512;

/// Rows of a chunk, and the number of chunks.
pub(super) fn chunks(rows: usize) -> (usize, usize) {
    let chunk = ROWS.max(rows.div_ceil(CHUNKS)).min(rows);
    (chunk, rows.div_ceil(chunk))
}

/// `factor` times the sum over the middle axis of x `[outer, n, inner]`, float32.
pub(super) fn sum_axis(card: &Card, x: View<'_>, [outer, n, inner]: [usize; 3], factor: f32) -> Result<Buffer> {
    let mut y = card.alloc(DType::F32, outer * inner)?;
    let args = vec![Arg::In(x), Arg::Out(&mut y), Arg::Long(outer), Arg::Int(n), Arg::Int(inner), Arg::Float(factor)];
    card.launch(Launch::each(&SUMS, DType::F32, "sum_axis", outer * inner), args)?;
    Ok(y)
}

/// Sum over the rows of x, each `width` wide, in float32.
pub(super) fn column_sums(card: &Card, x: View<'_>, width: usize) -> Result<Buffer> {
    let rows = x.len / width;
    let (chunk, count) = chunks(rows);
    let mut partial = card.alloc(DType::F32, count * width)?;
    let args = vec![Arg::In(x), Arg::Out(&mut partial), Arg::Long(rows), Arg::Int(width), Arg::Int(chunk)];
    card.launch(Launch::columns(&SUMS, x.dtype(), "column_sums", [width, count, 1]), args)?;
    sum_axis(card, partial.view(), [1, count, width], 1.0)
}
