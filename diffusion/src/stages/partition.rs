//! Exact partitions of an ordered set of noise levels into consecutive blocks, by dynamic programming.
//!
//! [`by_similarity`] maximises the mean similarity within the stages; with [`Weight::Levels`] a stage counts by its number of levels,
//! without which the best partitions cut off single levels, each perfectly similar to itself. [`balanced`] is the constrained clustering of Go et al.
//! 2023, which serves three costs: time steps, log-SNR, and the affinity of gradients.

use crate::{Error, Result};

/// Consecutive blocks of 0..n.
#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    /// First point of each block, ascending, `starts[0] == 0`.
    pub starts: Vec<usize>,
    /// The sum over the blocks: of mean similarities, or of costs.
    pub objective: f64,
}

/// What a stage's mean similarity counts in [`by_similarity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Every stage 1: the objective is the sum of the stages' means.
    Stages,
    /// Every stage its share of the levels: the objective is a level's mean similarity to its own stage.
    Levels,
}

/// `count` consecutive, non-empty blocks that maximise the weighted sum of the mean similarities within the blocks, over all
/// ordered pairs of points, a point with itself included. similarity: `[n, n]`, row-major, need not be symmetric.
///
/// Errors if the matrix is not square, holds a value that is not finite, or has fewer points than blocks are asked for.
pub fn by_similarity(similarity: &[f64], n: usize, count: usize, weight: Weight) -> Result<Partition> {
    check(similarity, n, count)?;
    let sums = summed(similarity, n);
    let mean = |s: usize, e: usize| {
        let w = n + 1;
        (sums[e * w + e] - sums[s * w + e] - sums[e * w + s] + sums[s * w + s]) / ((e - s) * (e - s)) as f64
    };
    // The blocks before block m need at least m points.
    let starts = |m: usize, e: usize| if m == 0 { 0..1 } else { m..e };
    let weight = |s: usize, e: usize| match weight {
        Weight::Stages => 1.0,
        Weight::Levels => (e - s) as f64 / n as f64,
    };
    minimise(n, count, starts, |s, e| -weight(s, e) * mean(s, e))
        .map(|p| Partition { objective: -p.objective, ..p })
        .ok_or_else(|| too_many(n, count))
}

/// `count` consecutive blocks that minimise the sum of `cost(start, centre, end)`, with block sizes kept near n/count: at
/// least n/(2 count), at most 3n/(2 count) rounded up, block 0 excepted (Go et al. 2023). Of equal costs the first wins.
///
/// Errors if no partition meets the size limits.
pub fn balanced(n: usize, count: usize, cost: impl Fn(usize, usize, usize) -> f64) -> Result<Partition> {
    if count == 0 || count > n {
        return Err(too_many(n, count));
    }
    let (low, high) = (n / (2 * count), (3 * n).div_ceil(2 * count));
    let starts = |m: usize, e: usize| {
        if m == 0 { 0..1 } else { (1 + m * low).max(e.saturating_sub(high))..(e + 1).saturating_sub(low.max(1)) }
    };
    minimise(n, count, starts, |s, e| cost(s, s + (e - s) / 2, e)).ok_or_else(|| too_many(n, count))
}

/// [`balanced`] blocks of ascending or descending `values`, the cost of a block the sum of |value - centre's value|.
pub fn by_value(values: &[f64], count: usize) -> Result<Partition> {
    balanced(values.len(), count, |s, c, e| values[s..e].iter().map(|v| (v - values[c]).abs()).sum())
}

/// [`balanced`] blocks whose points have a high affinity to their centre. affinity: `[n, n]`, row-major.
///
/// Errors if the matrix is not square or holds a value that is not finite, or no partition meets the size limits.
pub fn by_affinity(affinity: &[f64], n: usize, count: usize) -> Result<Partition> {
    check(affinity, n, count)?;
    balanced(n, count, |s, c, e| -affinity[c * n..][s..e].iter().sum::<f64>())
}

/// Mean over checkpoints of the cosine similarities between a network's gradients at n noise levels, the diagonal set to 0.
/// gradients: `[C, n, P]`, row-major; answers `[n, n]`. Errors if the sizes do not fit or a gradient is 0 or not finite.
pub fn gradient_affinity(gradients: &[f32], n: usize, parameters: usize) -> Result<Vec<f64>> {
    let size = n * parameters;
    if size == 0 || gradients.is_empty() || !gradients.len().is_multiple_of(size) {
        let expected = format!("a multiple of {n} levels x {parameters} parameters");
        return Err(Error::Mismatch { what: "the gradients".into(), expected, got: gradients.len().to_string() });
    }
    let checkpoints = gradients.len() / size;
    let mut mean = vec![0.0; n * n];
    for (c, gradients) in gradients.chunks(size).enumerate() {
        let row = |i: usize| gradients[i * parameters..][..parameters].iter().map(|&v| f64::from(v));
        let products: Vec<f64> = (0..n * n).map(|i| row(i / n).zip(row(i % n)).map(|(x, y)| x * y).sum()).collect();
        let affinity = cosine_affinity(&products, n).map_err(|e| Error::Config(format!("checkpoint {c}: {e}")))?;
        mean.iter_mut().zip(affinity).for_each(|(m, a)| *m += a / checkpoints as f64);
    }
    Ok(mean)
}

/// Cosine similarities from the inner products `[n, n]` of n gradients, the diagonal set to 0. Errors if a gradient is 0 or not
/// finite.
pub fn cosine_affinity(products: &[f64], n: usize) -> Result<Vec<f64>> {
    let norms: Vec<f64> = (0..n).map(|i| products[i * (n + 1)].sqrt()).collect();
    if let Some(bad) = norms.iter().position(|v| !(*v > 0.0 && v.is_finite())) {
        return Err(Error::NonFinite(format!("or all zeros in the gradient at level {bad}")));
    }
    let cosine = |i: usize| if i / n == i % n { 0.0 } else { products[i] / (norms[i / n] * norms[i % n]) };
    Ok((0..n * n).map(cosine).collect())
}

/// The partition into `count` blocks with the smallest total cost; `starts(m, e)` are the places where block m may start if it
/// ends before point e. `None` if there is none.
fn minimise(
    n: usize,
    count: usize,
    starts: impl Fn(usize, usize) -> std::ops::Range<usize>,
    cost: impl Fn(usize, usize) -> f64,
) -> Option<Partition> {
    let mut best: Vec<f64> = (0..=n).map(|e| if e == 0 { 0.0 } else { f64::INFINITY }).collect();
    let mut choices = vec![vec![usize::MAX; n + 1]; count];
    for (m, choice) in choices.iter_mut().enumerate() {
        let mut next = vec![f64::INFINITY; n + 1];
        for e in 1..=n {
            for s in starts(m, e).filter(|&s| s < e && best[s].is_finite()) {
                let total = best[s] + cost(s, e);
                if total < next[e] {
                    next[e] = total;
                    choice[e] = s;
                }
            }
        }
        best = next;
    }
    best[n].is_finite().then(|| Partition { starts: backtrack(&choices, n), objective: best[n] })
}

fn backtrack(choices: &[Vec<usize>], n: usize) -> Vec<usize> {
    let mut end = n;
    let mut starts: Vec<usize> = choices
        .iter()
        .rev()
        .map(|choice| {
            end = choice[end];
            end
        })
        .collect();
    starts.reverse();
    starts
}

/// Sums over all leading sub-matrices, `[n + 1, n + 1]`.
fn summed(matrix: &[f64], n: usize) -> Vec<f64> {
    let w = n + 1;
    let mut sums = vec![0.0; w * w];
    for i in 0..n {
        for j in 0..n {
            sums[(i + 1) * w + j + 1] = matrix[i * n + j] + sums[i * w + j + 1] + sums[(i + 1) * w + j] - sums[i * w + j];
        }
    }
    sums
}

fn check(matrix: &[f64], n: usize, count: usize) -> Result<()> {
    if matrix.len() != n * n {
        let expected = format!("{n} x {n} values");
        return Err(Error::Mismatch { what: "the similarity matrix".into(), expected, got: matrix.len().to_string() });
    }
    if matrix.iter().any(|v| !v.is_finite()) {
        return Err(Error::NonFinite("in the similarity matrix".into()));
    }
    if count == 0 || count > n { Err(too_many(n, count)) } else { Ok(()) }
}

fn too_many(n: usize, count: usize) -> Error {
    Error::Config(format!(
        "{count} stages cannot be cut from a grid of {n} noise levels: ask for 1 to {n} stages or a finer grid"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use strata_nn::random::Key;

    use super::*;

    /// The best of all partitions, one by one.
    fn exhaustive(similarity: &[f64], n: usize, count: usize, weight: Weight) -> (f64, Vec<usize>) {
        fn go(starts: &mut Vec<usize>, n: usize, count: usize, best: &mut (f64, Vec<usize>), score: &dyn Fn(&[usize]) -> f64) {
            if starts.len() == count {
                let value = score(starts);
                if value > best.0 {
                    *best = (value, starts.clone());
                }
                return;
            }
            for next in starts[starts.len() - 1] + 1..n {
                starts.push(next);
                go(starts, n, count, best, score);
                starts.pop();
            }
        }
        let score = |starts: &[usize]| {
            let ends = starts[1..].iter().copied().chain([n]);
            starts
                .iter()
                .zip(ends)
                .map(|(&s, e)| {
                    let sum: f64 = (s..e).flat_map(|i| (s..e).map(move |j| similarity[i * n + j])).sum();
                    let share = if weight == Weight::Levels { (e - s) as f64 / n as f64 } else { 1.0 };
                    share * sum / ((e - s) * (e - s)) as f64
                })
                .sum()
        };
        let mut best = (f64::NEG_INFINITY, vec![]);
        go(&mut vec![0], n, count, &mut best, &score);
        best
    }

    #[test]
    fn equals_the_exhaustive_search() {
        for (n, count) in [(1, 1), (5, 5), (9, 1), (9, 2), (11, 4), (12, 3)] {
            let matrix: Vec<f64> = Key::new(n as u64, "matrix").uniform(n * n).into_iter().map(f64::from).collect();
            for weight in [Weight::Stages, Weight::Levels] {
                let (value, starts) = exhaustive(&matrix, n, count, weight);
                let got = by_similarity(&matrix, n, count, weight).unwrap();
                assert_eq!(got.starts, starts, "{n} {count} {weight:?}");
                assert!((got.objective - value).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn more_stages_than_levels_are_refused() {
        let error = by_similarity(&[1.0; 9], 3, 4, Weight::Levels).unwrap_err().to_string();
        assert!(error.contains("4 stages") && error.contains("1 to 3"), "{error}");
        assert!(by_similarity(&[1.0; 9], 3, 0, Weight::Levels).is_err());
        assert!(by_similarity(&[1.0; 8], 3, 2, Weight::Levels).is_err());
        assert!(by_similarity(&[f64::NAN; 9], 3, 2, Weight::Levels).is_err());
        assert!(by_value(&[1.0, 2.0], 3).is_err());
    }

    #[test]
    fn balanced_blocks_keep_their_sizes() {
        let sizes = |value: fn(i32) -> i32| {
            let values: Vec<f64> = (0..40).map(|i| f64::from(value(i))).collect();
            let starts = by_value(&values, 4).unwrap().starts;
            let ends = starts[1..].iter().copied().chain([40]);
            starts.iter().zip(ends).map(|(s, e)| e - s).collect::<Vec<_>>()
        };
        // Free of limits, the steep end would be cut into single points, and the level half would be one block.
        for sizes in [sizes(|i| i.pow(3)), sizes(|i| 100 * i.min(20))] {
            assert!(sizes[1..].iter().all(|s| (5..=15).contains(s)), "{sizes:?}");
        }
    }

    #[test]
    fn affinity_of_gradients() {
        let gradients = [1.0, 0.0, 1.0, 1.0, 0.0, 2.0];
        let affinity = gradient_affinity(&gradients, 3, 2).unwrap();
        let h = std::f64::consts::FRAC_1_SQRT_2;
        for (got, want) in affinity.iter().zip([0.0, h, 0.0, h, 0.0, h, 0.0, h, 0.0]) {
            assert!((got - want).abs() < 1e-15);
        }
        let error = gradient_affinity(&[0.0; 6], 3, 2).unwrap_err().to_string();
        assert!(error.contains("checkpoint 0") && error.contains("level 0"), "{error}");
    }
}
