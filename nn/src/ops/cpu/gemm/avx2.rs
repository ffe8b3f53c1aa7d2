//! The product on AVX2: 6 rows by 16 columns in 12 registers.

use std::arch::x86_64::*;

use super::{
    Matrix, Right,
    tiles::{self, COLUMNS_APART, ROWS_APART, STRIDED, Tile},
};

/// Rows of the largest tile.
const ROWS: usize = 6;
/// Columns of a tile, and of a packed panel.
const COLUMNS: usize = 16;
/// Steps between two changes of the addresses.
const UNROLL: usize = 4;

/// # Safety
/// AVX2 and FMA are there; a, right and c hold what [`super::product`] asserts.
#[target_feature(enable = "avx2,fma")]
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
            match (tile.columns > 8, right.is_packed()) {
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

/// The lanes of the last of the vectors that hold `columns`.
#[target_feature(enable = "avx2")]
fn mask(columns: usize) -> __m256i {
    let last = (columns - 1) % 8 + 1;
    _mm256_cmpgt_epi32(_mm256_set1_epi32(last as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const N: usize, const PACKED: bool, const LAYOUT: u8>(count: usize, t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match count {
            1 => tile::<1, N, PACKED, LAYOUT>(t),
            2 => tile::<2, N, PACKED, LAYOUT>(t),
            3 => tile::<3, N, PACKED, LAYOUT>(t),
            4 => tile::<4, N, PACKED, LAYOUT>(t),
            5 => tile::<5, N, PACKED, LAYOUT>(t),
            _ => tile::<6, N, PACKED, LAYOUT>(t),
        }
    }
}

/// # Safety
/// The pointers reach M rows and `depth` columns of a, `depth` rows of 8 N columns of b (unless PACKED: of 8 (N - 1) columns and
/// those of the mask), and M rows of 8 (N - 1) columns and those of the mask of c.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const M: usize, const N: usize, const PACKED: bool, const LAYOUT: u8>(t: &Tile) {
    let mut acc = [[_mm256_setzero_ps(); N]; M];
    let (whole, last) = (t.columns.is_multiple_of(8), mask(t.columns));
    let row = if LAYOUT == COLUMNS_APART { 1 } else { t.row };
    let column = if LAYOUT == ROWS_APART { 1 } else { t.column };
    let step = if PACKED { COLUMNS } else { t.step };
    // Two chains of addresses: one would take longer than the products.
    let (mut a, mut lower, mut b) = (t.a, t.a.wrapping_add(M / 2 * row), t.b);
    // SAFETY: the caller's promise; the pointers are only read within `depth` steps.
    unsafe {
        for _ in 0..t.depth / UNROLL {
            for u in 0..UNROLL {
                let from = [a.add(u * column), lower.add(u * column)];
                step_of::<M, N, PACKED>(&mut acc, from, row, b.add(u * step), last);
            }
            a = a.wrapping_add(UNROLL * column);
            lower = lower.wrapping_add(UNROLL * column);
            b = b.wrapping_add(UNROLL * step);
        }
        for u in 0..t.depth % UNROLL {
            let from = [a.add(u * column), lower.add(u * column)];
            step_of::<M, N, PACKED>(&mut acc, from, row, b.add(u * step), last);
        }
        let factor = _mm256_set1_ps(t.factor);
        for (i, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                let place = t.c.add(i * t.width + 8 * j);
                if whole || j + 1 < N {
                    let base = if t.accumulate { _mm256_loadu_ps(place) } else { _mm256_setzero_ps() };
                    _mm256_storeu_ps(place, _mm256_fmadd_ps(*acc, factor, base));
                } else {
                    let base = if t.accumulate { _mm256_maskload_ps(place, last) } else { _mm256_setzero_ps() };
                    _mm256_maskstore_ps(place, last, _mm256_fmadd_ps(*acc, factor, base));
                }
            }
        }
    }
}

/// One step of the depth: a column of a (its upper and its lower half) times a row of b.
///
/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn step_of<const M: usize, const N: usize, const PACKED: bool>(
    acc: &mut [[__m256; N]; M],
    [upper, lower]: [*const f32; 2],
    row: usize,
    b: *const f32,
    mask: __m256i,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut right = [_mm256_setzero_ps(); N];
        for (j, v) in right.iter_mut().enumerate() {
            let from = b.add(8 * j);
            *v = if PACKED || j + 1 < N { _mm256_loadu_ps(from) } else { _mm256_maskload_ps(from, mask) };
        }
        for (i, acc) in acc.iter_mut().enumerate() {
            let from = if i < M / 2 { upper.add(i * row) } else { lower.add((i - M / 2) * row) };
            let left = _mm256_broadcast_ss(&*from);
            for (acc, right) in acc.iter_mut().zip(right) {
                *acc = _mm256_fmadd_ps(left, right, *acc);
            }
        }
    }
}
