//! The optimal denoiser of a finite data set (Zhang et al. 2024, Eq. 4), exact in float64.
//!
//! With x_t = s (y + sigma eps) and d_i = y - y_i, the exponent of point i is, up to a constant that all points share,
//!
//! ```text
//! l_i = -(|d_i|² / (2 sigma²) + eps·d_i / sigma),        w = softmax(l),
//!
//! x0* = y - sum_i w_i d_i,      eps* = eps + sum_i w_i d_i / sigma.
//! ```
//!
//! So y·y_i and eps·y_i are computed once, as matrix products, for all noise levels of a pair (y, eps), and the second sum,
//! the [`Shifts`], holds everything that depends on the data set; it stays exact where sigma is tiny. The data are read in
//! tiles with a running log-sum-exp. The work is cut into blocks whose size depends on nothing but the request, and each
//! block goes through the tiles in order: the result does not depend on the number of threads.

use rayon::prelude::*;

use super::points::{Points, Summary, for_each_tile};
use super::product::{Matrix, times, times_transposed};
use crate::{Error, Result};

/// Pairs per block of work.
const BLOCK: usize = 32;
/// Rows of weights that go through one matrix product.
const DENSE: usize = 64;
/// Exponents this far below the largest are dropped: exp(-64) < 2e-28, below float64's resolution of any sum here.
const CUTOFF: f64 = 64.0;
/// A squared distance below this share of the squared norms has lost digits in the product form and is computed directly.
const CANCELLED: f64 = 1e-4;

/// K clean points with their noise, and the noise levels at which each pair is looked at.
pub struct Queries<'a> {
    /// Index of each clean point y in the data set, `[K]`.
    pub indices: &'a [usize],
    /// The noise eps, `[K, dim]`, row-major.
    pub noise: &'a [f32],
    /// The noise levels of each pair, `[K, levels]`, row-major; positive.
    pub sigmas: &'a [f64],
}

/// `(eps* - eps)` for every pair and level, `[K, levels, dim]`: eps* = eps + shift, x0* = y - sigma shift.
pub struct Shifts {
    /// Levels per pair.
    pub levels: usize,
    /// Numbers per point.
    pub dim: usize,
    /// Row-major values.
    pub values: Vec<f64>,
}

impl Shifts {
    /// The shift of pair `k` at its `level`-th noise level, `[dim]`.
    pub fn row(&self, k: usize, level: usize) -> &[f64] {
        &self.values[(k * self.levels + level) * self.dim..][..self.dim]
    }
}

/// The optimal denoiser of a data set.
pub struct OptimalDenoiser<'a> {
    points: &'a dyn Points,
    summary: Summary,
}

impl<'a> OptimalDenoiser<'a> {
    /// Reads the data once, for its [`Summary`]. Errors if there is no point or a value is not finite.
    pub fn new(points: &'a dyn Points) -> Result<Self> {
        Ok(Self { summary: Summary::of(points)?, points })
    }

    /// What the data look like.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The data set.
    pub fn points(&self) -> &dyn Points {
        self.points
    }

    /// `eps* - eps` for all pairs and levels, in one pass over the data. `stop` is asked once per tile.
    ///
    /// Memory beyond one tile: K·(levels + 2)·dim float64. Errors: sizes that do not fit, an index beyond the data, a level
    /// that is not positive, noise that is not finite, an unreadable source, [`Error::Interrupted`].
    pub fn shifts(&self, queries: &Queries, stop: &dyn Fn() -> bool) -> Result<Shifts> {
        let levels = self.check(queries)?;
        let dim = self.summary.dim;
        let base = self.gather(queries.indices)?;
        let noise: Vec<f64> = queries.noise.iter().map(|&v| f64::from(v)).collect();
        let values = self.sweep(&Request { base: &base, noise: &noise, members: true, sigmas: queries.sigmas, levels }, stop)?;
        Ok(Shifts { levels, dim, values })
    }

    /// x0*(x) for points `x0 + sigma eps` of any origin. x: `[K, dim]`, sigmas: `[K]`, positive; answers `[K, dim]`.
    pub fn denoise(&self, x: &[f64], sigmas: &[f64]) -> Result<Vec<f64>> {
        let dim = self.summary.dim;
        if x.len() != sigmas.len() * dim {
            return Err(mismatch("the points to denoise", sigmas.len() * dim, x.len()));
        }
        check_levels(sigmas)?;
        if x.iter().any(|v| !v.is_finite()) {
            return Err(Error::NonFinite("in the points to denoise".into()));
        }
        let noise = vec![0.0; x.len()];
        let mut out = self.sweep(&Request { base: x, noise: &noise, members: false, sigmas, levels: 1 }, &|| false)?;
        for ((out, x), sigma) in out.chunks_mut(dim).zip(x.chunks(dim)).zip(sigmas) {
            out.iter_mut().zip(x).for_each(|(o, x)| *o = x - sigma * *o);
        }
        Ok(out)
    }

    /// The clean points of `indices`, `[K, dim]`. Errors if an index is beyond the data.
    pub fn gather(&self, indices: &[usize]) -> Result<Vec<f64>> {
        let (count, dim) = (self.summary.count, self.summary.dim);
        if let Some(bad) = indices.iter().find(|&&i| i >= count) {
            return Err(Error::Config(format!("point {bad} of a data set of {count} points")));
        }
        let mut out = vec![0.0; indices.len() * dim];
        out.par_chunks_mut(dim).zip(indices).try_for_each(|(row, &i)| self.points.read(i, row))?;
        Ok(out)
    }

    fn check(&self, q: &Queries) -> Result<usize> {
        let k = q.indices.len();
        if k == 0 || q.sigmas.is_empty() || !q.sigmas.len().is_multiple_of(k) {
            return Err(mismatch("the noise levels of the pairs", k, q.sigmas.len()));
        }
        if q.noise.len() != k * self.summary.dim {
            return Err(mismatch("the noise of the pairs", k * self.summary.dim, q.noise.len()));
        }
        if q.noise.iter().any(|v| !v.is_finite()) {
            return Err(Error::NonFinite("in the noise of the pairs".into()));
        }
        check_levels(q.sigmas)?;
        Ok(q.sigmas.len() / k)
    }

    fn sweep(&self, request: &Request, stop: &dyn Fn() -> bool) -> Result<Vec<f64>> {
        let dim = self.summary.dim;
        let mut out = vec![0.0; request.sigmas.len() * dim];
        let mut blocks: Vec<Block> = out
            .chunks_mut(BLOCK * request.levels * dim)
            .enumerate()
            .map(|(i, sums)| Block::new(request, i * BLOCK, &self.summary.mean, sums))
            .collect();
        for_each_tile(self.points, |_, tile| {
            if stop() {
                return Err(Error::Interrupted);
            }
            let squares = centre(tile, &self.summary.mean);
            let tile = Tile { squares, points: Matrix { values: tile, rows: tile.len() / dim, cols: dim } };
            blocks.par_iter_mut().for_each_init(Scratch::default, |scratch, block| block.absorb(&tile, scratch));
            Ok(())
        })?;
        blocks.into_par_iter().for_each(Block::finish);
        Ok(out)
    }
}

fn check_levels(sigmas: &[f64]) -> Result<()> {
    match sigmas.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
        Some(bad) => Err(Error::Config(format!("noise level {bad}: the optimal denoiser needs a positive, finite sigma"))),
        None => Ok(()),
    }
}

fn mismatch(what: &str, expected: usize, got: usize) -> Error {
    Error::Mismatch { what: what.into(), expected: format!("{expected} numbers"), got: got.to_string() }
}

/// Subtracts `mean` from every row (smaller numbers, less cancellation) and answers the rows' squared norms.
fn centre(tile: &mut [f64], mean: &[f64]) -> Vec<f64> {
    tile.par_chunks_mut(mean.len())
        .map(|row| {
            row.iter_mut().zip(mean).for_each(|(v, m)| *v -= m);
            dot(row, row)
        })
        .collect()
}

/// A request after validation: base and noise `[K, dim]`, sigmas `[K, levels]`.
struct Request<'a> {
    base: &'a [f64],
    noise: &'a [f64],
    /// Whether every base point is a point of the data set.
    members: bool,
    sigmas: &'a [f64],
    levels: usize,
}

/// Some consecutive points, less the mean of all.
struct Tile<'a> {
    points: Matrix<'a>,
    squares: Vec<f64>,
}

/// Up to [`BLOCK`] pairs with their running sums.
struct Block<'a> {
    /// y less the mean, then eps: `[2 pairs, dim]`.
    vectors: Vec<f64>,
    sigmas: &'a [f64],
    levels: usize,
    dim: usize,
    /// |y|² of the centred points.
    squares: Vec<f64>,
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
        let pairs = sums.len() / (levels * dim);
        let range = first * dim..(first + pairs) * dim;
        let base = request.base[range.clone()].chunks(dim).flat_map(|y| y.iter().zip(mean).map(|(y, m)| y - m));
        let mut vectors: Vec<f64> = base.collect();
        let squares = vectors.chunks(dim).map(|y| dot(y, y)).collect();
        vectors.extend_from_slice(&request.noise[range]);
        // A member of the set has the exponent 0 for itself, so the largest is at least 0.
        let largest = vec![if request.members { 0.0 } else { f64::NEG_INFINITY }; pairs * levels];
        let sigmas = &request.sigmas[first * levels..(first + pairs) * levels];
        Self { vectors, sigmas, levels, dim, squares, largest, totals: vec![0.0; pairs * levels], sums }
    }

    /// Adds one tile's points to the running sums.
    fn absorb(&mut self, tile: &Tile, scratch: &mut Scratch) {
        let n = tile.points.rows;
        scratch.distances.resize(2 * self.squares.len() * n, 0.0);
        scratch.weights.resize(DENSE * n, 0.0);
        scratch.products.resize(DENSE * self.dim, 0.0);
        self.distances(tile, &mut scratch.distances);
        for row in 0..self.sigmas.len() {
            let pair = row / self.levels;
            let distances = &scratch.distances[pair * n..][..n];
            let along = &scratch.distances[(self.squares.len() + pair) * n..][..n];
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

    /// |d_i|² and eps·d_i for every pair and point of the tile, into `out` `[2 pairs, tile rows]`.
    fn distances(&self, tile: &Tile, out: &mut [f64]) {
        let (pairs, n, dim) = (self.squares.len(), tile.points.rows, self.dim);
        times_transposed(Matrix { values: &self.vectors, rows: 2 * pairs, cols: dim }, tile.points, out);
        let (squares, along) = out.split_at_mut(pairs * n);
        for (pair, (squares, along)) in squares.chunks_mut(n).zip(along.chunks_mut(n)).enumerate() {
            let y = &self.vectors[pair * dim..][..dim];
            let eps = &self.vectors[(pairs + pair) * dim..][..dim];
            let (y2, eps_y) = (self.squares[pair], dot(eps, y));
            for (i, (square, along)) in squares.iter_mut().zip(along).enumerate() {
                let norms = y2 + tile.squares[i];
                *square = norms - 2.0 * *square;
                *along = eps_y - *along;
                if *square <= CANCELLED * norms {
                    (*square, *along) = directly(y, eps, tile.row(i));
                }
            }
        }
    }

    /// Writes the weights of one pair at one level, relative to the (raised) largest exponent; answers how many are not 0.
    fn weigh(&mut self, row: usize, (squares, along): (&[f64], &[f64]), weights: &mut [f64]) -> usize {
        let sigma = self.sigmas[row];
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
            let y = &self.vectors[row / self.levels * self.dim..][..self.dim];
            let (total, sigma) = (self.totals[row], self.sigmas[row]);
            sum.iter_mut().zip(y).for_each(|(s, y)| *s = (y - *s / total) / sigma);
        }
    }
}

impl Tile<'_> {
    fn row(&self, i: usize) -> &[f64] {
        &self.points.values[i * self.points.cols..][..self.points.cols]
    }
}

/// (|y - p|², eps·(y - p)) without cancellation.
fn directly(y: &[f64], eps: &[f64], p: &[f64]) -> (f64, f64) {
    y.iter().zip(eps).zip(p).fold((0.0, 0.0), |(square, along), ((y, e), p)| {
        let d = y - p;
        (square + d * d, along + e * d)
    })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(l, (a, b))| *l += a * b);
    }
    lanes.iter().sum()
}

fn add_scaled(to: &mut [f64], scale: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += scale * f);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use strata_nn::random::Key;

    use super::*;
    use crate::stages::Rows;

    const NEVER: &dyn Fn() -> bool = &|| false;

    fn data(count: usize, dim: usize) -> Vec<f64> {
        let mut data: Vec<f64> = Key::new(7, "points").normal(count * dim).into_iter().map(f64::from).collect();
        // A near duplicate: close enough that the product form of the distance loses its digits.
        for j in 0..dim {
            data[dim + j] = data[j] + 2e-6 * (j as f64 - 2.0);
        }
        data
    }

    /// eps*(s(y + sigma eps)) - eps by the definition, one pair at a time.
    fn by_definition(data: &[f64], dim: usize, y: &[f64], eps: &[f32], sigma: f64) -> Vec<f64> {
        let exponents: Vec<f64> = data
            .chunks(dim)
            .map(|p| -(0..dim).map(|j| (y[j] - p[j] + sigma * f64::from(eps[j])).powi(2)).sum::<f64>() / (2.0 * sigma * sigma))
            .collect();
        let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = exponents.iter().map(|l| (l - largest).exp()).sum();
        let weigh =
            |j: usize| exponents.iter().zip(data.chunks(dim)).map(|(l, p)| (l - largest).exp() * (y[j] - p[j])).sum::<f64>();
        (0..dim).map(|j| weigh(j) / total / sigma).collect()
    }

    #[test]
    fn equals_the_definition_from_the_finest_to_the_coarsest_noise() {
        let (count, dim) = (2500, 5);
        let data = data(count, dim);
        let points = Rows::new(&data, dim).unwrap();
        let optimal = OptimalDenoiser::new(&points).unwrap();
        let indices: Vec<usize> = (0..70).map(|k| k * 37 % count).collect();
        let noise = Key::new(7, "noise").normal(70 * dim);
        let levels = [1e-5, 1e-3, 0.05, 0.3, 1.0, 7.0, 80.0];
        let sigmas: Vec<f64> = indices.iter().flat_map(|_| levels).collect();
        let shifts = optimal.shifts(&Queries { indices: &indices, noise: &noise, sigmas: &sigmas }, NEVER).unwrap();
        for (k, &i) in indices.iter().enumerate() {
            let (y, eps) = (&data[i * dim..][..dim], &noise[k * dim..][..dim]);
            for (level, &sigma) in levels.iter().enumerate() {
                let want = by_definition(&data, dim, y, eps, sigma);
                for (got, want) in shifts.row(k, level).iter().zip(&want) {
                    assert!((got - want).abs() <= 1e-10 + 1e-9 * want.abs(), "pair {k}, sigma {sigma}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        let data = data(3000, 9);
        let points = Rows::new(&data, 9).unwrap();
        let optimal = OptimalDenoiser::new(&points).unwrap();
        let indices: Vec<usize> = (0..200).collect();
        let noise = Key::new(1, "noise").normal(200 * 9);
        let sigmas: Vec<f64> = (0..400).map(|i| 0.01 * f64::from(i + 1)).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| optimal.shifts(&Queries { indices: &indices, noise: &noise, sigmas: &sigmas }, NEVER).unwrap().values)
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(7));
    }

    #[test]
    fn denoises_points_of_any_origin() {
        let data = [0.0f64, 0.0, 4.0, 0.0, 0.0, 4.0];
        let points = Rows::new(&data, 2).unwrap();
        let optimal = OptimalDenoiser::new(&points).unwrap();
        let got = optimal.denoise(&[0.1, 0.2, 2.0, 0.0, 1e3, 1e3], &[0.1, 50.0, 0.5]).unwrap();
        // Near one point: that point. Far away and fine noise: the edge midpoint. Coarse noise: about the mean.
        assert!(got[0].abs() < 1e-15 && got[1].abs() < 1e-15);
        assert!((got[2] - 4.0 / 3.0).abs() < 0.01 && (got[3] - 4.0 / 3.0).abs() < 0.01);
        assert!((got[4] - 2.0).abs() < 1e-12 && (got[5] - 2.0).abs() < 1e-12);
    }

    #[test]
    fn explains_what_it_cannot_do() {
        let data = data(10, 3);
        let points = Rows::new(&data, 3).unwrap();
        let optimal = OptimalDenoiser::new(&points).unwrap();
        let ask = |indices: &[usize], noise: &[f32], sigmas: &[f64]| {
            optimal.shifts(&Queries { indices, noise, sigmas }, NEVER).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(ask(&[10], &[0.0; 3], &[1.0]).contains("point 10 of a data set of 10"));
        assert!(ask(&[1], &[0.0; 3], &[0.0]).contains("noise level 0"));
        assert!(ask(&[1], &[0.0; 2], &[1.0]).contains("expected 3 numbers, got 2"));
        assert!(ask(&[1], &[0.0, f32::NAN, 0.0], &[1.0]).contains("noise of the pairs"));
        assert!(ask(&[1, 2], &[0.0; 6], &[1.0; 3]).contains("noise levels"));
        let stopped = optimal.shifts(&Queries { indices: &[1], noise: &[0.0; 3], sigmas: &[1.0] }, &|| true);
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }
}
