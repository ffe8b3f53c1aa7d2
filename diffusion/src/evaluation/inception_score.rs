//! The inception score (Salimans et al. 2016): exp of the mean divergence of each picture's class probabilities from their mean.

use serde::Serialize;

use crate::{Error, Result};

/// An inception score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InceptionScore {
    /// Mean over the splits.
    pub mean: f64,
    /// Standard deviation over the splits, divisor their number.
    pub std: f64,
    /// Of each split.
    pub splits: Vec<f64>,
}

/// Probabilities of logits: the softmax of each row of `classes` numbers.
pub fn softmax(logits: &[f32], classes: usize) -> Vec<f64> {
    let row = |row: &[f32]| {
        let largest = row.iter().fold(f64::NEG_INFINITY, |m, v| m.max(f64::from(*v)));
        let e: Vec<f64> = row.iter().map(|v| (f64::from(*v) - largest).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(move |v| v / sum)
    };
    logits.chunks_exact(classes).flat_map(row).collect()
}

/// Over `splits` parts of the rows of `probabilities`, `[N, classes]`, in order: split i is rows `i N / splits` up to
/// `(i + 1) N / splits`.
///
/// # Errors
/// If there are fewer rows than splits, no split, or a number is no probability.
pub fn inception_score(probabilities: &[f64], classes: usize, splits: usize) -> Result<InceptionScore> {
    let n = probabilities.len().checked_div(classes).unwrap_or(0);
    if splits == 0 || n < splits || probabilities.len() != n * classes {
        let message =
            format!("inception score: expected at least as many pictures as splits, got {n} pictures and {splits} splits");
        return Err(Error::Config(message));
    }
    if let Some(v) = probabilities.iter().find(|v| !(**v >= 0.0 && **v <= 1.0 + 1e-6)) {
        return Err(Error::Config(format!("inception score: expected probabilities between 0 and 1, got {v}")));
    }
    let score = |i: usize| score(&probabilities[i * n / splits * classes..(i + 1) * n / splits * classes], classes);
    let splits: Vec<f64> = (0..splits).map(score).collect();
    let count = splits.len() as f64;
    let mean = splits.iter().sum::<f64>() / count;
    let std = (splits.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
    Ok(InceptionScore { mean, std, splits })
}

fn score(rows: &[f64], classes: usize) -> f64 {
    let n = (rows.len() / classes) as f64;
    let mut mean = vec![0.0; classes];
    for row in rows.chunks_exact(classes) {
        mean.iter_mut().zip(row).for_each(|(m, p)| *m += p / n);
    }
    // The limit of p ln p at 0 is 0.
    let term = |p: &f64, q: &f64| if *p > 0.0 { p * (p / q).ln() } else { 0.0 };
    let divergence = |row: &[f64]| row.iter().zip(&mean).map(|(p, q)| term(p, q)).sum::<f64>();
    (rows.chunks_exact(classes).map(divergence).sum::<f64>() / n).exp()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn certain_and_varied_is_the_number_of_classes() {
        let one_hot: Vec<f64> = (0..40 * 4).map(|i| f64::from(i / 4 % 4 == i % 4)).collect();
        let score = inception_score(&one_hot, 4, 5).unwrap();
        assert!((score.mean - 4.0).abs() < 1e-12 && score.std < 1e-12);
        assert!((inception_score(&[0.25; 40], 4, 1).unwrap().mean - 1.0).abs() < 1e-12);
        assert!(inception_score(&one_hot, 4, 41).is_err() && inception_score(&one_hot, 4, 0).is_err());
        assert!(inception_score(&[0.5, f64::NAN], 2, 1).is_err());
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let p = softmax(&[1000.0, 1000.0, -1000.0, 0.0, 0.0, 0.0], 3);
        assert_eq!(p[..3], [0.5, 0.5, 0.0]);
        assert!((p[3] - 1.0 / 3.0).abs() < 1e-15);
    }
}
