//! Latents on disk as points: the posterior's mode, shifted and scaled as training sees it.

use strata_datasets::LatentSet;

use super::points::Points;
use crate::{Error, Result};

/// A latent set, read picture by picture; it need not fit in memory.
pub struct LatentPoints<'a> {
    set: &'a LatentSet,
    area: usize,
    /// (scale, shift) of each channel.
    affine: Vec<(f64, f64)>,
}

impl<'a> LatentPoints<'a> {
    /// The latents of `set`, `[channels · height · width]` each.
    pub fn new(set: &'a LatentSet) -> Self {
        let manifest = set.manifest();
        let of = |values: &[f32], c: usize, none: f64| values.get(c).or(values.first()).map_or(none, |&v| f64::from(v));
        let affine = (0..manifest.channels).map(|c| (of(&manifest.scale, c, 1.0), of(&manifest.shift, c, 0.0))).collect();
        Self { set, area: manifest.height * manifest.width, affine }
    }
}

impl Points for LatentPoints<'_> {
    fn count(&self) -> usize {
        self.set.len()
    }

    fn dim(&self) -> usize {
        self.area * self.affine.len()
    }

    fn read(&self, start: usize, out: &mut [f64]) -> Result<()> {
        for (i, out) in out.chunks_mut(self.dim()).enumerate() {
            let stored = self.set.moments(start + i).map_err(|e| Error::Config(e.to_string()))?;
            for ((out, stored), (scale, shift)) in out.chunks_mut(self.area).zip(stored.chunks(self.area)).zip(&self.affine) {
                out.iter_mut().zip(stored).for_each(|(o, &v)| *o = (f64::from(v) - shift) * scale);
            }
        }
        Ok(())
    }
}
