//! One pass over a data set on a device: the same sums as on the CPU, as float64 tensors.
//!
//! Products, exponentials and sums over the points run on the device. The distances come to the host once per tile, because few
//! points are so near that they must be computed without cancellation; all levels of a pair share them.

use candle_core::{Device, Tensor};

use super::pairs::{Pairs, Request, Tile};
use super::points::{Points, for_each_tile};
use crate::{Error, Result};

/// Rows of weights (pairs times levels) that are on their way at once.
const ROWS: usize = 1024;

/// The shifts `[K · levels, dim]` of a request; `mean` is the mean of all points. `stop` is asked once per tile.
pub(super) fn run(
    points: &dyn Points,
    mean: &[f64],
    request: &Request,
    device: &Device,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<f64>> {
    let (pairs, step) = (request.sigmas.len() / request.levels, (ROWS / request.levels).max(1));
    let starts = (0..pairs).step_by(step);
    let block = |first| Block::new(request, Pairs::new(request, first, step.min(pairs - first), mean), mean.len(), device);
    let mut blocks = starts.map(block).collect::<Result<Vec<_>>>()?;
    for_each_tile(points, |_, tile| {
        if stop() {
            return Err(Error::Interrupted);
        }
        let tile = Tile::new(tile, mean);
        let on_device = Tensor::from_slice(tile.points.values, (tile.points.rows, tile.points.cols), device)?;
        blocks.iter_mut().try_for_each(|block| block.absorb(&tile, &on_device))
    })?;
    let mut out = Vec::with_capacity(request.sigmas.len() * mean.len());
    for block in &blocks {
        out.extend(block.shifts()?);
    }
    Ok(out)
}

/// P pairs at L levels with their running sums.
struct Block<'a> {
    pairs: Pairs<'a>,
    /// `[2 P, dim]`
    vectors: Tensor,
    /// 1 / (2 sigma²), `[P, L, 1]`
    half: Tensor,
    /// 1 / sigma, `[P, L, 1]`
    inverse: Tensor,
    /// Largest exponent so far, `[P, L, 1]`.
    largest: Tensor,
    /// Sum of exp(l_i - largest), `[P, L, 1]`.
    totals: Tensor,
    /// Sum of exp(l_i - largest) y_i, `[P, L, dim]`.
    sums: Tensor,
}

impl<'a> Block<'a> {
    fn new(request: &Request, pairs: Pairs<'a>, dim: usize, device: &Device) -> Result<Self> {
        let (p, l) = (pairs.count, request.levels);
        let of_levels =
            |f: &dyn Fn(f64) -> f64| Tensor::from_iter(pairs.sigmas.iter().map(|&s| f(s)), device)?.reshape((p, l, 1));
        Ok(Self {
            vectors: Tensor::from_slice(&pairs.vectors, (2 * p, dim), device)?,
            half: of_levels(&|s| 0.5 / (s * s))?,
            inverse: of_levels(&|s| 1.0 / s)?,
            largest: of_levels(&|_| request.first_exponent())?,
            totals: of_levels(&|_| 0.0)?,
            sums: Tensor::zeros((p, l, dim), candle_core::DType::F64, device)?,
            pairs,
        })
    }

    /// Adds one tile's points, `[n, dim]` on the device, to the running sums.
    fn absorb(&mut self, tile: &Tile, points: &Tensor) -> Result<()> {
        let ((p, l, dim), n) = (self.sums.dims3()?, points.dim(0)?);
        let mut distances = self.vectors.matmul(&points.t()?)?.flatten_all()?.to_vec1::<f64>()?;
        self.pairs.distances(tile, &mut distances);
        let distances = Tensor::from_vec(distances, (2, p, 1, n), points.device())?;
        let (squares, along) = (distances.get(0)?, distances.get(1)?);
        let exponents = (squares.broadcast_mul(&self.half)? + along.broadcast_mul(&self.inverse)?)?.neg()?;
        let largest = exponents.max_keepdim(2)?.maximum(&self.largest)?;
        let weights = exponents.broadcast_sub(&largest)?.exp()?;
        let factor = (&self.largest - &largest)?.exp()?;
        let products = weights.reshape((p * l, n))?.matmul(points)?.reshape((p, l, dim))?;
        self.totals = ((&self.totals * &factor)? + weights.sum_keepdim(2)?)?;
        self.sums = (self.sums.broadcast_mul(&factor)? + products)?;
        self.largest = largest;
        Ok(())
    }

    /// (y - sum_i w_i y_i) / sigma, `[P · L · dim]`.
    fn shifts(&self) -> Result<Vec<f64>> {
        let y = self.vectors.narrow(0, 0, self.pairs.count)?.unsqueeze(1)?;
        let shifts = y.broadcast_sub(&self.sums.broadcast_div(&self.totals)?)?.broadcast_mul(&self.inverse)?;
        Ok(shifts.flatten_all()?.to_vec1()?)
    }
}
