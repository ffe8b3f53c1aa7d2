//! The matrix product of one thread.

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

    /// The same numbers, rows and columns exchanged.
    pub(crate) const fn t(self) -> Self {
        Self { data: self.data, rows: self.columns, columns: self.rows }
    }

    fn holds(&self, m: usize, n: usize) -> bool {
        m == 0 || n == 0 || (m - 1) * self.rows + (n - 1) * self.columns < self.data.len()
    }
}

/// `c = factor · a b`, or `c += factor · a b` if `accumulate`. a: `[m, k]`, b: `[k, n]`, c: `[m, n]` with rows `width` apart.
pub(crate) fn gemm(
    [m, n, k]: [usize; 3],
    (c, width): (&mut [f32], usize),
    accumulate: bool,
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.holds(m, k) && b.holds(k, n) && n <= width && (m - 1) * width + n <= c.len(), "gemm: matrix outside its slice");
    // SAFETY: the assertion above bounds every address that m, n, k and the strides can form in a, b and c, and c is borrowed
    // mutably, so that it overlaps neither a nor b.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            width as isize,
            accumulate,
            a.data.as_ptr(),
            a.columns as isize,
            a.rows as isize,
            b.data.as_ptr(),
            b.columns as isize,
            b.rows as isize,
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
