//! Linear multistep: Adams-Bashforth with the exact weights of an uneven sigma grid.

use candle_core::Tensor;

use super::{Run, combine};
use crate::Result;

/// The integral from a to b of the Lagrange basis polynomial of node k through `nodes` (up to 8), by Gauss-Legendre with four
/// points, which is exact to degree 7.
fn basis_integral(nodes: &[f64], k: usize, (a, b): (f64, f64)) -> f64 {
    const POINTS: [(f64, f64); 4] = [
        (-0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
        (-0.339_981_043_584_856_26, 0.652_145_154_862_546_1),
        (0.339_981_043_584_856_26, 0.652_145_154_862_546_1),
        (0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
    ];
    let basis = |u: f64| -> f64 {
        let others = nodes.iter().enumerate().filter(|(j, _)| *j != k);
        others.map(|(_, n)| (u - n) / (nodes[k] - n)).product()
    };
    let half = 0.5 * (b - a);
    half * POINTS.iter().map(|(p, w)| w * basis(a + half * (p + 1.0))).sum::<f64>()
}

/// The slope's polynomial through the last `order` sigmas (1..=8), integrated over the step. Order `order`, one evaluation a step.
pub fn lms(run: &mut Run, mut x: Tensor, order: usize) -> Result<Tensor> {
    let mut history: Vec<(f64, Tensor)> = Vec::new();
    for (i, s, t) in run.steps() {
        history.insert(0, (s, run.slope(i, &x, s)?));
        history.truncate(order.max(1));
        let nodes: Vec<f64> = history.iter().map(|(sigma, _)| *sigma).collect();
        let mut terms = vec![(1.0, &x)];
        terms.extend(history.iter().enumerate().map(|(k, (_, d))| (basis_integral(&nodes, k, (s, t)), d)));
        x = combine(&terms)?;
        run.observe(i, &x)?;
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_nodes_give_adams_bashforth() {
        let nodes = [0.0, -1.0, -2.0, -3.0];
        for (k, want) in [55.0, -59.0, 37.0, -9.0].into_iter().enumerate() {
            assert!((basis_integral(&nodes, k, (0.0, 1.0)) - want / 24.0).abs() < 1e-13);
        }
    }
}
