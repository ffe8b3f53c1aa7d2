//! UniPC: a multistep predictor whose next evaluation also corrects it (Zhao et al. 2023).

use candle_core::Tensor;

use super::{Run, combine, dpm::Prediction};
use crate::Result;

/// Settings of [`unipc`].
#[derive(Clone, Debug, PartialEq)]
pub struct UniPc {
    /// Order of the predictor; the corrector adds one. 1 to 4.
    pub order: usize,
    /// What the polynomial approximates.
    pub prediction: Prediction,
    /// B(h) = exp(h) - 1 instead of h (`bh2` instead of `bh1`).
    pub exponential_b: bool,
    /// Whether the order falls to 1 towards the last step.
    pub lower_order_final: bool,
    /// Steps (from 0) whose prediction is not corrected.
    pub uncorrected: Vec<usize>,
}

impl Default for UniPc {
    fn default() -> Self {
        Self { order: 2, prediction: Prediction::Data, exponential_b: true, lower_order_final: true, uncorrected: Vec::new() }
    }
}

/// A predictor's move, kept for the corrector.
struct Move {
    x: Tensor,
    s: f64,
    order: usize,
}

/// The order is reached after as many steps, the corrector has the order of the step that it corrects; a step that ends at sigma 0 is of
/// order 1. One evaluation a step.
pub fn unipc(run: &mut Run, mut x: Tensor, settings: &UniPc) -> Result<Tensor> {
    // Newest first: lambda and f.
    let mut history: Vec<(f64, Tensor)> = Vec::new();
    let mut last: Option<Move> = None;
    let n = run.sigmas.len() - 1;
    for (i, s, t) in run.steps() {
        let x0 = run.denoise(i, &x, s)?;
        let f = settings.prediction.of(&x, &x0, s)?;
        if let Some(Move { x: from, s: before, order }) = &last
            && !settings.uncorrected.contains(&(i - 1))
        {
            x = settings.advance((from, *before, s), &history, *order, Some(&f))?;
        }
        history.insert(0, (-s.ln(), f));
        history.truncate(settings.order.max(1));
        let left = if settings.lower_order_final { n - i } else { n };
        let order = if t == 0.0 { 1 } else { settings.order.min(history.len()).min(left) };
        let next = settings.advance((&x, s, t), &history, order, None)?;
        last = Some(Move { x, s, order });
        x = next;
        run.observe(i, &x)?;
    }
    Ok(x)
}

impl UniPc {
    /// x at t. With `f_t`, the evaluation at t, the corrector.
    fn advance(
        &self,
        (x, s, t): (&Tensor, f64, f64),
        history: &[(f64, Tensor)],
        order: usize,
        f_t: Option<&Tensor>,
    ) -> Result<Tensor> {
        let h = (s / t).ln();
        let (keep, c, u) = match self.prediction {
            Prediction::Data => (t / s, 1.0, -h),
            Prediction::Noise => (1.0, t, h),
        };
        let e1 = match self.prediction {
            Prediction::Data => u.exp_m1(),
            Prediction::Noise => s - t,
        };
        let f0 = &history[0].1;
        let mut terms = vec![(keep, x), (-e1, f0)];
        // The other evaluations, at the fractions r of the step.
        let mut others: Vec<(f64, &Tensor)> =
            history[1..order].iter().map(|(lambda, f)| ((lambda - history[0].0) / h, f)).collect();
        others.extend(f_t.map(|f| (1.0, f)));
        let b = if self.exponential_b { u.exp_m1() } else { u };
        let r: Vec<f64> = others.iter().map(|(r, _)| *r).collect();
        let rho = weights(&r, u, b);
        for ((r, f), rho) in others.iter().zip(&rho) {
            let w = -c * b * rho / r;
            terms.push((w, f));
            terms[1].0 -= w;
        }
        combine(&terms)
    }
}

/// The rho that make sum_k rho_k r_k^(m-1) = b_m; a single one is 1/2 (order 2 of the predictor, order 1 of the corrector).
fn weights(r: &[f64], u: f64, b: f64) -> Vec<f64> {
    if r.len() == 1 {
        return vec![0.5];
    }
    let mut q = u.exp_m1() / u - 1.0;
    let mut factorial = 1.0;
    let mut rows: Vec<Vec<f64>> = Vec::with_capacity(r.len());
    for m in 1..=r.len() {
        let mut row: Vec<f64> = r.iter().map(|r| r.powi(m as i32 - 1)).collect();
        row.push(q * factorial / b);
        rows.push(row);
        factorial *= (m + 1) as f64;
        q = q / u - 1.0 / factorial;
    }
    solve(rows)
}

/// Gaussian elimination with pivoting of a small system [A | b].
fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&a, &b| rows[a][k].abs().total_cmp(&rows[b][k].abs())).unwrap_or(k);
        rows.swap(k, pivot);
        let top = rows[k].clone();
        for (j, row) in rows.iter_mut().enumerate() {
            if j != k {
                let factor = row[k] / top[k];
                row.iter_mut().zip(&top).for_each(|(v, p)| *v -= factor * p);
            }
        }
    }
    (0..n).map(|k| rows[k][n] / rows[k][k]).collect()
}
