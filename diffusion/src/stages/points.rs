//! Finite data sets as the optimal denoiser sees them: rows of numbers, read tile by tile, never all at once.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;

use rayon::prelude::*;

use crate::{Error, Result};

/// A data set of `count` points of `dim` numbers each. A source reads from memory, a memory map or files; a reader asks for
/// consecutive rows, from several threads at once.
pub trait Points: Sync {
    /// Number of points N.
    fn count(&self) -> usize;
    /// Numbers per point n.
    fn dim(&self) -> usize;
    /// Writes the points from `start` on into `out`, whose length is a multiple of `dim`. Errors name what cannot be read.
    fn read(&self, start: usize, out: &mut [f64]) -> Result<()>;
}

/// Points in memory, row-major, of any number type that converts to float64 without loss.
pub struct Rows<'a, T> {
    values: &'a [T],
    dim: usize,
}

impl<'a, T> Rows<'a, T> {
    /// Points of `dim` numbers, one after the other in `values`. Errors if the length is no multiple of `dim`.
    pub fn new(values: &'a [T], dim: usize) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(Error::Config(format!("{} numbers are not a whole number of points of dimension {dim}", values.len())));
        }
        Ok(Self { values, dim })
    }
}

impl<T: Copy + Into<f64> + Sync> Points for Rows<'_, T> {
    fn count(&self) -> usize {
        self.values.len() / self.dim
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn read(&self, start: usize, out: &mut [f64]) -> Result<()> {
        let from = &self.values[start * self.dim..][..out.len()];
        out.iter_mut().zip(from).for_each(|(o, &v)| *o = v.into());
        Ok(())
    }
}

/// 8-bit points in memory, each value `u8 * scale + offset`; pixels in [-1, 1] have scale 1/127.5 and offset -1.
pub struct Bytes<'a> {
    values: Rows<'a, u8>,
    scale: f64,
    offset: f64,
}

impl<'a> Bytes<'a> {
    /// Points of `dim` bytes, one after the other in `values`. Errors if the length is no multiple of `dim`.
    pub fn new(values: &'a [u8], dim: usize, scale: f64, offset: f64) -> Result<Self> {
        Ok(Self { values: Rows::new(values, dim)?, scale, offset })
    }

    /// Pixels 0..=255 as numbers in [-1, 1].
    pub fn pixels(values: &'a [u8], dim: usize) -> Result<Self> {
        Self::new(values, dim, 1.0 / 127.5, -1.0)
    }
}

impl Points for Bytes<'_> {
    fn count(&self) -> usize {
        self.values.count()
    }

    fn dim(&self) -> usize {
        self.values.dim
    }

    fn read(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.values.read(start, out)?;
        out.iter_mut().for_each(|v| *v = *v * self.scale + self.offset);
        Ok(())
    }
}

/// 8-bit points in a file, read as they are needed: for sets that do not fit in memory. Values as [`Bytes`].
pub struct FileBytes {
    file: std::fs::File,
    count: usize,
    dim: usize,
    scale: f64,
    offset: f64,
}

impl FileBytes {
    /// Pixels 0..=255 as numbers in [-1, 1]: points of `dim` bytes, one after the other in `file`. Errors if its length is no
    /// multiple of `dim`.
    pub fn pixels(file: std::fs::File, dim: usize) -> Result<Self> {
        let bytes = file.metadata().map_err(|e| Error::Config(format!("a file of points: {e}")))?.len() as usize;
        if dim == 0 || !bytes.is_multiple_of(dim) {
            return Err(Error::Config(format!("{bytes} bytes are not a whole number of points of dimension {dim}")));
        }
        Ok(Self { file, count: bytes / dim, dim, scale: 1.0 / 127.5, offset: -1.0 })
    }
}

impl Points for FileBytes {
    fn count(&self) -> usize {
        self.count
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn read(&self, start: usize, out: &mut [f64]) -> Result<()> {
        let mut bytes = vec![0; out.len()];
        let read = self.file.read_exact_at(&mut bytes, (start * self.dim) as u64);
        read.map_err(|e| Error::Config(format!("a file of points, from point {start} on: {e}")))?;
        out.iter_mut().zip(bytes).for_each(|(o, v)| *o = f64::from(v) * self.scale + self.offset);
        Ok(())
    }
}

/// What one pass over a data set shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Number of points.
    pub count: usize,
    /// Numbers per point.
    pub dim: usize,
    /// Number of points that differ from all earlier ones.
    pub distinct: usize,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// Standard deviation of all values about their common mean.
    pub deviation: f64,
    /// The mean point, `[dim]`.
    pub mean: Vec<f64>,
}

/// Rows per tile: a few MiB of float64, a function of `dim` alone so that results do not depend on the machine.
pub(super) fn tile_rows(dim: usize) -> usize {
    ((1 << 20) / dim.max(1)).clamp(256, 2048)
}

/// Calls `each` with (first row, rows of float64) for consecutive tiles over the whole set. The tile's memory is reused.
pub(super) fn for_each_tile(points: &dyn Points, mut each: impl FnMut(usize, &mut [f64]) -> Result<()>) -> Result<()> {
    let (count, dim) = (points.count(), points.dim());
    let rows = tile_rows(dim).min(count);
    let mut tile = vec![0.0; rows * dim];
    for start in (0..count).step_by(rows.max(1)) {
        let tile = &mut tile[..rows.min(count - start) * dim];
        const READ: usize = 64;
        tile.par_chunks_mut(READ * dim).enumerate().try_for_each(|(i, part)| points.read(start + i * READ, part))?;
        each(start, tile)?;
    }
    Ok(())
}

impl Summary {
    /// Reads all of `points` once. Errors if there are none, or if a value is not finite (naming the point and coordinate).
    pub fn of(points: &dyn Points) -> Result<Self> {
        let (count, dim) = (points.count(), points.dim());
        if count == 0 || dim == 0 {
            return Err(Error::Config(format!(
                "the data set has {count} points of dimension {dim}: nothing to divide into stages"
            )));
        }
        let mut sums = Sums { mean: vec![0.0; dim], square: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
        let mut seen = HashSet::with_capacity(count);
        for_each_tile(points, |start, tile| {
            if let Some(at) = tile.iter().position(|v| !v.is_finite()) {
                let (point, coordinate) = (start + at / dim, at % dim);
                return Err(Error::NonFinite(format!("in the data: {} at coordinate {coordinate} of point {point}", tile[at])));
            }
            seen.par_extend(tile.par_chunks(dim).map(fingerprint));
            tile.chunks(dim).for_each(|row| sums.add(row));
            Ok(())
        })?;
        let total = (count * dim) as f64;
        let mean: Vec<f64> = sums.mean.iter().map(|s| s / count as f64).collect();
        let common = mean.iter().sum::<f64>() / dim as f64;
        let deviation = (sums.square / total - common * common).max(0.0).sqrt();
        Ok(Self { count, dim, distinct: seen.len(), min: sums.min, max: sums.max, deviation, mean })
    }
}

/// The sums of one pass.
struct Sums {
    mean: Vec<f64>,
    square: f64,
    min: f64,
    max: f64,
}

impl Sums {
    fn add(&mut self, row: &[f64]) {
        for (sum, &v) in self.mean.iter_mut().zip(row) {
            *sum += v;
            self.square += v * v;
            self.min = self.min.min(v);
            self.max = self.max.max(v);
        }
    }
}

/// 128 bits of a row's content, in two independent multiplicative hashes; -0 counts as 0.
fn fingerprint(row: &[f64]) -> (u64, u64) {
    row.iter().fold((0xcbf2_9ce4_8422_2325, 0x9e37_79b9_7f4a_7c15), |(a, b), v| {
        let bits = (v + 0.0).to_bits();
        let a = (a ^ bits).wrapping_mul(0x0000_0100_0000_01b3);
        let b = (b.rotate_left(23) ^ bits.rotate_left(32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (a ^ (a >> 29), b ^ (b >> 31))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_a_set_with_a_duplicate() {
        let data = [0.0f32, 2.0, 4.0, 6.0, 0.0, 2.0];
        let s = Summary::of(&Rows::new(&data, 2).unwrap()).unwrap();
        assert_eq!((s.count, s.dim, s.distinct, s.min, s.max), (3, 2, 2, 0.0, 6.0));
        let mean = 14.0 / 6.0;
        let variance = (2.0 * 4.0 + 16.0 + 36.0) / 6.0 - mean * mean;
        assert!((s.deviation - f64::sqrt(variance)).abs() < 1e-14);
        assert_eq!(s.mean, [4.0 / 3.0, 10.0 / 3.0]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_located() {
        let mut data = vec![1.0f64; 3000 * 3];
        data[2999 * 3 + 1] = f64::NAN;
        let error = Summary::of(&Rows::new(&data, 3).unwrap()).unwrap_err().to_string();
        assert!(error.contains("coordinate 1 of point 2999"), "{error}");
        assert!(Summary::of(&Rows::<f32>::new(&[], 3).unwrap()).is_err());
        assert!(Rows::new(&[1.0f32; 4], 3).is_err());
    }

    #[test]
    fn a_file_holds_the_same_points_as_memory() {
        let bytes: Vec<u8> = (0..700 * 6).map(|i| (i * 37 % 256) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &bytes).unwrap();
        let (file, memory) = (FileBytes::pixels(file, 6).unwrap(), Bytes::pixels(&bytes, 6).unwrap());
        assert_eq!(Summary::of(&file).unwrap(), Summary::of(&memory).unwrap());
        let read = |points: &dyn Points| {
            let mut out = vec![0.0; 5 * 6];
            points.read(690, &mut out).map(|()| out)
        };
        assert_eq!(read(&file).unwrap(), read(&memory).unwrap());
        assert!(file.read(699, &mut [0.0; 12]).unwrap_err().to_string().contains("point 699"));
        assert!(FileBytes::pixels(tempfile::tempfile().unwrap(), 0).is_err());
    }

    #[test]
    fn tiles_cover_the_set_in_order() {
        let data: Vec<f64> = (0..5001 * 2).map(f64::from).collect();
        let mut got = Vec::new();
        for_each_tile(&Rows::new(&data, 2).unwrap(), |start, tile| {
            assert_eq!(start * 2, got.len());
            got.extend_from_slice(tile);
            Ok(())
        })
        .unwrap();
        assert_eq!(got, data);
    }
}
