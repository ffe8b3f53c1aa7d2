//! The kernel distance of Bińkowski et al. 2018 (KID): the squared maximum mean discrepancy of features under a polynomial kernel.

use rand_core::RngCore;
use serde::Serialize;
use strata_nn::random::Key;

use super::{
    Features,
    dense::{product, widened},
    same_dim,
};
use crate::{Error, Result};

/// `k(x, y) = (gamma x·y + coef0)^degree`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kernel {
    /// Power.
    pub degree: i32,
    /// Factor on the product; absent: 1 / the width of the features.
    pub gamma: Option<f64>,
    /// Added to the product.
    pub coef0: f64,
}

impl Default for Kernel {
    /// The published kernel.
    fn default() -> Self {
        Self { degree: 3, gamma: None, coef0: 1.0 }
    }
}

/// How a KID is measured; the defaults are the published ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KidOptions {
    /// The kernel.
    pub kernel: Kernel,
    /// Subsets that are averaged over.
    pub subsets: usize,
    /// Pictures of each side in a subset, drawn without replacement.
    pub subset_size: usize,
    /// Decides which.
    pub seed: u64,
}

impl Default for KidOptions {
    fn default() -> Self {
        Self { kernel: Kernel::default(), subsets: 100, subset_size: 1000, seed: 0 }
    }
}

/// A KID.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kid {
    /// Mean over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets, divisor their number.
    pub std: f64,
    /// Of each subset.
    pub subsets: Vec<f64>,
}

impl Kid {
    fn of(subsets: Vec<f64>) -> Self {
        let n = subsets.len() as f64;
        let mean = subsets.iter().sum::<f64>() / n;
        let std = (subsets.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        Self { mean, std, subsets }
    }
}

/// The unbiased squared discrepancy of all rows of `a` and `b`, whose numbers may differ.
///
/// # Errors
/// If the widths differ or a side has fewer than two rows.
pub fn mmd2(a: &Features, b: &Features, kernel: Kernel) -> Result<f64> {
    same_dim(a.dim, b.dim)?;
    let (m, n) = (a.len(), b.len());
    if m < 2 || n < 2 {
        return Err(Error::Config(format!("a kernel distance needs at least 2 pictures on each side, got {m} and {n}")));
    }
    let (x, y) = (widened(&a.values, a.dim, None), widened(&b.values, b.dim, None));
    let gamma = kernel.gamma.unwrap_or(1.0 / a.dim as f64);
    let mean = |p: &faer::Mat<f64>, q: &faer::Mat<f64>, same: bool| {
        let dots = product(p.as_ref(), q.transpose());
        let value = |i: usize, j: usize| (gamma * dots[(i, j)] + kernel.coef0).powi(kernel.degree);
        let column = |j: usize| (0..p.nrows()).filter(|i| !(same && *i == j)).map(|i| value(i, j)).sum::<f64>();
        let pairs = p.nrows() * (q.nrows() - usize::from(same));
        (0..q.nrows()).map(column).sum::<f64>() / pairs as f64
    };
    Ok(mean(&x, &x, true) + mean(&y, &y, true) - 2.0 * mean(&x, &y, false))
}

/// Over given subsets: the rows of `a` and `b` in each.
///
/// # Errors
/// If there is none, a row is not there, or as [`mmd2`].
pub fn over_subsets(a: &Features, b: &Features, kernel: Kernel, subsets: &[(Vec<usize>, Vec<usize>)]) -> Result<Kid> {
    if subsets.is_empty() {
        return Err(Error::Config("a kernel distance over subsets needs at least one, got 0".into()));
    }
    let one = |(of_a, of_b): &(Vec<usize>, Vec<usize>)| mmd2(&a.select(of_a)?, &b.select(of_b)?, kernel);
    Ok(Kid::of(subsets.iter().map(one).collect::<Result<_>>()?))
}

/// Over subsets drawn from `options.seed`. Subsets are no larger than the smaller side.
///
/// # Errors
/// As [`over_subsets`].
pub fn kid(a: &Features, b: &Features, options: &KidOptions) -> Result<Kid> {
    let size = options.subset_size.min(a.len()).min(b.len());
    let key = Key::new(options.seed, "kid");
    let draw = |i: usize, side: u64, n: usize| draw_without_replacement(key.step(i as u64).index(side), size, n);
    let subsets: Vec<_> = (0..options.subsets).map(|i| (draw(i, 0, a.len()), draw(i, 1, b.len()))).collect();
    over_subsets(a, b, options.kernel, &subsets)
}

/// `k` different numbers below `n`, in random order.
pub(super) fn draw_without_replacement(key: Key, k: usize, n: usize) -> Vec<usize> {
    let mut rng = key.generator();
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..k.min(n) {
        let j = i + (rng.next_u64() % (n - i) as u64) as usize;
        all.swap(i, j);
    }
    all.truncate(k);
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn features(n: usize, shift: f32) -> Features {
        let key = Key::new(3, "test").index((shift * 8.0) as u64);
        Features::from_rows(4, key.normal(n * 4).into_iter().map(|v| v + shift).collect()).unwrap()
    }

    #[test]
    fn two_rows_by_hand() {
        let a = Features::from_rows(1, vec![1.0, 2.0]).unwrap();
        let b = Features::from_rows(1, vec![0.0, 3.0]).unwrap();
        let linear = Kernel { degree: 1, gamma: None, coef0: 0.0 };
        // k = x y: 2 + 0 - 2 (0 + 3 + 0 + 6) / 4
        assert!((mmd2(&a, &b, linear).unwrap() - (2.0 + 0.0 - 4.5)).abs() < 1e-12);
    }

    #[test]
    fn it_tells_sets_apart_and_depends_on_the_seed_alone() {
        let options = KidOptions { subsets: 20, subset_size: 60, ..KidOptions::default() };
        let (same, other) = (features(200, 0.0), features(150, 1.0));
        let far = kid(&same, &other, &options).unwrap();
        let near = kid(&same, &features(150, 0.125), &options).unwrap();
        assert!(far.mean > 0.5 && near.mean.abs() < 0.1 && far.std > 0.0, "{} {}", far.mean, near.mean);
        assert_eq!(far, kid(&same, &other, &options).unwrap());
        assert_ne!(far, kid(&same, &other, &KidOptions { seed: 1, ..options }).unwrap());
        // More than there are: all of the smaller side, each time in another order.
        assert!(kid(&same, &other, &KidOptions { subset_size: 1000, ..options }).unwrap().mean > 0.5);
        assert!(kid(&same, &features(1, 0.0), &options).is_err());
        assert!(kid(&same, &other, &KidOptions { subsets: 0, ..options }).is_err());
    }

    #[test]
    fn draws_are_different_numbers() {
        let mut drawn = draw_without_replacement(Key::new(0, "x"), 50, 50);
        assert_ne!(drawn, (0..50).collect::<Vec<_>>());
        drawn.sort_unstable();
        assert_eq!(drawn, (0..50).collect::<Vec<_>>());
    }
}
