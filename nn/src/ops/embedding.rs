//! Embeddings of a noise level or a time.

use candle_core::{DType, Device, Tensor};

use crate::{Error, Result};

/// `[cos(t f), sin(t f)]` with `f_i = 10000^(-i / (n/2 - shift))` (Vaswani et al. 2017). t: `[B]`; answers `[B, n]` float32.
/// `shift` is 0 in latent diffusion and ADM, 1 in DDPM and EDM's SongUNet. Computed on the host in float32, as published.
///
/// # Errors
/// If `n` is odd.
pub fn sinusoidal_embedding(t: &[f32], n: usize, shift: f64, device: &Device) -> Result<Tensor> {
    if n == 0 || !n.is_multiple_of(2) {
        return Err(Error::argument("sinusoidal_embedding", "n", "an even width", n));
    }
    let half = n / 2;
    let scale = -(10000f64.ln()) / (half as f64 - shift);
    let frequencies: Vec<f32> = (0..half).map(|i| (scale * i as f64).exp() as f32).collect();
    let mut data = Vec::with_capacity(t.len() * n);
    for &t in t {
        data.extend(frequencies.iter().map(|f| (t * f).cos()));
        data.extend(frequencies.iter().map(|f| (t * f).sin()));
    }
    Ok(Tensor::from_vec(data, (t.len(), n), device)?.to_dtype(DType::F32)?)
}
