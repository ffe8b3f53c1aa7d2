//! The Fréchet distance between two Gaussians (Dowson & Landau 1982), which of Inception features is FID (Heusel et al. 2017).
//!
//! `|mu1 - mu2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½`. With `S = L Lᵀ` for each, the last trace is the sum of the singular values of
//! `L1ᵀ L2`: nothing is inverted and no root of an unsymmetric matrix is taken, so that covariances without full rank (fewer
//! pictures than dimensions) need no epsilon, and no imaginary part can arise.

use faer::{Mat, Side};
use serde::Serialize;

use super::{dense::product, moments::Statistics, same_dim};
use crate::{Error, Result};

/// A Fréchet distance and what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Frechet {
    /// The squared distance, which the literature calls the distance.
    pub distance: f64,
    /// The squared distance of the means.
    pub mean_term: f64,
    /// The rest: how the covariances differ.
    pub covariance_term: f64,
    /// Rank of both covariances, in float64.
    pub ranks: [usize; 2],
}

impl Frechet {
    /// The imaginary part that other programs find in a root of `S1 S2`: singular values have none.
    pub const IMAGINARY: f64 = 0.0;
}

/// One side of a distance, prepared: `L` with `S = L Lᵀ`, so that many distances to it cost less.
#[derive(Clone, Debug)]
pub struct Prepared {
    mean: Vec<f64>,
    trace: f64,
    /// `[d, rank]`.
    factor: Mat<f64>,
}

impl Prepared {
    /// Finds the factor: an eigendecomposition, cubic in the width of the features.
    ///
    /// # Errors
    /// If it does not converge.
    pub fn new(statistics: &Statistics) -> Result<Self> {
        let eigen = statistics.matrix().self_adjoint_eigen(Side::Lower).map_err(|e| no_convergence(&e))?;
        let (values, vectors) = (eigen.S().column_vector(), eigen.U());
        let (d, largest) = (statistics.dim(), values.iter().fold(0f64, |m, v| m.max(v.abs())));
        // Eigenvalues that are rounding alone.
        let least = 4.0 * (d as f64).sqrt() * f64::EPSILON * largest;
        let kept: Vec<usize> = (0..d).filter(|i| values[*i] > least).collect();
        let factor = Mat::from_fn(d, kept.len(), |i, j| vectors[(i, kept[j])] * values[kept[j]].sqrt());
        let trace = (0..d).map(|i| statistics.covariance[i * d + i]).sum();
        Ok(Self { mean: statistics.mean.clone(), trace, factor })
    }

    /// Width of the features.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// The distance to `other`.
    ///
    /// # Errors
    /// If the features have another width; if an eigendecomposition does not converge.
    pub fn distance(&self, other: &Self) -> Result<Frechet> {
        same_dim(self.dim(), other.dim())?;
        let mean_term = self.mean.iter().zip(&other.mean).map(|(a, b)| (a - b).powi(2)).sum();
        let root = nuclear_norm(&product(self.factor.transpose(), other.factor.as_ref()))?;
        let covariance_term = self.trace + other.trace - 2.0 * root;
        let ranks = [self.factor.ncols(), other.factor.ncols()];
        Ok(Frechet { distance: mean_term + covariance_term, mean_term, covariance_term, ranks })
    }
}

/// The distance between two sets' statistics. Seconds for 2048 dimensions.
///
/// # Errors
/// If the features have different widths; if an eigendecomposition does not converge.
pub fn distance(a: &Statistics, b: &Statistics) -> Result<Frechet> {
    same_dim(a.dim(), b.dim())?;
    Prepared::new(a)?.distance(&Prepared::new(b)?)
}

/// Sum of the singular values of `m`. Not through the eigenvalues of a Gram matrix, whose rounding is 1e-16 of the largest and its
/// root thus 1e-8.
fn nuclear_norm(m: &Mat<f64>) -> Result<f64> {
    if m.nrows() == 0 || m.ncols() == 0 {
        return Ok(0.0);
    }
    Ok(m.singular_values().map_err(|e| no_convergence(&e))?.iter().sum())
}

fn no_convergence(error: &impl std::fmt::Debug) -> Error {
    Error::Config(format!("the eigenvalues of a covariance of features cannot be found: {error:?}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluation::moments::Moments;

    fn diagonal(mean: &[f64], variances: &[f64]) -> Statistics {
        let d = mean.len();
        let covariance = (0..d * d).map(|k| if k / d == k % d { variances[k / d] } else { 0.0 }).collect();
        Statistics::new(mean.to_vec(), covariance, None).unwrap()
    }

    #[test]
    fn diagonal_covariances_have_a_closed_form() {
        let a = diagonal(&[0.0, 1.0, 2.0], &[4.0, 1.0, 0.0]);
        let b = diagonal(&[1.0, 1.0, 0.0], &[1.0, 9.0, 5.0]);
        let measured = distance(&a, &b).unwrap();
        let expected = 5.0 + (2.0f64 - 1.0).powi(2) + (1.0f64 - 3.0).powi(2) + 5.0;
        assert!((measured.distance - expected).abs() < 1e-12, "{measured:?}");
        assert_eq!((measured.ranks, measured.mean_term), ([2, 3], 5.0));
        let none = diagonal(&[0.0; 3], &[0.0; 3]);
        assert!((distance(&none, &b).unwrap().distance - 17.0).abs() < 1e-12);
        assert!(distance(&a, &diagonal(&[0.0], &[1.0])).unwrap_err().to_string().contains("expected 3, got 1"));
    }

    #[test]
    fn fewer_rows_than_dimensions_are_exact() {
        // Rows along two directions: the covariances commute with nothing and have rank 1 each.
        let one = Moments::of(3, &[0.0, 0.0, 0.0, 2.0, 0.0, 0.0]).unwrap().statistics().unwrap();
        let two = Moments::of(3, &[0.0, 0.0, 0.0, 2.0, 2.0, 0.0]).unwrap().statistics().unwrap();
        // Traces 2 and 4; the root of u uᵀ v vᵀ has the trace |u·v| = sqrt(2)·sqrt(2)... with u = (√2, 0), v = (√2, √2).
        let measured = distance(&one, &two).unwrap();
        assert!((measured.distance - (1.0 + 2.0 + 4.0 - 4.0)).abs() < 1e-12, "{measured:?}");
        assert_eq!(measured.ranks, [1, 1]);
        assert!(distance(&two, &two).unwrap().distance.abs() < 1e-12);
    }

    /// Covariances of rank 29 in 64 dimensions: what rounding leaves of the other eigenvalues does not come in by its root.
    #[test]
    fn a_distance_to_oneself_is_rounding_alone() {
        let rows = strata_nn::random::Key::new(0, "rows").normal(30 * 64);
        let statistics = Moments::of(64, &rows).unwrap().statistics().unwrap();
        let measured = distance(&statistics, &statistics).unwrap();
        assert!(measured.distance.abs() < 1e-11, "{measured:?}");
        assert_eq!(measured.ranks, [29, 29]);
    }
}
