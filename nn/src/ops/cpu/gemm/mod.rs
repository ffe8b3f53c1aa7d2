//! The matrix product of one thread: row-major result, second factor packed once and used for many rows.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod pack;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::ops::Range;

use rayon::prelude::*;

use super::{
    scratch::{Aligned, with_scratch},
    simd::{Level, level},
};

/// Columns of a packed panel: those of the kernels' tiles. A tile that used half of a wider panel would reach half of the sets of
/// the first-level cache, and the panel would not stay there.
fn panel_width() -> usize {
    match level() {
        Level::Avx2 => 16,
        Level::Avx512 | Level::Portable => 32,
    }
}

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
        let mut data = Aligned::fresh(packed_len(k, n));
        data.get_mut().par_chunks_exact_mut(panel_width() * k).enumerate().for_each(|(panel, out)| {
            for (part, out) in parts.iter().zip(out.chunks_exact_mut(panel_width() * rows)) {
                pack::panel(part, n, panel, out);
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
        product([m, self.n, self.k], c, false, 1.0, a, Right::Panels { data: self.data.get(), k: self.k, first: 0 });
    }

    /// The product with rows `part` of self only. a: `[m, part]`.
    pub(crate) fn product_part(&self, part: Range<usize>, c: &mut [f32], accumulate: bool, a: Matrix<'_>) {
        let right = Right::Panels { data: self.data.get(), k: self.k, first: part.start };
        product([c.len() / self.n, self.n, part.len()], (c, self.n), accumulate, 1.0, a, right);
    }
}

/// Length of `[k, n]` packed.
fn packed_len(k: usize, n: usize) -> usize {
    n.next_multiple_of(panel_width()) * k
}

/// Rows of a first factor up to which it does not pay to pack the second.
const FEW: usize = 28;

/// `c = factor · a b`, or `c += factor · a b` if `accumulate`. a: `[m, k]`, b: `[k, n]`, c: `[m, n]` with rows `width` apart.
pub(crate) fn gemm([m, n, k]: [usize; 3], c: (&mut [f32], usize), accumulate: bool, factor: f32, a: Matrix<'_>, b: Matrix<'_>) {
    assert!(b.holds(k, n), "gemm: matrix outside its slice");
    if m <= FEW && b.columns == 1 {
        return product([m, n, k], c, accumulate, factor, a, Right::Rows { data: b.data, width: b.rows });
    }
    with_packed(b, [k, n], |packed| packed.product(m, c, accumulate, factor, a));
}

/// A second factor `[k, n]` packed into the memory that a thread keeps, while [`with_packed`] runs.
#[derive(Clone, Copy)]
pub(crate) struct Lent<'a> {
    data: &'a [f32],
    k: usize,
    n: usize,
}

impl Lent<'_> {
    /// As [`gemm`].
    pub(crate) fn product(&self, m: usize, c: (&mut [f32], usize), accumulate: bool, factor: f32, a: Matrix<'_>) {
        self.product_part(0..self.k, m, c, accumulate, factor, a);
    }

    /// The product with rows `part` only. a: `[m, part]`.
    pub(crate) fn product_part(
        &self,
        part: Range<usize>,
        m: usize,
        c: (&mut [f32], usize),
        accumulate: bool,
        factor: f32,
        a: Matrix<'_>,
    ) {
        let right = Right::Panels { data: self.data, k: self.k, first: part.start };
        product([m, self.n, part.len()], c, accumulate, factor, a, right);
    }

    /// Columns `part` only, which begin at a multiple of 32.
    pub(crate) fn columns(&self, part: Range<usize>) -> Self {
        assert!(part.start.is_multiple_of(panel_width()) && part.end <= self.n, "gemm: columns {part:?} of {}", self.n);
        Self { data: &self.data[part.start * self.k..], k: self.k, n: part.len() }
    }
}

/// Runs `f` with `b`, `[k, n]`, packed.
pub(crate) fn with_packed<R>(b: Matrix<'_>, [k, n]: [usize; 2], f: impl FnOnce(Lent<'_>) -> R) -> R {
    assert!(b.holds(k, n), "gemm: matrix outside its slice");
    with_scratch(packed_len(k, n), |data| {
        for (panel, out) in data.chunks_exact_mut(panel_width() * k.max(1)).enumerate() {
            pack::panel(&b, n, panel, out);
        }
        f(Lent { data, k, n })
    })
}

/// A second factor, ready for the kernels.
#[derive(Clone, Copy)]
enum Right<'a> {
    /// Panel after panel of [`panel_width`] columns, `[k][panel_width]` each, of which rows `first..` are used.
    Panels { data: &'a [f32], k: usize, first: usize },
    /// Where it lies: rows one after another, `width` apart.
    Rows { data: &'a [f32], width: usize },
}

impl Right<'_> {
    const fn data(&self) -> &[f32] {
        match self {
            Self::Panels { data, .. } | Self::Rows { data, .. } => data,
        }
    }

    /// Where element (row, column) lies.
    fn offset(&self, row: usize, column: usize) -> usize {
        match self {
            Self::Panels { k, first, .. } => {
                let panel = panel_width();
                (column / panel * k + first + row) * panel + column % panel
            }
            Self::Rows { width, .. } => row * width + column,
        }
    }

    /// From row to row.
    fn step(&self) -> usize {
        match self {
            Self::Panels { .. } => panel_width(),
            Self::Rows { width, .. } => *width,
        }
    }

    /// Whether vectors may reach beyond the last column.
    const fn is_packed(&self) -> bool {
        matches!(self, Self::Panels { .. })
    }

    fn holds(&self, k: usize, n: usize) -> bool {
        match self {
            Self::Panels { data, k: all, first } => first + k <= *all && data.len() >= packed_len(*all, n),
            Self::Rows { data, width } => Matrix::rows(data, *width).holds(k, n),
        }
    }
}

/// As [`gemm`], with b ready.
fn product([m, n, k]: [usize; 3], (c, width): (&mut [f32], usize), accumulate: bool, factor: f32, a: Matrix<'_>, b: Right<'_>) {
    if m == 0 || n == 0 {
        return;
    }
    let fits = a.holds(m, k) && b.holds(k, n) && n <= width && (m - 1) * width + n <= c.len();
    assert!(fits, "gemm: matrix outside its slice");
    match level() {
        // SAFETY: the features are there, and the assertion bounds every address that m, n, k and the strides can form.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::product([m, n, k], (c, width), accumulate, factor, a, b) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::product([m, n, k], (c, width), accumulate, factor, a, b) },
        Level::Portable => portable([m, n, k], (c, width), accumulate, factor, a, b),
    }
}

/// The product through the `gemm` crate, which knows the vectors of other processors.
fn portable([m, n, k]: [usize; 3], (c, width): (&mut [f32], usize), accumulate: bool, factor: f32, a: Matrix<'_>, b: Right<'_>) {
    let panel = panel_width();
    for first in (0..n).step_by(panel) {
        let columns = panel.min(n - first);
        // SAFETY: the caller's assertion bounds every address that m, columns, k and the strides can form in a, b and c, and c is
        // borrowed mutably, so that it overlaps neither a nor b.
        unsafe {
            gemm::gemm(
                m,
                columns,
                k,
                c.as_mut_ptr().add(first),
                1,
                width as isize,
                accumulate,
                a.data.as_ptr(),
                a.columns as isize,
                a.rows as isize,
                b.data().as_ptr().add(b.offset(0, first)),
                1,
                b.step() as isize,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Key;

    /// c + factor·a b, or without c.
    fn expected([m, n, k]: [usize; 3], accumulate: bool, factor: f32, a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
        let element = |i: usize, j: usize| (0..k).map(|l| f64::from(a.at(i, l)) * f64::from(b.at(l, j))).sum::<f64>();
        let base = if accumulate { 1.0 } else { 0.0 };
        (0..m * n).map(|i| (base + f64::from(factor) * element(i / n, i % n)) as f32).collect()
    }

    fn close(name: &str, got: &[f32], expected: &[f32]) {
        let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-3, "{name}: off by {worst}");
    }

    #[test]
    fn products_of_all_sizes_and_layouts() {
        let numbers = Key::new(1, "gemm").normal(1 << 17);
        let (left, right) = numbers.split_at(1 << 16);
        for (i, m) in [1, 2, 5, 6, 7, 13, 14, 15, 20, 21, 29].into_iter().enumerate() {
            for (j, n) in [1, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48, 70].into_iter().enumerate() {
                let k = [1, 3, 8, 19, 64, 257, 600][(i + 2 * j) % 7];
                let (accumulate, factor) = (j % 2 == 0, if i % 2 == 0 { 1.0 } else { -0.5 });
                let lefts = [Matrix::rows(&left[1..], k), Matrix::rows(left, m).t(), Matrix::rows(left, k + 5)];
                let rights = [Matrix::rows(right, n), Matrix::rows(&right[3..], k).t(), Matrix::rows(right, n + 3)];
                for (ways, (a, b)) in lefts.into_iter().flat_map(|a| rights.map(|b| (a, b))).enumerate() {
                    let name = format!("{m} {n} {k} {accumulate} {factor} {ways}");
                    let expected = expected([m, n, k], accumulate, factor, a, b);
                    let mut c = vec![1.0; m * n];
                    gemm([m, n, k], (&mut c, n), accumulate, factor, a, b);
                    close(&name, &c, &expected);
                    let mut c = vec![1.0; m * n];
                    with_packed(b, [k, n], |b| b.product(m, (&mut c, n), accumulate, factor, a));
                    close(&name, &c, &expected);
                }
            }
        }
    }

    #[test]
    #[allow(clippy::unwrap_used)]
    fn the_products_of_lesser_processors() {
        let lesser = [("avx2", Level::Avx2), ("portable", Level::Portable)].into_iter().filter(|(_, l)| *l < level());
        for (name, _) in lesser {
            let run = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["gemm::tests", "--skip", "lesser_processors"])
                .env("STRATA_SIMD", name)
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&run.stdout).into_owned();
            assert!(run.status.success() && said.contains("products_of_all_sizes_and_layouts ... ok"), "{name}: {said}");
        }
    }

    #[test]
    fn parts_of_a_lent_factor() {
        let numbers = Key::new(3, "gemm").normal(1 << 14);
        let (left, right) = numbers.split_at(1 << 13);
        let (a, b) = (Matrix::rows(left, 50), Matrix::rows(right, 70));
        with_packed(b, [50, 70], |packed| {
            let mut c = vec![1.0; 9 * 38];
            packed.columns(32..70).product(9, (&mut c, 38), true, 0.5, a);
            close("columns", &c, &expected([9, 38, 50], true, 0.5, a, Matrix::rows(&right[32..], 70)));
            let mut c = vec![0.0; 9 * 70];
            packed.product_part(17..50, 9, (&mut c, 70), false, 1.0, Matrix::rows(&left[17..], 50));
            let (a, b) = (Matrix::rows(&left[17..], 50), Matrix::rows(&right[17 * 70..], 70));
            close("rows", &c, &expected([9, 70, 33], false, 1.0, a, b));
        });
    }

    #[test]
    fn parts_that_lie_scattered() {
        let numbers = Key::new(2, "gemm").normal(1 << 14);
        for [rows, columns] in [[2, 90], [90, 2]] {
            let parts: Vec<Matrix<'_>> = (0..2).map(|i| Matrix::strided(&numbers[i..], rows, columns)).collect();
            let packed = Packed::new(&parts, 40, 45);
            let a = Matrix::rows(&numbers[77..], 80);
            let mut c = vec![0.0; 9 * 45];
            packed.product(&mut c, false, a);
            let b: Vec<f32> = (0..80 * 45).map(|i| parts[i / 45 / 40].at(i / 45 % 40, i % 45)).collect();
            close("scattered", &c, &expected([9, 45, 80], false, 1.0, a, Matrix::rows(&b, 45)));
        }
    }
}
