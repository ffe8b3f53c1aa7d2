//! The matrix product of one thread: row-major result, second factor packed once and used for many rows.

use std::ops::Range;

use rayon::prelude::*;

use super::scratch::{Aligned, with_scratch};

/// Columns of a packed panel.
const PANEL: usize = 32;

/// A matrix over a slice: element (i, j) is `data[i * rows + j * columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after another, `width` apart.
    pub(crate) const fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, rows: width, columns: 1 }
    }

    /// Element (i, j).
    pub(crate) fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.rows + j * self.columns]
    }

    /// The same numbers, rows and columns exchanged.
    pub(crate) const fn t(self) -> Self {
        Self { data: self.data, rows: self.columns, columns: self.rows }
    }

    /// Any two strides, from row to row and from column to column.
    pub(crate) const fn strided(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns }
    }

    fn holds(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.rows + (n - 1) * self.columns < self.data.len()
    }

    /// Writes columns `panel * PANEL..` as `[row][PANEL]`, zeros right of column `n`.
    fn pack_panel(&self, n: usize, panel: usize, out: &mut [f32]) {
        let from = panel * PANEL;
        let width = PANEL.min(n - from);
        if self.columns == 1 {
            for (k, out) in out.chunks_exact_mut(PANEL).enumerate() {
                let at = k * self.rows + from;
                out[..width].copy_from_slice(&self.data[at..at + width]);
                out[width..].fill(0.0);
            }
            return;
        }
        if width < PANEL {
            out.fill(0.0);
        }
        // Some rows at a time, so that the columns of a transposed matrix are read in runs.
        for (block, out) in out.chunks_mut(16 * PANEL).enumerate() {
            let rows = out.len() / PANEL;
            for j in 0..width {
                let column = &self.data[16 * block * self.rows + (from + j) * self.columns..];
                let column = &column[..(rows - 1) * self.rows + 1];
                for k in 0..rows {
                    out[k * PANEL + j] = column[k * self.rows];
                }
            }
        }
    }
}

/// A second factor `[k, n]`, packed once for many products.
pub(crate) struct Packed {
    data: Aligned,
    k: usize,
    n: usize,
}

impl Packed {
    /// Parts of `rows` rows each, one below the other.
    pub(crate) fn new(parts: &[Matrix<'_>], rows: usize, n: usize) -> Self {
        let k = parts.len() * rows;
        assert!(parts.iter().all(|p| p.holds(rows, n)), "gemm: matrix outside its slice");
        let mut data = Aligned::zeros(packed_len(k, n));
        data.get_mut().par_chunks_exact_mut(PANEL * k).enumerate().for_each(|(panel, out)| {
            for (part, out) in parts.iter().zip(out.chunks_exact_mut(PANEL * rows)) {
                part.pack_panel(n, panel, out);
            }
        });
        Self { data, k, n }
    }

    /// `c = a · self`, or `c += a · self`. a: `[m, k]`, c: `[m, n]` with rows `n` apart.
    pub(crate) fn product(&self, c: &mut [f32], accumulate: bool, a: Matrix<'_>) {
        self.product_part(0..self.k, c, accumulate, a);
    }

    /// `c = a · self` with `m` rows of c any distance apart. a: `[m, k]`.
    pub(crate) fn product_wide(&self, c: (&mut [f32], usize), m: usize, a: Matrix<'_>) {
        gemm_packed([m, self.n, self.k], c, false, 1.0, a, Panels { data: self.data.get(), k: self.k, first: 0 });
    }

    /// The product with rows `part` of self only. a: `[m, part]`.
    pub(crate) fn product_part(&self, part: Range<usize>, c: &mut [f32], accumulate: bool, a: Matrix<'_>) {
        let right = Panels { data: self.data.get(), k: self.k, first: part.start };
        gemm_packed([c.len() / self.n, self.n, part.len()], (c, self.n), accumulate, 1.0, a, right);
    }
}

/// Length of `[k, n]` packed.
const fn packed_len(k: usize, n: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k
}

/// `c = factor · a b`, or `c += factor · a b` if `accumulate`. a: `[m, k]`, b: `[k, n]`, c: `[m, n]` with rows `width` apart.
pub(crate) fn gemm([m, n, k]: [usize; 3], c: (&mut [f32], usize), accumulate: bool, factor: f32, a: Matrix<'_>, b: Matrix<'_>) {
    assert!(b.holds(k, n), "gemm: matrix outside its slice");
    with_scratch(packed_len(k, n), |packed| {
        for (panel, out) in packed.chunks_exact_mut(PANEL * k.max(1)).enumerate() {
            b.pack_panel(n, panel, out);
        }
        gemm_packed([m, n, k], c, accumulate, factor, a, Panels { data: packed, k, first: 0 });
    });
}

/// A packed factor: panel after panel of [`PANEL`] columns, `[k][PANEL]` each, of which rows `first..` are used.
#[derive(Clone, Copy)]
struct Panels<'a> {
    data: &'a [f32],
    k: usize,
    first: usize,
}

/// As [`gemm`], with b packed.
fn gemm_packed(
    [m, n, k]: [usize; 3],
    (c, width): (&mut [f32], usize),
    accumulate: bool,
    factor: f32,
    a: Matrix<'_>,
    b: Panels<'_>,
) {
    if m == 0 || n == 0 {
        return;
    }
    let fits =
        a.holds(m, k) && b.first + k <= b.k && b.data.len() >= packed_len(b.k, n) && n <= width && (m - 1) * width + n <= c.len();
    assert!(fits, "gemm: matrix outside its slice");
    #[cfg(target_arch = "x86_64")]
    if super::simd::has_avx512() {
        // SAFETY: the features are there, and the assertion bounds every address that m, n, k and the strides can form.
        return unsafe { avx512::product([m, n, k], (c, width), accumulate, factor, a, b) };
    }
    for (panel, b) in (0..n.div_ceil(PANEL)).map(|panel| (panel, &b.data[(panel * b.k + b.first) * PANEL..])) {
        let columns = PANEL.min(n - panel * PANEL);
        // SAFETY: the assertion above bounds every address that m, columns, k and the strides can form in a, b and c, and c is
        // borrowed mutably, so that it overlaps neither a nor b.
        unsafe {
            gemm::gemm(
                m,
                columns,
                k,
                c.as_mut_ptr().add(panel * PANEL),
                1,
                width as isize,
                accumulate,
                a.data.as_ptr(),
                a.columns as isize,
                a.rows as isize,
                b.as_ptr(),
                1,
                PANEL as isize,
                1.0,
                factor,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// The product on AVX-512: 14 rows by 32 columns in 28 registers.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Matrix, PANEL, Panels};

    /// Rows of the largest tile.
    const ROWS: usize = 14;
    /// Depth of a block: a panel's part of that depth and the tile's rows stay in the first-level cache.
    const DEPTH: usize = 256;

    /// One tile: `depth` steps of rows of a times a panel, into c.
    struct Tile {
        depth: usize,
        a: *const f32,
        row: usize,
        column: usize,
        b: *const f32,
        c: *mut f32,
        width: usize,
        /// Columns of the last vector.
        mask: __mmask16,
        accumulate: bool,
        factor: f32,
    }

    /// # Safety
    /// AVX-512F is there; a, right and c hold what [`super::gemm_packed`] asserts.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn product(
        [m, n, k]: [usize; 3],
        (c, width): (&mut [f32], usize),
        accumulate: bool,
        factor: f32,
        a: Matrix<'_>,
        right: Panels<'_>,
    ) {
        let blocks = k.div_ceil(DEPTH).max(1);
        for block in 0..blocks {
            let (first, last) = (block * k / blocks, (block + 1) * k / blocks);
            for column in (0..n).step_by(PANEL) {
                let columns = PANEL.min(n - column);
                let mut row = 0;
                while row < m {
                    let count = tile_rows(m - row);
                    // SAFETY: all three offsets are to elements of the matrices, by the caller's promise.
                    unsafe {
                        let tile = Tile {
                            depth: last - first,
                            a: a.data.as_ptr().add(row * a.rows + first * a.columns),
                            row: a.rows,
                            column: a.columns,
                            b: right.data.as_ptr().add(column * right.k + (right.first + first) * PANEL),
                            c: c.as_mut_ptr().add(row * width + column),
                            width,
                            mask: 0xffff >> ((16 - columns % 16) % 16),
                            accumulate: accumulate || block > 0,
                            factor,
                        };
                        if columns > 16 { rows::<2>(count, &tile) } else { rows::<1>(count, &tile) }
                    }
                    row += count;
                }
            }
        }
    }

    /// How many of the remaining rows the next tile takes: the last two tiles share what is left.
    fn tile_rows(left: usize) -> usize {
        if left > ROWS && left < 2 * ROWS { left.div_ceil(2) } else { left.min(ROWS) }
    }

    /// # Safety
    /// As [`tile`].
    #[target_feature(enable = "avx512f")]
    unsafe fn rows<const N: usize>(count: usize, t: &Tile) {
        // SAFETY: the caller's promise.
        unsafe {
            match count {
                1 => tile::<1, N>(t),
                2 => tile::<2, N>(t),
                3 => tile::<3, N>(t),
                4 => tile::<4, N>(t),
                5 => tile::<5, N>(t),
                6 => tile::<6, N>(t),
                7 => tile::<7, N>(t),
                8 => tile::<8, N>(t),
                9 => tile::<9, N>(t),
                10 => tile::<10, N>(t),
                11 => tile::<11, N>(t),
                12 => tile::<12, N>(t),
                13 => tile::<13, N>(t),
                _ => tile::<14, N>(t),
            }
        }
    }

    /// # Safety
    /// The pointers reach M rows and `depth` columns of a, `depth` rows of a panel, and M rows of 16 (N - 1) columns and those
    /// of the mask of c.
    #[target_feature(enable = "avx512f")]
    unsafe fn tile<const M: usize, const N: usize>(t: &Tile) {
        let mut acc = [[_mm512_setzero_ps(); N]; M];
        // Two chains of addresses: one would take longer than the products.
        let (mut a, mut lower, mut b) = (t.a, t.a.wrapping_add(M / 2 * t.row), t.b);
        // SAFETY: the caller's promise; the pointers are only read within `depth` steps.
        unsafe {
            for _ in 0..t.depth {
                let mut panel = [_mm512_setzero_ps(); N];
                for (j, v) in panel.iter_mut().enumerate() {
                    *v = _mm512_loadu_ps(b.add(16 * j));
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    let from = if i < M / 2 { a.add(i * t.row) } else { lower.add((i - M / 2) * t.row) };
                    let left = _mm512_set1_ps(*from);
                    for (acc, right) in acc.iter_mut().zip(panel) {
                        *acc = _mm512_fmadd_ps(left, right, *acc);
                    }
                }
                a = a.wrapping_add(t.column);
                lower = lower.wrapping_add(t.column);
                b = b.wrapping_add(PANEL);
            }
            let factor = _mm512_set1_ps(t.factor);
            for (i, acc) in acc.iter().enumerate() {
                for (j, acc) in acc.iter().enumerate() {
                    let mask = if j + 1 == N { t.mask } else { 0xffff };
                    let place = t.c.add(i * t.width + 16 * j);
                    let base = if t.accumulate { _mm512_maskz_loadu_ps(mask, place) } else { _mm512_setzero_ps() };
                    _mm512_mask_storeu_ps(place, mask, _mm512_fmadd_ps(*acc, factor, base));
                }
            }
        }
    }
}
