//! The product on AVX-512: 14 rows by 32 columns in 28 registers.

use std::{arch::x86_64::*, hint::black_box};

use super::{
    Matrix, Right,
    tiles::{self, COLUMNS_APART, ROWS_APART, STRIDED, Tile},
};

/// Rows of the largest tile.
const ROWS: usize = 14;
/// Columns of a tile, and of a packed panel.
const COLUMNS: usize = 32;
/// # Safety
/// AVX-512F is there; a, right and c hold what [`super::product`] asserts.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(
    sizes: [usize; 3],
    c: (&mut [f32], usize),
    accumulate: bool,
    factor: f32,
    a: Matrix<'_>,
    right: Right<'_>,
) {
    let kernel = |count: usize, tile: &Tile| {
        // SAFETY: the features are there, and a tile reaches what it may.
        unsafe {
            match (tile.columns > 16, right.is_packed()) {
                (true, true) => layouts::<2, true>(count, tile),
                (false, true) => layouts::<1, true>(count, tile),
                (true, false) => layouts::<2, false>(count, tile),
                (false, false) => layouts::<1, false>(count, tile),
            }
        }
    };
    // SAFETY: the caller's promise.
    unsafe { tiles::each([ROWS, COLUMNS], sizes, c, (accumulate, factor), a, right, kernel) }
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn layouts<const N: usize, const PACKED: bool>(count: usize, t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match (t.row, t.column) {
            (_, 1) => rows::<N, PACKED, ROWS_APART>(count, t),
            (1, _) => rows::<N, PACKED, COLUMNS_APART>(count, t),
            _ => rows::<N, PACKED, STRIDED>(count, t),
        }
    }
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn rows<const N: usize, const PACKED: bool, const LAYOUT: u8>(count: usize, t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            1 => tile::<1, N, PACKED, LAYOUT>(t),
            2 => tile::<2, N, PACKED, LAYOUT>(t),
            3 => tile::<3, N, PACKED, LAYOUT>(t),
            4 => tile::<4, N, PACKED, LAYOUT>(t),
            5 => tile::<5, N, PACKED, LAYOUT>(t),
            6 => tile::<6, N, PACKED, LAYOUT>(t),
            7 => tile::<7, N, PACKED, LAYOUT>(t),
            8 => tile::<8, N, PACKED, LAYOUT>(t),
            9 => tile::<9, N, PACKED, LAYOUT>(t),
            10 => tile::<10, N, PACKED, LAYOUT>(t),
            11 => tile::<11, N, PACKED, LAYOUT>(t),
            12 => tile::<12, N, PACKED, LAYOUT>(t),
            13 => tile::<13, N, PACKED, LAYOUT>(t),
            _ => tile::<14, N, PACKED, LAYOUT>(t),
        }
    }
}

/// # Safety
/// The pointers reach M rows and `depth` columns of a, `depth` rows of a panel (without padding: of the tile's columns), and M
/// rows of 16 (N - 1) columns and those of the mask of c.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const M: usize, const N: usize, const PACKED: bool, const LAYOUT: u8>(t: &Tile) {
    let mut acc = [[_mm512_setzero_ps(); N]; M];
    // The columns of the last vector.
    let last: __mmask16 = 0xffff >> ((16 - t.columns % 16) % 16);
    let column = if LAYOUT == ROWS_APART { 1 } else { t.column };
    let step = if PACKED { COLUMNS } else { t.step };
    let mut a = if LAYOUT == COLUMNS_APART { Lines::of_distance(t.a, 1) } else { Lines::opaque(t.a, t.row) };
    let mut b = t.b;
    // SAFETY: the caller's promise; the pointers are only read within `depth` steps.
    unsafe {
        for _ in 0..t.depth {
            let mut panel = [_mm512_setzero_ps(); N];
            for (j, v) in panel.iter_mut().enumerate() {
                let whole = PACKED || j + 1 < N;
                *v = if whole { _mm512_loadu_ps(b.add(16 * j)) } else { _mm512_maskz_loadu_ps(last, b.add(16 * j)) };
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let left = _mm512_set1_ps(*a.line(i));
                for (acc, right) in acc.iter_mut().zip(panel) {
                    *acc = _mm512_fmadd_ps(left, right, *acc);
                }
            }
            a = a.advanced(column);
            b = b.wrapping_add(step);
        }
        let factor = _mm512_set1_ps(t.factor);
        for (i, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                let mask = if j + 1 == N { last } else { 0xffff };
                let place = t.c.add(i * t.width + 16 * j);
                let base = if t.accumulate { _mm512_maskz_loadu_ps(mask, place) } else { _mm512_setzero_ps() };
                _mm512_mask_storeu_ps(place, mask, _mm512_fmadd_ps(*acc, factor, base));
            }
        }
    }
}

/// The rows of a tile, each an address away that an instruction forms by itself. Left alone, the compiler goes from row to row by
/// additions, and their chain takes longer than the products.
#[derive(Clone, Copy)]
struct Lines {
    /// Rows 0, 5 and 10.
    first: *const f32,
    fifth: *const f32,
    tenth: *const f32,
    /// The distance of two rows, twice and three times that.
    once: usize,
    twice: usize,
    thrice: usize,
}

impl Lines {
    #[inline(always)]
    const fn of_distance(a: *const f32, row: usize) -> Self {
        Self {
            first: a,
            fifth: a.wrapping_add(5 * row),
            tenth: a.wrapping_add(10 * row),
            once: row,
            twice: 2 * row,
            thrice: 3 * row,
        }
    }

    /// Lines whose addresses the compiler knows nothing about.
    #[inline(always)]
    fn opaque(a: *const f32, row: usize) -> Self {
        let Self { first, fifth, tenth, once, twice, thrice } = Self::of_distance(a, row);
        Self {
            first,
            fifth: black_box(fifth),
            tenth: black_box(tenth),
            once: black_box(once),
            twice: black_box(twice),
            thrice: black_box(thrice),
        }
    }

    #[inline(always)]
    const fn line(self, i: usize) -> *const f32 {
        let start = if i < 5 {
            self.first
        } else if i < 10 {
            self.fifth
        } else {
            self.tenth
        };
        match i % 5 {
            0 => start,
            1 => start.wrapping_add(self.once),
            2 => start.wrapping_add(self.twice),
            3 => start.wrapping_add(self.thrice),
            _ => start.wrapping_add(2 * self.twice),
        }
    }

    #[inline(always)]
    const fn advanced(self, by: usize) -> Self {
        Self {
            first: self.first.wrapping_add(by),
            fifth: self.fifth.wrapping_add(by),
            tenth: self.tenth.wrapping_add(by),
            ..self
        }
    }
}
