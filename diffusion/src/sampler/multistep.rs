//! Multistep DPM-Solver, DPM-Solver++ and their SDE forms: one evaluation a step, differences from earlier steps.

use candle_core::Tensor;

use super::{
    Run, combine,
    dpm::{Differences, Dpm},
};
use crate::Result;

/// The orders of `steps` steps that begin with 1, 2, ... and stay at `order`.
pub fn warm_up_orders(steps: usize, order: usize) -> Vec<usize> {
    (1..=steps).map(|k| k.min(order)).collect()
}

/// [`warm_up_orders`] that also end with ..., 2, 1 when there are fewer than `below` steps: few steps are stabler so.
pub fn final_orders(steps: usize, order: usize, below: usize) -> Vec<usize> {
    let mut orders = warm_up_orders(steps, order);
    if steps < below {
        for (left, o) in orders.iter_mut().rev().enumerate() {
            *o = (*o).min(left + 1);
        }
    }
    orders
}

/// One order (1 to 3) per step. A step that ends at sigma 0 is of order 1 whatever its order says, since lambda is infinite there.
pub fn multistep(run: &mut Run, mut x: Tensor, solver: Dpm, orders: &[usize]) -> Result<Tensor> {
    // Newest first: lambda and f of the last three evaluations.
    let mut history: Vec<(f64, Tensor)> = Vec::new();
    for ((i, s, t), &order) in run.steps().zip(orders) {
        let x0 = run.denoise(i, &x, s)?;
        history.insert(0, (-s.ln(), solver.prediction.of(&x, &x0, s)?));
        history.truncate(3);
        let order = if t == 0.0 { 1 } else { order.min(history.len()) };
        let differences = differences(&history[..order], (s / t).ln())?;
        let noise = if solver.stochastic { Some((run.draw(i, &x)? * solver.noise_weights(s, t).1)?) } else { None };
        x = solver.step((&x, s, t), &history[0].1, &differences, noise.as_ref())?;
        run.observe(i, &x)?;
    }
    Ok(x)
}

/// h f' and h² f'' at the newest evaluation, from the polynomial through the given ones.
fn differences(history: &[(f64, Tensor)], h: f64) -> Result<Differences> {
    let divided = |a: usize, b: usize| {
        let r = h / (history[a].0 - history[b].0);
        combine(&[(r, &history[a].1), (-r, &history[b].1)])
    };
    if history.len() < 2 {
        return Ok(Differences::default());
    }
    let p = divided(0, 1)?;
    if history.len() < 3 {
        return Ok(Differences { first: Some(p), second: None });
    }
    let q = divided(1, 2)?;
    let (near, far) = ((history[0].0 - history[1].0) / h, (history[0].0 - history[2].0) / h);
    Ok(Differences {
        first: Some(combine(&[(1.0 + near / far, &p), (-near / far, &q)])?),
        second: Some(combine(&[(2.0 / far, &p), (-2.0 / far, &q)])?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_rise_and_fall() {
        assert_eq!(warm_up_orders(5, 3), [1, 2, 3, 3, 3]);
        assert_eq!(final_orders(6, 3, 15), [1, 2, 3, 3, 2, 1]);
        assert_eq!(final_orders(2, 3, 15), [1, 1]);
        assert_eq!(final_orders(4, 2, 4), [1, 2, 2, 2]);
    }
}
