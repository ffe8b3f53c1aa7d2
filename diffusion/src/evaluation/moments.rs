//! Means and covariances, gathered over any number of rows.

use faer::{Accum, Mat, MatRef};

use super::{
    check_rows,
    dense::{accumulate, widened},
    same_dim,
};
use crate::{Error, Result};

/// Mean and covariance of features: what a Fréchet distance looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// `[d]`.
    pub mean: Vec<f64>,
    /// `[d, d]`, row-major and symmetric; divisor n - 1.
    pub covariance: Vec<f64>,
    /// Pictures behind it; absent where a file does not say.
    pub count: Option<u64>,
}

impl Statistics {
    /// Of numbers from elsewhere.
    ///
    /// # Errors
    /// If the lengths do not agree, a number is not finite, or the covariance is not symmetric.
    pub fn new(mean: Vec<f64>, covariance: Vec<f64>, count: Option<u64>) -> Result<Self> {
        let d = mean.len();
        if d == 0 || covariance.len() != d * d {
            let message = format!("statistics: expected a mean [d] and a covariance [d, d], got {d} and {}", covariance.len());
            return Err(Error::Config(message));
        }
        if mean.iter().chain(&covariance).any(|v| !v.is_finite()) {
            return Err(Error::NonFinite("in the mean or covariance of features".into()));
        }
        let scale = covariance.iter().fold(0f64, |m, v| m.max(v.abs()));
        let asymmetry = (0..d * d).map(|i| (covariance[i] - covariance[i % d * d + i / d]).abs()).fold(0f64, f64::max);
        if asymmetry > 1e-6 * scale {
            let message = format!("covariance of features: expected a symmetric matrix, elements differ by up to {asymmetry:e}");
            return Err(Error::Config(message));
        }
        Ok(Self { mean, covariance, count })
    }

    /// Width of the features.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    pub(super) fn matrix(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.covariance, self.dim(), self.dim())
    }
}

/// Mean and scatter of the rows seen so far, float64. Memory does not grow with their number.
#[derive(Clone, Debug)]
pub struct Moments {
    count: u64,
    mean: Vec<f64>,
    /// Sum of the outer products of the rows less their mean.
    scatter: Mat<f64>,
}

impl Moments {
    /// Of no row yet; rows have `dim` numbers.
    pub fn new(dim: usize) -> Self {
        Self { count: 0, mean: vec![0.0; dim], scatter: Mat::zeros(dim, dim) }
    }

    /// Of all of `rows`, `[n, dim]`.
    ///
    /// # Errors
    /// As [`Moments::add`].
    pub fn of(dim: usize, rows: &[f32]) -> Result<Self> {
        // Blocks bound the memory for the float64 copy.
        const ROWS: usize = 1024;
        let mut moments = Self::new(dim);
        check_rows(dim, rows, 0)?;
        rows.chunks(ROWS * dim).try_for_each(|block| moments.add(block))?;
        Ok(moments)
    }

    /// Adds rows, `[n, dim]`.
    ///
    /// # Errors
    /// If they are not whole rows, or a number is not finite.
    pub fn add(&mut self, rows: &[f32]) -> Result<()> {
        let dim = self.mean.len();
        check_rows(dim, rows, self.count as usize)?;
        if rows.is_empty() {
            return Ok(());
        }
        let n = rows.len() / dim;
        let mut mean = vec![0.0; dim];
        for row in rows.chunks_exact(dim) {
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v));
        }
        mean.iter_mut().for_each(|m| *m /= n as f64);
        let centred = widened(rows, dim, Some(&mean));
        accumulate(self.scatter.as_mut(), Accum::Add, centred.transpose(), centred.as_ref());
        self.shift_to(n as u64, &mean);
        Ok(())
    }

    /// Adds what another has seen, for example another process.
    ///
    /// # Errors
    /// If its rows have another width.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        same_dim(self.mean.len(), other.mean.len())?;
        self.scatter += &other.scatter;
        self.shift_to(other.count, &other.mean);
        Ok(())
    }

    /// How many numbers rows of `dim` come to.
    pub(super) fn numbers(dim: usize) -> usize {
        dim.saturating_mul(dim).saturating_add(dim).saturating_add(1)
    }

    /// All of it as numbers: count, mean, scatter.
    pub(super) fn to_numbers(&self) -> Vec<f64> {
        let d = self.mean.len();
        let scatter = (0..d * d).map(|k| self.scatter[(k % d, k / d)]);
        std::iter::once(self.count as f64).chain(self.mean.iter().copied()).chain(scatter).collect()
    }

    /// What [`Moments::to_numbers`] gave for rows of `dim` numbers; `None` if they are too few.
    pub(super) fn from_numbers(dim: usize, numbers: &[f64]) -> Option<Self> {
        let (count, rest) = numbers.split_first()?;
        let (mean, scatter) = rest.split_at_checked(dim)?;
        let scatter = (scatter.len() == dim * dim).then(|| Mat::from_fn(dim, dim, |i, j| scatter[j * dim + i]))?;
        Some(Self { count: *count as u64, mean: mean.to_vec(), scatter })
    }

    /// Joins the mean of `n` further rows, whose scatter about it has been added (Chan et al. 1979).
    fn shift_to(&mut self, n: u64, mean: &[f64]) {
        let (before, new) = (self.count as f64, n as f64);
        let all = before + new;
        if n == 0 {
            return;
        }
        let delta: Vec<f64> = mean.iter().zip(&self.mean).map(|(new, old)| new - old).collect();
        if self.count > 0 {
            let column = MatRef::from_column_major_slice(&delta, delta.len(), 1);
            let scaled = faer::Scale(before * new / all) * column;
            accumulate(self.scatter.as_mut(), Accum::Add, scaled.as_ref(), column.transpose());
        }
        self.mean.iter_mut().zip(&delta).for_each(|(m, d)| *m += d * (new / all));
        self.count += n;
    }

    /// Width of the rows.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Rows seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean and covariance of the rows.
    ///
    /// # Errors
    /// If there are fewer than two.
    pub fn statistics(&self) -> Result<Statistics> {
        if self.count < 2 {
            let message = format!("a covariance needs at least 2 pictures, got {}", self.count);
            return Err(Error::Config(message));
        }
        let (d, divisor) = (self.mean.len(), (self.count - 1) as f64);
        // The product's two halves may differ in the last digit.
        let at = |i: usize, j: usize| self.scatter[(i, j)].midpoint(self.scatter[(j, i)]) / divisor;
        let covariance = (0..d * d).map(|k| at(k / d, k % d)).collect();
        Ok(Statistics { mean: self.mean.clone(), covariance, count: Some(self.count) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rows(n: usize, offset: f32) -> Vec<f32> {
        (0..n * 3).map(|i| offset + ((i * i + 3) % 17) as f32 * 0.25).collect()
    }

    #[test]
    fn any_division_and_merging_gives_the_same_statistics() {
        // A large offset: sums of squares would lose all digits.
        let all = rows(40, 1e4);
        let whole = Moments::of(3, &all).unwrap().statistics().unwrap();
        let mut left = Moments::new(3);
        [0..7, 7..8, 8..30].into_iter().for_each(|r| left.add(&all[r.start * 3..r.end * 3]).unwrap());
        let mut merged = Moments::new(3);
        merged.merge(&left).unwrap();
        merged.merge(&Moments::of(3, &all[90..]).unwrap()).unwrap();
        let parts = merged.statistics().unwrap();
        assert_eq!(parts.count, Some(40));
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9 * b.abs().max(1.0));
        assert!(near(&parts.mean, &whole.mean) && near(&parts.covariance, &whole.covariance));
        let column: Vec<f64> = all.chunks(3).map(|r| f64::from(r[0])).collect();
        let mean = column.iter().sum::<f64>() / 40.0;
        let variance = column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 39.0;
        assert!((whole.mean[0] - mean).abs() < 1e-9 && (whole.covariance[0] - variance).abs() < 1e-9);
    }

    #[test]
    fn what_has_no_covariance_is_refused() {
        let message = Moments::of(3, &rows(1, 0.0)).unwrap().statistics().unwrap_err().to_string();
        assert!(message.contains("at least 2 pictures, got 1"), "{message}");
        let mut bad = rows(4, 0.0);
        bad[7] = f32::NAN;
        let message = Moments::of(3, &bad).unwrap_err().to_string();
        assert!(message.contains("picture 2"), "{message}");
        assert!(Moments::of(3, &bad[..5]).is_err());
        assert!(Statistics::new(vec![0.0; 2], vec![1.0, 0.5, 0.0, 1.0], None).is_err());
        assert!(Statistics::new(vec![0.0; 2], vec![1.0; 3], None).is_err());
        assert!(Statistics::new(vec![f64::NAN], vec![1.0], None).is_err());
    }
}
