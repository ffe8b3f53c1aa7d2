//! A matrix to panels of columns, as the kernels read it.

use super::{Matrix, panel_width};
#[cfg(target_arch = "x86_64")]
use crate::ops::cpu::simd::{Level, level};

/// Rows that a transposed matrix is read of at a time.
const RUN: usize = 16;
/// Rows from one that is read to one that is asked for.
const AHEAD: usize = 8;

/// Writes columns `panel * panel_width()..` as `[row][panel_width()]`, zeros right of column `n`.
pub(super) fn panel(b: &Matrix<'_>, n: usize, panel: usize, out: &mut [f32]) {
    match panel_width() {
        16 => of_width::<16>(b, n, panel, out),
        _ => of_width::<32>(b, n, panel, out),
    }
}

fn of_width<const PANEL: usize>(b: &Matrix<'_>, n: usize, panel: usize, out: &mut [f32]) {
    let from = panel * PANEL;
    let width = PANEL.min(n - from);
    let data = &b.data[(from * b.columns).min(b.data.len())..];
    if b.columns == 1 && width == PANEL {
        for (out, line) in out.chunks_exact_mut(PANEL).zip(0..) {
            let line = line * b.rows;
            fetch::<PANEL>(data, line + AHEAD * b.rows);
            // Of known length, so that no function is called for it.
            out.copy_from_slice(&data[line..line + PANEL]);
        }
        return;
    }
    if b.columns == 1 {
        for (k, out) in out.chunks_exact_mut(PANEL).enumerate() {
            out[..width].copy_from_slice(&data[k * b.rows..k * b.rows + width]);
            out[width..].fill(0.0);
        }
        return;
    }
    if width < PANEL {
        out.fill(0.0);
    }
    #[cfg(target_arch = "x86_64")]
    if b.rows == 1 && level() != Level::Portable {
        // SAFETY: the feature is there.
        return unsafe { transposed::<PANEL>(data, b.columns, width, out) };
    }
    if b.rows > b.columns {
        by_row::<PANEL>(data, [b.rows, b.columns], width, out);
    } else {
        by_column::<PANEL>(data, [b.rows, b.columns], width, out);
    }
}

/// Asks for a line of numbers that is wanted soon: those of a wide matrix lie on pages of their own, which no processor foresees.
#[inline(always)]
fn fetch<const PANEL: usize>(data: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    for part in (0..PANEL).step_by(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(data.as_ptr().wrapping_add(at + part).cast()) };
    }
}

/// Along the rows, where the numbers of a row lie closer together.
fn by_row<const PANEL: usize>(data: &[f32], [rows, columns]: [usize; 2], width: usize, out: &mut [f32]) {
    for (k, out) in out.chunks_exact_mut(PANEL).enumerate() {
        let line = &data[k * rows..=k * rows + (width - 1) * columns];
        for (out, v) in out.iter_mut().zip(line.iter().step_by(columns)) {
            *out = *v;
        }
    }
}

/// Along the columns, some rows at a time.
fn by_column<const PANEL: usize>(data: &[f32], [rows, columns]: [usize; 2], width: usize, out: &mut [f32]) {
    for (block, out) in out.chunks_mut(RUN * PANEL).enumerate() {
        let count = out.len() / PANEL;
        for j in 0..width {
            let column = &data[RUN * block * rows + j * columns..];
            let column = &column[..(count - 1) * rows + 1];
            for k in 0..count {
                out[k * PANEL + j] = column[k * rows];
            }
        }
    }
}

/// As [`by_column`] with the numbers of a column side by side: squares of eight by eight are turned in registers.
///
/// # Safety
/// AVX2 is there.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transposed<const PANEL: usize>(data: &[f32], columns: usize, width: usize, out: &mut [f32]) {
    let k = out.len() / PANEL;
    let squares = if width >= 8 { k / 8 * 8 } else { 0 };
    for row in (0..squares).step_by(8) {
        let mut j = 0;
        while j < width {
            // The last square of a narrow panel overlaps the one before.
            let column = j.min(width - 8);
            // SAFETY: rows row..row + 8 and columns column..column + 8 are inside data, whose last element is (k - 1, width - 1)
            // at least, and inside the panel.
            unsafe {
                turn_square::<PANEL>(data[column * columns + row..].as_ptr(), columns, out[row * PANEL + column..].as_mut_ptr());
            }
            j += 8;
        }
    }
    for j in 0..width {
        for row in squares..k {
            out[row * PANEL + j] = data[j * columns + row];
        }
    }
}

/// # Safety
/// `from` reaches eight runs of eight, `distance` apart; `to` eight of eight, PANEL apart.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn turn_square<const PANEL: usize>(from: *const f32, distance: usize, to: *mut f32) {
    use std::arch::x86_64::*;
    // SAFETY: the caller's promise.
    let line: [__m256; 8] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(from.add(i * distance)) });
    let pair = |i: usize| (_mm256_unpacklo_ps(line[i], line[i + 1]), _mm256_unpackhi_ps(line[i], line[i + 1]));
    let ((a0, a1), (b0, b1), (c0, c1), (d0, d1)) = (pair(0), pair(2), pair(4), pair(6));
    let four = |x: __m256, y: __m256| (_mm256_shuffle_ps::<0x44>(x, y), _mm256_shuffle_ps::<0xee>(x, y));
    let ((l0, l1), (l2, l3), (h0, h1), (h2, h3)) = (four(a0, b0), four(a1, b1), four(c0, d0), four(c1, d1));
    for (i, (low, high)) in [(l0, h0), (l1, h1), (l2, h2), (l3, h3)].into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(to.add(i * PANEL), _mm256_permute2f128_ps::<0x20>(low, high));
            _mm256_storeu_ps(to.add((i + 4) * PANEL), _mm256_permute2f128_ps::<0x31>(low, high));
        }
    }
}
