//! Singlestep DPM-Solver, DPM-Solver++ and their SDE forms: a move spends as many evaluations as its order.

use candle_core::Tensor;

use super::{
    Run, combine,
    dpm::{Differences, Dpm, Form},
};
use crate::{Error, Result};

/// How `evaluations` are spent on moves of at most `order` (1 to 3) (Lu et al. 2022a, Section 3.4): the sum is `evaluations`.
pub fn singlestep_orders(evaluations: usize, order: usize) -> Vec<usize> {
    let whole = evaluations / order.max(1);
    match (order, evaluations % order.max(1)) {
        (0 | 1, _) => vec![1; evaluations],
        (3, 0) => [vec![3; whole.saturating_sub(1)], vec![2, 1]].concat(),
        (_, 0) => vec![order; whole],
        (_, rest) => [vec![order; whole], vec![rest]].concat(),
    }
}

/// One move after the other; a move of order k begins at one of `run.sigmas`, is evaluated there and at the next k - 1 of them, and
/// ends at the one after. So the orders' sum is the number of steps. The observer sees the state after every move. A move of order 2
/// or 3 must not end at sigma 0. `inner` is the form of the second-order move inside one of order 3: the paper's code takes Taylor's.
pub fn singlestep(run: &mut Run, mut x: Tensor, solver: Dpm, orders: &[usize], inner: Form) -> Result<Tensor> {
    // The published third-order weight is the multistep form's alone.
    let solver = Dpm { published_third: false, ..solver };
    let (mut begin, sum) = (0, orders.iter().sum::<usize>());
    if sum + 1 != run.sigmas.len() || orders.iter().any(|o| !(1..=3).contains(o)) {
        let got = run.sigmas.len().saturating_sub(1);
        return Err(Error::Config(format!("singlestep: expected orders of 1 to 3 that sum to the {got} steps, got {orders:?}")));
    }
    for (i, &order) in orders.iter().enumerate() {
        let levels = &run.sigmas[begin..=begin + order];
        x = block(run, begin, &x, (solver, inner), levels)?;
        begin += order;
        run.observe(i, &x)?;
    }
    Ok(x)
}

/// A move through `levels`: order + 1 of them.
fn block(run: &mut Run, begin: usize, x: &Tensor, (solver, inner): (Dpm, Form), levels: &[f64]) -> Result<Tensor> {
    let (s, order) = (levels[0], levels.len() - 1);
    if order > 1 && levels[order] == 0.0 {
        return Err(Error::Config(format!("singlestep: a move that ends at sigma 0 is of order 1, got order {order}")));
    }
    let h = (s / levels[order]).ln();
    let fraction = |sigma: f64| (s / sigma).ln() / h;
    let mut f = Vec::with_capacity(order);
    let (mut state, mut path) = (x.clone(), Path { noise: None });
    for (k, &end) in levels[1..].iter().enumerate() {
        let x0 = run.denoise(begin + k, &state, levels[k])?;
        f.push(solver.prediction.of(&state, &x0, levels[k])?);
        let inside = Dpm { form: inner, ..solver };
        let stage = if k == 1 && order == 3 { inside } else { solver };
        let differences = match k {
            0 => Differences::default(),
            // The first difference over the way to `end`, from the evaluation at the fraction of levels[1].
            1 => {
                let r = fraction(end) / fraction(levels[1]);
                Differences { first: Some(combine(&[(r, &f[1]), (-r, &f[0])])?), second: None }
            }
            _ => third_order(&f, fraction(levels[1]), fraction(levels[2]), solver.form)?,
        };
        if solver.stochastic {
            let fresh = run.draw(begin + k, x)?;
            path.extend(solver, (s, levels[k], end), &fresh)?;
        }
        state = stage.step((x, s, end), &f[0], &differences, path.noise.as_ref())?;
    }
    Ok(state)
}

/// The noise that an SDE's path has gathered since a move began.
struct Path {
    noise: Option<Tensor>,
}

impl Path {
    /// On to `to`: the increments of one path, so that what an evaluation inside the move saw of the noise is in the move's end, too.
    fn extend(&mut self, solver: Dpm, (begin, from, to): (f64, f64, f64), fresh: &Tensor) -> Result<()> {
        self.noise = Some(match &self.noise {
            Some(before) if !solver.published_noise => {
                let (keep, deviation) = solver.noise_weights(from, to);
                combine(&[(keep, before), (deviation, fresh)])?
            }
            _ => combine(&[(solver.noise_weights(begin, to).1, fresh)])?,
        });
        Ok(())
    }
}

/// h f' and h² f'' at the move's beginning, from evaluations at the fractions 0, r1, r2 of it.
pub(super) fn third_order(f: &[Tensor], r1: f64, r2: f64, form: Form) -> Result<Differences> {
    let q = combine(&[(1.0 / r2, &f[2]), (-1.0 / r2, &f[0])])?;
    if form == Form::Midpoint {
        let second = Some(q.zeros_like()?);
        return Ok(Differences { first: Some(q), second });
    }
    let p = combine(&[(1.0 / r1, &f[1]), (-1.0 / r1, &f[0])])?;
    let w = 1.0 / (r2 - r1);
    Ok(Differences {
        first: Some(combine(&[(r2 * w, &p), (-r1 * w, &q)])?),
        second: Some(combine(&[(2.0 * w, &q), (-2.0 * w, &p)])?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_are_spent() {
        assert_eq!(singlestep_orders(9, 3), [3, 3, 2, 1]);
        assert_eq!(singlestep_orders(10, 3), [3, 3, 3, 1]);
        assert_eq!(singlestep_orders(11, 3), [3, 3, 3, 2]);
        assert_eq!(singlestep_orders(7, 2), [2, 2, 2, 1]);
        assert_eq!(singlestep_orders(4, 1), [1; 4]);
        for (n, order) in [(1, 3), (2, 3), (3, 3), (1, 2), (20, 3)] {
            assert_eq!(singlestep_orders(n, order).iter().sum::<usize>(), n);
        }
    }
}
