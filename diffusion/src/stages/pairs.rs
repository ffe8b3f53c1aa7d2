//! What the sweeps on the CPU and on a device share: pairs, tiles of points, and their distances without cancellation.

use rayon::prelude::*;

use super::product::Matrix;

/// A squared distance below this share of the squared norms has lost digits in the product form and is computed directly.
const CANCELLED: f64 = 1e-4;

/// A request after validation: base and noise `[K, dim]`, sigmas `[K, levels]`.
pub(super) struct Request<'a> {
    pub base: &'a [f64],
    pub noise: &'a [f64],
    /// Whether every base point is a point of the data set.
    pub members: bool,
    pub sigmas: &'a [f64],
    pub levels: usize,
}

impl Request<'_> {
    /// Where the running largest exponent begins: a member of the set has the exponent 0 for itself.
    pub fn first_exponent(&self) -> f64 {
        if self.members { 0.0 } else { f64::NEG_INFINITY }
    }
}

/// Some consecutive points, less the mean of all: smaller numbers, less cancellation.
pub(super) struct Tile<'a> {
    pub points: Matrix<'a>,
    squares: Vec<f64>,
}

impl<'a> Tile<'a> {
    /// Subtracts `mean` `[dim]` from every row of `rows`.
    pub fn new(rows: &'a mut [f64], mean: &[f64]) -> Self {
        let dim = mean.len();
        let squares = rows
            .par_chunks_mut(dim)
            .map(|row| {
                row.iter_mut().zip(mean).for_each(|(v, m)| *v -= m);
                dot(row, row)
            })
            .collect();
        Self { squares, points: Matrix { values: rows, rows: rows.len() / dim, cols: dim } }
    }

    pub fn row(&self, i: usize) -> &[f64] {
        &self.points.values[i * self.points.cols..][..self.points.cols]
    }
}

/// Some consecutive pairs of a request.
pub(super) struct Pairs<'a> {
    /// y less the mean, then eps: `[2 count, dim]`.
    pub vectors: Vec<f64>,
    /// `[count, levels]`
    pub sigmas: &'a [f64],
    pub count: usize,
    dim: usize,
    /// |y|² of the centred points, and eps·y.
    norms: Vec<(f64, f64)>,
}

impl<'a> Pairs<'a> {
    /// Pairs `first..first + count` of `request`.
    pub fn new(request: &Request<'a>, first: usize, count: usize, mean: &[f64]) -> Self {
        let dim = mean.len();
        let range = first * dim..(first + count) * dim;
        let base = request.base[range.clone()].chunks(dim).flat_map(|y| y.iter().zip(mean).map(|(y, m)| y - m));
        let mut vectors: Vec<f64> = base.collect();
        vectors.extend_from_slice(&request.noise[range]);
        let (ys, noise) = vectors.split_at(count * dim);
        let norms = ys.chunks(dim).zip(noise.chunks(dim)).map(|(y, eps)| (dot(y, y), dot(eps, y))).collect();
        let sigmas = &request.sigmas[first * request.levels..(first + count) * request.levels];
        Self { vectors, sigmas, count, dim, norms }
    }

    /// The vectors as a matrix.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix { values: &self.vectors, rows: 2 * self.count, cols: self.dim }
    }

    /// Turns the products y·y_i, then eps·y_i, `[2 count, tile rows]`, into |d_i|², then eps·d_i.
    pub fn distances(&self, tile: &Tile, products: &mut [f64]) {
        let n = tile.points.rows;
        let (squares, along) = products.split_at_mut(self.count * n);
        for (pair, (squares, along)) in squares.chunks_mut(n).zip(along.chunks_mut(n)).enumerate() {
            let y = &self.vectors[pair * self.dim..][..self.dim];
            let eps = &self.vectors[(self.count + pair) * self.dim..][..self.dim];
            let (y2, eps_y) = self.norms[pair];
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
