//! One pass over a data set on the CPU: the shifts of the optimal denoiser for all pairs and levels of a request.
//!
//! The work is cut into blocks whose size depends on nothing but the request, and each block goes through the tiles in order: the
//! result does not depend on the number of threads.

use rayon::prelude::*;

use super::pairs::{Pairs, Request, Tile};
use super::points::{Points, for_each_tile};
use super::product::{Matrix, times, times_transposed};
use crate::{Error, Result};

/// Pairs per block of work.
const BLOCK: usize = 32;
/// Rows of weights that go through one matrix product.
const DENSE: usize = 64;
/// Exponents this far below the largest are dropped: exp(-64) < 2e-28, below float64's resolution of any sum here.
const CUTOFF: f64 = 64.0;

/// The shifts `[K · levels, dim]` of a request; `mean` is the mean of all points. `stop` is asked once per tile.
pub(super) fn run(points: &dyn Points, mean: &[f64], request: &Request, stop: &dyn Fn() -> bool) -> Result<Vec<f64>> {
    let dim = mean.len();
    let mut out = vec![0.0; request.sigmas.len() * dim];
    let mut blocks: Vec<Block> = out
        .chunks_mut(BLOCK * request.levels * dim)
        .enumerate()
        .map(|(i, sums)| Block::new(request, i * BLOCK, mean, sums))
        .collect();
    for_each_tile(points, |_, tile| {
        if stop() {
            return Err(Error::Interrupted);
        }
        let tile = Tile::new(tile, mean);
        blocks.par_iter_mut().for_each_init(Scratch::default, |scratch, block| block.absorb(&tile, scratch));
        Ok(())
    })?;
    blocks.into_par_iter().for_each(Block::finish);
    Ok(out)
}

/// Up to [`BLOCK`] pairs with their running sums.
struct Block<'a> {
    pairs: Pairs<'a>,
    levels: usize,
    dim: usize,
    /// Largest exponent so far, `[pairs · levels]`.
    largest: Vec<f64>,
    /// Sum of exp(l_i - largest).
    totals: Vec<f64>,
    /// Sum of exp(l_i - largest) y_i, `[pairs · levels, dim]`; at the end, the shifts.
    sums: &'a mut [f64],
}

/// Reused memory of one thread.
#[derive(Default)]
struct Scratch {
    /// |d_i|² for each pair, then eps·d_i: `[2 pairs, tile rows]`.
    distances: Vec<f64>,
    /// `[DENSE, tile rows]`
    weights: Vec<f64>,
    /// Which row of sums each row of weights belongs to.
    rows: Vec<usize>,
    /// `[DENSE, dim]`
    products: Vec<f64>,
}

impl<'a> Block<'a> {
    fn new(request: &Request<'a>, first: usize, mean: &[f64], sums: &'a mut [f64]) -> Self {
        let (dim, levels) = (mean.len(), request.levels);
        let count = sums.len() / (levels * dim);
        let pairs = Pairs::new(request, first, count, mean);
        let largest = vec![request.first_exponent(); count * levels];
        Self { pairs, levels, dim, largest, totals: vec![0.0; count * levels], sums }
    }

    /// Adds one tile's points to the running sums.
    fn absorb(&mut self, tile: &Tile, scratch: &mut Scratch) {
        let (n, pairs) = (tile.points.rows, self.pairs.count);
        scratch.distances.resize(2 * pairs * n, 0.0);
        scratch.weights.resize(DENSE * n, 0.0);
        scratch.products.resize(DENSE * self.dim, 0.0);
        times_transposed(self.pairs.matrix(), tile.points, &mut scratch.distances);
        self.pairs.distances(tile, &mut scratch.distances);
        for row in 0..self.pairs.sigmas.len() {
            let pair = row / self.levels;
            let distances = &scratch.distances[pair * n..][..n];
            let along = &scratch.distances[(pairs + pair) * n..][..n];
            let weights = &mut scratch.weights[scratch.rows.len() * n..][..n];
            let kept = self.weigh(row, (distances, along), weights);
            // Below one weight in eight, adding the points one by one is cheaper than the product.
            if kept * 8 <= n {
                let sum = &mut self.sums[row * self.dim..][..self.dim];
                weights.iter().enumerate().filter(|(_, w)| **w > 0.0).for_each(|(i, &w)| add_scaled(sum, w, tile.row(i)));
            } else {
                scratch.rows.push(row);
            }
            if scratch.rows.len() == DENSE {
                self.flush(tile, scratch);
            }
        }
        self.flush(tile, scratch);
    }

    /// Adds the waiting rows of weights times the tile's points.
    fn flush(&mut self, tile: &Tile, scratch: &mut Scratch) {
        if scratch.rows.is_empty() {
            return;
        }
        let weights = Matrix { values: &scratch.weights, rows: scratch.rows.len(), cols: tile.points.rows };
        times(weights, tile.points, &mut scratch.products);
        for (row, product) in scratch.rows.drain(..).zip(scratch.products.chunks(self.dim)) {
            add_scaled(&mut self.sums[row * self.dim..][..self.dim], 1.0, product);
        }
    }

    /// Writes the weights of one pair at one level, relative to the (raised) largest exponent; answers how many are not 0.
    fn weigh(&mut self, row: usize, (squares, along): (&[f64], &[f64]), weights: &mut [f64]) -> usize {
        let sigma = self.pairs.sigmas[row];
        let (half, inverse) = (0.5 / (sigma * sigma), 1.0 / sigma);
        for ((w, square), along) in weights.iter_mut().zip(squares).zip(along) {
            *w = -(half * square + inverse * along);
        }
        let before = self.largest[row];
        let largest = weights.iter().fold(before, |a, &b| if b > a { b } else { a });
        if largest > before {
            let factor = (before - largest).exp();
            self.largest[row] = largest;
            self.totals[row] *= factor;
            self.sums[row * self.dim..][..self.dim].iter_mut().for_each(|v| *v *= factor);
        }
        let (mut kept, mut total) = (0, 0.0);
        for w in weights.iter_mut() {
            let exponent = *w - largest;
            *w = if exponent > -CUTOFF { exponent.exp() } else { 0.0 };
            kept += usize::from(exponent > -CUTOFF);
            total += *w;
        }
        self.totals[row] += total;
        kept
    }

    /// Turns the sums into shifts: (y - sum_i w_i y_i) / sigma.
    fn finish(self) {
        for (row, sum) in self.sums.chunks_mut(self.dim).enumerate() {
            let y = &self.pairs.vectors[row / self.levels * self.dim..][..self.dim];
            let (total, sigma) = (self.totals[row], self.pairs.sigmas[row]);
            sum.iter_mut().zip(y).for_each(|(s, y)| *s = (y - *s / total) / sigma);
        }
    }
}

fn add_scaled(to: &mut [f64], scale: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += scale * f);
}
