//! Randomness as a function of its coordinates.
//!
//! A [`Key`] names a stream: (seed, purpose, step, index). Nothing reads a global generator or the clock, so an image's
//! noise does not depend on the batch it is drawn in, and a run that is interrupted continues with the numbers it would
//! have drawn. The generator is ChaCha with 8 rounds; the key is its 256-bit key.

use candle_core::{Device, Shape, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::Result;

/// The coordinates of a stream of random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    seed: u64,
    purpose: u64,
    step: u64,
    index: u64,
}

impl Key {
    /// The stream for `purpose` (a short name, for example `"init"`) under `seed`, at step 0 and index 0.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self { seed, purpose: fnv1a(purpose), step: 0, index: 0 }
    }

    /// The same stream at another step.
    #[must_use]
    pub fn step(self, step: u64) -> Self {
        Self { step, ..self }
    }

    /// The same stream for another sample, rank or layer.
    #[must_use]
    pub fn index(self, index: u64) -> Self {
        Self { index, ..self }
    }

    /// A stream of its own for a part of whatever this key is for, for example one layer's dropout.
    #[must_use]
    pub fn child(self, purpose: &str) -> Self {
        Self { purpose: self.purpose.rotate_left(17) ^ fnv1a(purpose), ..self }
    }

    /// The generator's key: the coordinates, the lower half of each first.
    pub(crate) fn words(self) -> [u32; 8] {
        let coordinates = [self.seed, self.purpose, self.step, self.index];
        std::array::from_fn(|i| (coordinates[i / 2] >> (32 * (i % 2))) as u32)
    }

    /// The generator of this stream, at its beginning.
    pub fn generator(self) -> ChaCha8Rng {
        let mut seed = [0u8; 32];
        for (chunk, word) in seed.chunks_exact_mut(4).zip(self.words()) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(seed)
    }

    /// `n` standard normal numbers.
    pub fn normal(self, n: usize) -> Vec<f32> {
        StandardNormal.sample_iter(self.generator()).take(n).collect()
    }

    /// `n` numbers uniform in [0, 1).
    pub fn uniform(self, n: usize) -> Vec<f32> {
        let mut rng = self.generator();
        (0..n).map(|_| uniform_f32(&mut rng)).collect()
    }

    /// A standard normal tensor of `shape`, float32, one stream for the whole tensor.
    pub fn normal_tensor(self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        Ok(Tensor::from_vec(self.normal(shape.elem_count()), shape, device)?)
    }

    /// A standard normal tensor `[indices.len(), shape...]` whose row i is the stream at `indices[i]`: each sample's
    /// noise depends on its own index alone.
    pub fn normal_rows(self, indices: &[u64], shape: &[usize], device: &Device) -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let mut data = Vec::with_capacity(n * indices.len());
        for &index in indices {
            data.extend(StandardNormal.sample_iter(self.index(index).generator()).take(n).map(|v: f32| v));
        }
        let dims: Vec<usize> = std::iter::once(indices.len()).chain(shape.iter().copied()).collect();
        Ok(Tensor::from_vec(data, dims, device)?)
    }
}

/// A number uniform in [0, 1) with 24 bits.
pub fn uniform_f32(rng: &mut impl RngCore) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

/// A number uniform in [0, 1) with 53 bits.
pub fn uniform_f64(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// FNV-1a, 64 bit.
pub fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_depend_on_the_batch() -> Result<()> {
        let key = Key::new(3, "noise");
        let all = key.normal_rows(&[5, 6, 7], &[2, 2], &Device::Cpu)?;
        let one = key.normal_rows(&[6], &[2, 2], &Device::Cpu)?;
        assert_eq!(all.get(1)?.to_vec2::<f32>()?, one.get(0)?.to_vec2::<f32>()?);
        Ok(())
    }

    #[test]
    fn coordinates_are_independent() {
        let key = Key::new(3, "noise");
        let other = [Key::new(4, "noise"), Key::new(3, "dropout"), key.step(1), key.index(1), key.child("x")];
        for k in other {
            assert_ne!(key.normal(4), k.normal(4));
        }
    }

    #[test]
    fn moments() {
        let v = Key::new(0, "m").normal(100_000);
        let mean = v.iter().sum::<f32>() / 1e5;
        let var = v.iter().map(|x| x * x).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.02, "{mean} {var}");
    }
}
