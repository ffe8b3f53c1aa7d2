//! DEIS: the exponential integrator of eps by a polynomial in ln sigma (Zhang & Chen 2023, `logrho`).

use candle_core::Tensor;

use super::{Run, combine};
use crate::Result;

/// One order (1 to 4) per step; a step that ends at sigma 0 is of order 1. One evaluation a step.
pub fn deis(run: &mut Run, mut x: Tensor, orders: &[usize]) -> Result<Tensor> {
    // Newest first: ln sigma and eps.
    let mut history: Vec<(f64, Tensor)> = Vec::new();
    for ((i, s, t), &order) in run.steps().zip(orders) {
        history.insert(0, (s.ln(), run.slope(i, &x, s)?));
        history.truncate(4);
        let order = if t == 0.0 { 1 } else { order.clamp(1, history.len()) };
        let nodes: Vec<f64> = history[..order].iter().map(|(log, _)| log - s.ln()).collect();
        let weights = weights(&nodes, s, t);
        let mut terms = vec![(1.0, &x)];
        terms.extend(weights.into_iter().zip(history.iter().map(|(_, e)| e)));
        x = combine(&terms)?;
        run.observe(i, &x)?;
    }
    Ok(x)
}

/// The integrals over sigma from s to t of the Lagrange basis in ln(sigma/s) through `nodes`.
fn weights(nodes: &[f64], s: f64, t: f64) -> Vec<f64> {
    if nodes.len() == 1 {
        return vec![t - s];
    }
    let moments = moments((t / s).ln(), nodes.len());
    let integral = |k: usize| {
        let mut polynomial = vec![1.0];
        for (_, node) in nodes.iter().enumerate().filter(|(j, _)| *j != k) {
            let scale = 1.0 / (nodes[k] - node);
            let mut next = vec![0.0; polynomial.len() + 1];
            for (power, c) in polynomial.iter().enumerate() {
                next[power] -= c * node * scale;
                next[power + 1] += c * scale;
            }
            polynomial = next;
        }
        s * polynomial.iter().zip(&moments).map(|(c, m)| c * m).sum::<f64>()
    };
    (0..nodes.len()).map(integral).collect()
}

/// The integrals of u^n exp(u) from 0 to `end`, n from 0 to count - 1.
fn moments(end: f64, count: usize) -> Vec<f64> {
    let mut moments = vec![end.exp_m1()];
    for n in 1..count {
        moments.push(end.powi(n as i32) * end.exp() - n as f64 * moments[n - 1]);
    }
    moments
}
