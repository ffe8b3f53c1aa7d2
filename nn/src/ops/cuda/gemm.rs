//! A batch of matrix products, row by row, and as cuBLAS wants it.

use candle_core::Result;

/// A matrix: the distance of its rows, of the matrices of the batch, and whether it is stored the other way round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    pub row: usize,
    pub matrix: usize,
    pub transposed: bool,
}

impl Side {
    /// Row by row.
    pub const fn rows(row: usize) -> Self {
        Self { row, matrix: 0, transposed: false }
    }

    /// Stored transposed: the rows that lie in memory are the columns of the product's argument.
    pub const fn t(self) -> Self {
        Self { transposed: true, ..self }
    }

    /// One for each of the batch, `matrix` elements apart.
    pub const fn each(self, matrix: usize) -> Self {
        Self { matrix, ..self }
    }
}

/// c `[m, n]` = alpha · a `[m, k]` · b `[k, n]` + beta · c, `batch` times; accumulated in float32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gemm {
    pub size: [usize; 3],
    pub a: Side,
    pub b: Side,
    pub c: Side,
    pub alpha: f32,
    pub beta: f32,
    pub batch: usize,
}

/// The same in the terms of BLAS: columns first, `size` is `m, n, k`, and c = alpha · op(a) · op(b) + beta · c.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnMajor {
    pub size: [usize; 3],
    /// The argument that comes first is the second of [`Gemm`].
    pub first: Side,
    pub second: Side,
    pub c: Side,
    pub alpha: f32,
    pub beta: f32,
    pub batch: usize,
}

impl Gemm {
    /// One product of `[m, n, k]` with alpha 1 and beta 0; c is dense.
    pub const fn new(size: [usize; 3], a: Side, b: Side) -> Self {
        Self { size, a, b, c: Side::rows(size[1]), alpha: 1.0, beta: 0.0, batch: 1 }
    }

    /// `batch` products; c is dense.
    pub const fn batch(self, batch: usize) -> Self {
        Self { batch, c: self.c.each(self.size[0] * self.size[1]), ..self }
    }

    /// Times `alpha`.
    pub const fn times(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    /// Added to what is there if `add`.
    pub const fn added(self, add: bool) -> Self {
        Self { beta: if add { 1.0 } else { 0.0 }, ..self }
    }

    /// A row-major matrix is a column-major one transposed, and cᵀ = bᵀ aᵀ.
    pub const fn column_major(&self) -> ColumnMajor {
        let [m, n, k] = self.size;
        let Self { a, b, c, alpha, beta, batch, .. } = *self;
        ColumnMajor { size: [n, m, k], first: b, second: a, c, alpha, beta, batch }
    }

    /// Nothing outside `a`, `b` and `c` elements is touched, and every number is one that BLAS can be handed.
    pub fn check(&self, a: usize, b: usize, c: usize) -> Result<()> {
        let [m, n, k] = self.size;
        let ends = |side: Side, rows: usize, columns: usize, len: usize| {
            let (rows, columns) = if side.transposed { (columns, rows) } else { (rows, columns) };
            side.row >= columns && side.matrix * (self.batch - 1) + (rows - 1) * side.row + columns <= len
        };
        let positive = m > 0 && n > 0 && k > 0 && self.batch > 0;
        let small = [m, n, k, self.a.row, self.b.row, self.c.row, self.batch].iter().all(|v| *v <= i32::MAX as usize);
        if positive && small && ends(self.a, m, k, a) && ends(self.b, k, n, b) && ends(self.c, m, n, c) {
            return Ok(());
        }
        candle_core::bail!("{self:?} does not fit into {a}, {b} and {c} elements")
    }
}
