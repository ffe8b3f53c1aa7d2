//! Power-function averages (Karras et al. 2024, Section 3 and Appendix C): profiles and post-hoc reconstruction.
//!
//! An average of exponent g at time T weights the parameters of time t by (g+1) t^g / T^(g+1) on [0, T]. Its width is the
//! standard deviation of that profile relative to T.

use crate::{Error, Result};

/// The exponent g of a profile of relative width `std`: the largest real root of g³ + 7g² + (16 - std⁻²) g + (12 - std⁻²).
///
/// # Errors
/// A width outside (0, 0.3002]: no profile of a power function is wider.
pub fn exponent(std: f64) -> Result<f64> {
    // (g+1) / ((g+2)² (g+3)) has its largest value on g > -1 here, and falls from there on.
    let widest = (5f64.sqrt() - 3.0) / 2.0;
    if !(std > 0.0 && std * std <= (widest + 1.0) / ((widest + 2.0).powi(2) * (widest + 3.0))) {
        return Err(Error::Config(format!("relative width of an average: expected above 0 and at most 0.3002, got {std}")));
    }
    let target = std.powi(-2);
    let cubic = |g: f64| ((g + 7.0) * g + 16.0 - target) * g + 12.0 - target;
    let (mut low, mut high) = (widest, 1.0);
    while cubic(high) < 0.0 {
        high *= 2.0;
    }
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return Ok(middle);
        }
        if cubic(middle) < 0.0 { low = middle } else { high = middle }
    }
}

/// The factor of the old average in an update at `seen_images` (the batch included): (1 - batch/seen)^(g+1).
pub fn decay(exponent: f64, batch: u64, seen_images: u64) -> f64 {
    if seen_images <= batch {
        return 0.0;
    }
    (1.0 - batch as f64 / seen_images as f64).powf(exponent + 1.0)
}

/// One average: when it was taken and how wide it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Time (images seen), above 0.
    pub time: f64,
    /// Width relative to the time.
    pub std: f64,
}

/// How stored averages are added up to others.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstruction {
    /// Exponents of the stored averages.
    pub stored_exponents: Vec<f64>,
    /// Exponents of the targets.
    pub target_exponents: Vec<f64>,
    /// `coefficients[i][j]`: the share of stored average i in target j; each column sums to 1.
    pub coefficients: Vec<Vec<f64>>,
}

/// The least-squares combination of the `stored` averages for every target profile (Karras et al. 2024, Algorithm 3).
///
/// # Errors
/// No stored average, a time or width out of range, or stored averages that cannot be told apart.
pub fn reconstruct(stored: &[Profile], targets: &[Profile]) -> Result<Reconstruction> {
    let profiles = |list: &[Profile]| list.iter().map(prepare).collect::<Result<Vec<_>>>();
    let (a, b) = (profiles(stored)?, profiles(targets)?);
    if a.is_empty() {
        return Err(Error::Config("reconstruction of an average: expected at least one stored average, got none".to_string()));
    }
    let gram = a.iter().map(|x| a.iter().map(|y| inner(*x, *y)).collect()).collect();
    let right = a.iter().map(|x| b.iter().map(|y| inner(*x, *y)).collect()).collect();
    let mut coefficients = solve(gram, right)?;
    for j in 0..b.len() {
        let sum: f64 = coefficients.iter().map(|row| row[j]).sum();
        coefficients.iter_mut().for_each(|row| row[j] /= sum);
    }
    let exponents = |list: &[(f64, f64)]| list.iter().map(|p| p.1).collect();
    Ok(Reconstruction { stored_exponents: exponents(&a), target_exponents: exponents(&b), coefficients })
}

fn prepare(profile: &Profile) -> Result<(f64, f64)> {
    if !(profile.time > 0.0 && profile.time.is_finite()) {
        return Err(Error::Config(format!("time of an average: expected above 0, got {}", profile.time)));
    }
    Ok((profile.time, exponent(profile.std)?))
}

/// ⟨a, b⟩ = (g_a+1)(g_b+1) (T_b/T_a)^g_a / ((g_a+g_b+1) T_a) for T_a >= T_b.
fn inner(a: (f64, f64), b: (f64, f64)) -> f64 {
    let ((time_a, g_a), (time_b, g_b)) = if a.0 >= b.0 { (a, b) } else { (b, a) };
    (g_a + 1.0) * (g_b + 1.0) * (time_b / time_a).powf(g_a) / ((g_a + g_b + 1.0) * time_a)
}

/// Gaussian elimination with row scaling and partial pivoting.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<Vec<f64>>) -> Result<Vec<Vec<f64>>> {
    let n = a.len();
    for (row, right) in a.iter_mut().zip(&mut b) {
        let scale = row.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        row.iter_mut().chain(right).for_each(|v| *v /= scale);
    }
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).unwrap_or(k);
        if a[pivot][k].abs() < 1e-14 {
            return Err(Error::Config("reconstruction of an average: two stored averages are the same".to_string()));
        }
        a.swap(k, pivot);
        b.swap(k, pivot);
        for i in k + 1..n {
            let factor = a[i][k] / a[k][k];
            let (above, below) = a.split_at_mut(i);
            below[0].iter_mut().zip(&above[k]).skip(k).for_each(|(v, p)| *v -= factor * p);
            let (above, below) = b.split_at_mut(i);
            below[0].iter_mut().zip(&above[k]).for_each(|(v, p)| *v -= factor * p);
        }
    }
    for k in (0..n).rev() {
        let (above, below) = b.split_at_mut(k + 1);
        for (i, solved) in below.iter().enumerate() {
            above[k].iter_mut().zip(solved).for_each(|(v, x)| *v -= a[k][k + 1 + i] * x);
        }
        above[k].iter_mut().for_each(|v| *v /= a[k][k]);
    }
    Ok(b)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn exponents_solve_their_equation() {
        for std in [0.01, 0.05, 0.1, 0.25, 0.28, 0.3] {
            let g = exponent(std).unwrap();
            let width = ((g + 1.0) / ((g + 2.0).powi(2) * (g + 3.0))).sqrt();
            assert!((width - std).abs() < 1e-12, "{std}: {width}");
        }
        for std in [0.0, -0.1, 0.301, f64::NAN] {
            assert!(exponent(std).is_err(), "{std}");
        }
    }

    #[test]
    fn a_stored_average_reconstructs_itself() {
        let stored = [Profile { time: 100.0, std: 0.05 }, Profile { time: 100.0, std: 0.1 }, Profile { time: 80.0, std: 0.1 }];
        let r = reconstruct(&stored, &stored[1..2]).unwrap();
        for (i, row) in r.coefficients.iter().enumerate() {
            assert!((row[0] - f64::from(u8::from(i == 1))).abs() < 1e-9, "{:?}", r.coefficients);
        }
    }

    #[test]
    fn impossible_reconstructions() {
        let one = Profile { time: 1.0, std: 0.1 };
        for (stored, word) in
            [(vec![], "at least one"), (vec![one, one], "the same"), (vec![Profile { time: 0.0, ..one }], "time")]
        {
            let message = reconstruct(&stored, &[one]).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn the_first_update_copies() {
        assert_eq!(decay(5.0, 64, 64), 0.0);
        assert!((decay(1.0, 1, 2) - 0.25).abs() < 1e-15);
    }
}
