//! Matrix products in float64 on one thread: the parallelism is the caller's, so results do not depend on the thread count.

/// A row-major matrix, `[rows, cols]`, rows one after the other.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub values: &'a [f64],
    pub rows: usize,
    pub cols: usize,
}

/// out [a.rows, b.rows] = a · bᵀ. Both have the same number of columns.
pub(super) fn times_transposed(a: Matrix, b: Matrix, out: &mut [f64]) {
    debug_assert_eq!(a.cols, b.cols);
    product(a, b, (1, b.cols), b.rows, out);
}

/// out [a.rows, b.cols] = a · b. `b` has as many rows as `a` has columns.
pub(super) fn times(a: Matrix, b: Matrix, out: &mut [f64]) {
    debug_assert_eq!(a.cols, b.rows);
    product(a, b, (b.cols, 1), b.cols, out);
}

/// `strides`: of `b` along the summed dimension and along the columns of the result.
fn product(a: Matrix, b: Matrix, strides: (usize, usize), n: usize, out: &mut [f64]) {
    let (m, k) = (a.rows, a.cols);
    assert!(a.values.len() >= m * k && b.values.len() >= b.rows * b.cols && out.len() >= m * n, "matrix sizes");
    // SAFETY: the lengths were checked above; the kernel reads m·k and k·n numbers at these strides and writes m·n; `out` is
    // borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.values.as_ptr(),
            1,
            k as isize,
            b.values.as_ptr(),
            strides.1 as isize,
            strides.0 as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_non_square_matrices() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let a = Matrix { values: &a, rows: 2, cols: 3 };
        let b = [1.0, 0.0, 2.0, -1.0, 3.0, 1.0, 0.5, 0.5, 0.5, 2.0, 2.0, 2.0];
        let mut out = [0.0; 8];
        times_transposed(a, Matrix { values: &b, rows: 4, cols: 3 }, &mut out);
        assert_eq!(out, [7.0, 8.0, 3.0, 12.0, 16.0, 17.0, 7.5, 30.0]);
        times(a, Matrix { values: &b, rows: 3, cols: 4 }, &mut out);
        assert_eq!(out, [8.5, 8.0, 9.0, 6.0, 22.0, 17.0, 22.5, 10.5]);
    }
}
