//! A product as the tiles that a kernel of the vectors answers one by one.

use super::{Matrix, Right};

/// Depth of a block: a panel's part of that depth and a tile's rows stay in the first-level cache.
const DEPTH: usize = 256;

/// Rows of a one after another, columns one after another, or any strides: known ones need less arithmetic on addresses.
pub(super) const ROWS_APART: u8 = 0;
pub(super) const COLUMNS_APART: u8 = 1;
pub(super) const STRIDED: u8 = 2;

/// One tile: `depth` steps of rows of a times columns of b, into c.
pub(super) struct Tile {
    pub depth: usize,
    pub a: *const f32,
    pub row: usize,
    pub column: usize,
    pub b: *const f32,
    /// From row to row of b.
    pub step: usize,
    pub c: *mut f32,
    pub width: usize,
    pub columns: usize,
    pub accumulate: bool,
    pub factor: f32,
}

/// Calls `kernel` with the number of rows, at most `rows`, of each tile of at most `columns` columns.
///
/// # Safety
/// a, right and c hold what [`super::product`] asserts.
pub(super) unsafe fn each(
    [rows, columns]: [usize; 2],
    [m, n, k]: [usize; 3],
    (c, width): (&mut [f32], usize),
    (accumulate, factor): (bool, f32),
    a: Matrix<'_>,
    right: Right<'_>,
    kernel: impl Fn(usize, &Tile),
) {
    let blocks = k.div_ceil(DEPTH).max(1);
    for block in 0..blocks {
        let (first, last) = (block * k / blocks, (block + 1) * k / blocks);
        for column in (0..n).step_by(columns) {
            let mut row = 0;
            while row < m {
                let count = tile_rows(m - row, rows);
                // SAFETY: all three offsets are to elements of the matrices, by the caller's promise.
                let (from, panel, to) = unsafe {
                    (
                        a.data.as_ptr().add(row * a.rows + first * a.columns),
                        right.data().as_ptr().add(right.offset(first, column)),
                        c.as_mut_ptr().add(row * width + column),
                    )
                };
                let tile = Tile {
                    depth: last - first,
                    a: from,
                    row: a.rows,
                    column: a.columns,
                    b: panel,
                    step: right.step(),
                    c: to,
                    width,
                    columns: columns.min(n - column),
                    accumulate: accumulate || block > 0,
                    factor,
                };
                kernel(count, &tile);
                row += count;
            }
        }
    }
}

/// How many of the remaining rows the next tile takes: the last two tiles share what is left.
fn tile_rows(left: usize, most: usize) -> usize {
    if left > most && left < 2 * most { left.div_ceil(2) } else { left.min(most) }
}
