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
//! tiles with a running log-sum-exp, on the CPU's cores or on a CUDA device, in float64 on both.

use candle_core::Device;
use rayon::prelude::*;

use super::points::{Points, Summary};
use super::{pairs::Request, sweep, sweep_tensor};
use crate::{Error, Result};

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
    device: Device,
}

impl<'a> OptimalDenoiser<'a> {
    /// Reads the data once, for its [`Summary`]. Errors if there is no point or a value is not finite.
    pub fn new(points: &'a dyn Points) -> Result<Self> {
        Ok(Self { summary: Summary::of(points)?, points, device: Device::Cpu })
    }

    /// The same, with the matrix products and reductions on `device` if that is no CPU; the results then agree with the CPU's up
    /// to the rounding of float64. The device needs float64, which CUDA has.
    #[must_use]
    pub fn on(self, device: &Device) -> Self {
        Self { device: device.clone(), ..self }
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
        match self.device {
            Device::Cpu => sweep::run(self.points, &self.summary.mean, request, stop),
            ref device => sweep_tensor::run(self.points, &self.summary.mean, request, device, stop),
        }
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
    fn a_device_computes_the_same() {
        let data = data(2500, 5);
        let points = Rows::new(&data, 5).unwrap();
        let optimal = OptimalDenoiser::new(&points).unwrap();
        let levels = [1e-5, 1e-3, 0.05, 0.3, 1.0, 7.0, 80.0];
        let (indices, noise): (Vec<usize>, _) = ((0..400).collect(), Key::new(7, "noise").normal(400 * 5));
        let (noise, sigmas): (Vec<f64>, _) = (noise.into_iter().map(f64::from).collect(), levels.repeat(400));
        for members in [true, false] {
            let base = optimal.gather(&indices).unwrap();
            let request = Request { base: &base, noise: &noise, members, sigmas: &sigmas, levels: levels.len() };
            let mean = &optimal.summary().mean;
            let want = sweep::run(&points, mean, &request, NEVER).unwrap();
            let got = sweep_tensor::run(&points, mean, &request, &Device::Cpu, NEVER).unwrap();
            assert_eq!(got.len(), want.len());
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!((got - want).abs() <= 1e-11 + 1e-10 * want.abs(), "members {members}, number {i}: {got} {want}");
            }
        }
        assert!(matches!(
            sweep_tensor::run(&points, &[0.0; 5], &request_of(&noise, &sigmas), &Device::Cpu, &|| true),
            Err(Error::Interrupted)
        ));
    }

    fn request_of<'a>(values: &'a [f64], sigmas: &'a [f64]) -> Request<'a> {
        Request { base: values, noise: values, members: false, sigmas, levels: 7 }
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
