//! Largest values of windows.

use candle_core::Tensor;

use super::super::cpu::pool::MaxPool;
use crate::Result;

pub(crate) fn max_pool2d(x: &Tensor, pool: &MaxPool) -> Result<Tensor> {
    let &MaxPool { kernel, stride, output: [rows, columns], .. } = pool;
    let x = fitted(&fitted(x, 1, pool, rows)?, 2, pool, columns)?;
    let mut largest: Option<Tensor> = None;
    for i in 0..kernel * kernel {
        let part = every(&every(&x, 1, i / kernel, stride, rows)?, 2, i % kernel, stride, columns)?;
        largest = Some(largest.map_or(Ok(part.clone()), |y| y.maximum(&part))?);
    }
    Ok(largest.map_or_else(|| x.contiguous(), Ok)?)
}

/// Dimension `dim` with the padding at its beginning and as much at its end as the last window and its step need; the lowest
/// number there is stands in for nothing.
fn fitted(x: &Tensor, dim: usize, pool: &MaxPool, windows: usize) -> Result<Tensor> {
    let (n, needed) = (x.dim(dim)?, windows * pool.stride + pool.kernel);
    let lowest = |count: usize| -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        dims[dim] = count;
        Ok((Tensor::zeros(dims, x.dtype(), x.device())? + f64::from(f32::MIN))?)
    };
    let mut parts = vec![x.clone()];
    if pool.padding > 0 {
        parts.insert(0, lowest(pool.padding)?);
    }
    if needed > n + pool.padding {
        parts.push(lowest(needed - n - pool.padding)?);
    }
    Ok(Tensor::cat(&parts, dim)?)
}

/// `count` entries of dimension `dim`, from `first` on, `step` apart.
fn every(x: &Tensor, dim: usize, first: usize, step: usize, count: usize) -> Result<Tensor> {
    let x = x.narrow(dim, first, count * step)?.contiguous()?;
    let mut dims = x.dims().to_vec();
    dims.splice(dim..=dim, [count, step]);
    Ok(x.reshape(dims)?.narrow(dim + 1, 0, 1)?.squeeze(dim + 1)?.contiguous()?)
}
