//! Sampling around a known region, as a denoiser over a denoiser (the mask of latent diffusion; Lugmayr et al. 2022 without jumps).

use candle_core::Tensor;

use crate::{
    Error, Result,
    denoiser::{Denoiser, Estimate},
    sampler::SeededNoise,
};

/// A denoiser that is shown the known x0, noised anew for every level, where the mask is 1, and answers it there. Since it stands in
/// front of the network and not in the solver, every sampler can be used, also those with a history. What is drawn follows the known
/// less than their joint distribution would have it (Lugmayr et al. 2022, Section 4), stochastic samplers more than deterministic ones.
pub struct Masked<D> {
    denoiser: D,
    /// mask x0, and 1 - mask.
    known: Tensor,
    unknown: Tensor,
    mask: Tensor,
    noise: SeededNoise,
}

impl<D: Denoiser> Masked<D> {
    /// x0: the known samples, [B, ...]; mask: 1 where they are known, 0 where not, of a shape that broadcasts to x0's; noise: one seed
    /// per sample. The noise of a level depends on the seed and the level alone, so that an evaluation can be repeated.
    pub fn new(denoiser: D, x0: &Tensor, mask: &Tensor, noise: &SeededNoise) -> Result<Self> {
        let mask = mask.to_dtype(x0.dtype())?.broadcast_as(x0.shape())?.contiguous()?;
        let (known, unknown) = ((x0 * &mask)?, mask.affine(-1.0, 1.0)?);
        Ok(Self { denoiser, known, unknown, mask, noise: noise.purpose("known region") })
    }

    fn shown(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        if x.dims() != self.known.dims() {
            let (expected, got) = (format!("{:?}", self.known.dims()), format!("{:?}", x.dims()));
            return Err(Error::Mismatch { what: "the known samples".into(), expected, got });
        }
        let noise = (self.noise.of_level(sigma, x)? * sigma)?;
        let known = (self.known.to_dtype(x.dtype())? + (noise * self.mask.to_dtype(x.dtype())?)?)?;
        Ok((known + (x * self.unknown.to_dtype(x.dtype())?)?)?)
    }

    fn answered(&self, x0: &Tensor) -> Result<Tensor> {
        Ok((self.known.to_dtype(x0.dtype())? + (x0 * self.unknown.to_dtype(x0.dtype())?)?)?)
    }
}

impl<D: Denoiser> Denoiser for Masked<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.answered(&self.denoiser.denoise(&self.shown(x, sigma)?, sigma)?)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let estimate = self.denoiser.estimate(&self.shown(x, sigma)?, sigma)?;
        Ok(Estimate { x0: self.answered(&estimate.x0)?, ..estimate })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;
    use crate::{
        denoiser::FnDenoiser,
        grid,
        sampler::{Run, Sampler},
    };

    fn values(x: &Tensor) -> Vec<Vec<f64>> {
        x.to_vec2().unwrap()
    }

    /// Two numbers of correlation 0.8 and deviation 1, whose ideal denoiser is linear: (C + sigma²)^-1 C.
    fn correlated(x: &Tensor, sigma: f64) -> Result<Tensor> {
        let (c, v) = (0.8, 1.0 + sigma * sigma);
        let scale = 1.0 / (v * v - c * c);
        let (own, other) = ((v - c * c) * scale, (c * v - c) * scale);
        let gain = Tensor::new(&[[own, other], [other, own]], x.device())?;
        Ok(x.matmul(&gain)?)
    }

    #[test]
    fn the_known_is_kept_and_the_unknown_follows_it() {
        let seeds: Vec<u64> = (0..4000).collect();
        let noise = SeededNoise::new(seeds.clone());
        let x0 = Tensor::new(&[[1.5, 0.0]], &Device::Cpu).unwrap().broadcast_as((4000, 2)).unwrap().contiguous().unwrap();
        let mask = Tensor::new(&[[1.0, 0.0]], &Device::Cpu).unwrap();
        let sigmas = grid::karras(100, 0.01, 40.0, 7.0).unwrap();
        for name in ["dpmpp-2m", "ddpm", "heun", "unipc"] {
            let masked = Masked::new(FnDenoiser(correlated), &x0, &mask, &noise).unwrap();
            let x = (noise.initial(&[2], &Device::Cpu).unwrap().to_dtype(candle_core::DType::F64).unwrap() * 40.0).unwrap();
            let mut observe = |_: usize, _: &Tensor| Ok(());
            let run = Run { denoiser: &masked, sigmas: &sigmas, noise: &mut noise.clone(), observe: &mut observe };
            let x = values(&name.parse::<Sampler>().unwrap().sample(run, x).unwrap());
            assert!(x.iter().all(|row| (row[0] - 1.5).abs() < 1e-9), "{name}: the known is kept");
            // Given the first, the second has mean 1.2; without a mask it would have 0. Replacing comes half the way.
            let mean = x.iter().map(|row| row[1]).sum::<f64>() / 4000.0;
            assert!((0.4..1.2).contains(&mean), "{name}: {mean}");
        }
    }

    #[test]
    fn an_evaluation_can_be_repeated_and_shapes_are_checked() {
        let noise = SeededNoise::new(vec![3, 4]);
        let x0 = Tensor::new(&[[1.0, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let mask = Tensor::new(&[[0.0, 1.0]], &Device::Cpu).unwrap();
        let identity = || FnDenoiser(|x: &Tensor, _| Ok(x.clone()));
        let masked = Masked::new(identity(), &x0, &mask, &noise).unwrap();
        let x = Tensor::new(&[[9.0, 9.0], [8.0, 8.0]], &Device::Cpu).unwrap();
        assert_eq!(values(&masked.denoise(&x, 2.0).unwrap()), [[9.0, 2.0], [8.0, 4.0]]);
        assert_eq!(values(&masked.shown(&x, 2.0).unwrap()), values(&masked.shown(&x, 2.0).unwrap()));
        assert_ne!(values(&masked.shown(&x, 2.0).unwrap()), values(&masked.shown(&x, 1.0).unwrap()));
        assert!(masked.denoise(&x.narrow(0, 0, 1).unwrap(), 2.0).is_err());
    }
}
