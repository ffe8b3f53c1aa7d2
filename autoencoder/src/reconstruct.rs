//! How well pictures survive the way through the latent.

use candle_core::{Device, Tensor};
use strata_datasets::{Dataset, Prepared, RgbImage, Transform, prepare};
use strata_training::{Interrupt, Progress};

use crate::{
    AutoencoderKl, LoadedAutoencoder, Posterior, Result,
    pictures::{self, from_tensor, mean_squared_error, psnr, to_tensor},
};

/// Pictures at a time, where the caller gives no other number.
const BATCH: usize = 16;

/// What [`reconstruct`] measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstruction {
    /// Mean over the pictures of each one's peak signal-to-noise ratio, in dB over 8-bit values.
    pub psnr: f64,
    /// Mean squared error of 8-bit values over all pictures.
    pub mean_squared_error: f64,
    /// Pictures measured.
    pub count: usize,
    /// The first pictures and their reconstructions, as many as were asked for.
    pub examples: Vec<(RgbImage, RgbImage)>,
}

impl Reconstruction {
    /// The examples as a picture: `columns` originals in a row, below them their reconstructions, and so on.
    ///
    /// # Errors
    /// If there are no examples.
    pub fn grid(&self, columns: usize) -> Result<RgbImage> {
        let mut rows = Vec::new();
        for chunk in self.examples.chunks(columns.max(1)) {
            rows.extend(chunk.iter().map(|(original, _)| original));
            rows.extend(chunk.iter().map(|(_, reconstruction)| reconstruction));
        }
        pictures::grid(&rows, columns.min(self.examples.len()))
    }
}

/// Encodes the pictures of `data` at `indices` to the mode of their posterior and decodes it. `examples`: how many pairs of
/// pictures to keep. Stops early, with what it has, when `interrupt` is set.
///
/// # Errors
/// If pictures cannot be read, or the size does not fit the network.
pub fn reconstruct(
    autoencoder: &LoadedAutoencoder,
    data: &Dataset,
    indices: &[usize],
    transform: &Transform,
    examples: usize,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Reconstruction> {
    let prepared = prepare(data, indices, transform, 0.01, &|_| ())?;
    progress.start("reconstructing", prepared.len() as u64, "images");
    let mut measured = Measurement::default();
    for first in (0..prepared.len()).step_by(BATCH) {
        if interrupt.is_set() && measured.count > 0 {
            break;
        }
        measured.add(&autoencoder.model, &prepared, first, examples, autoencoder.store.device())?;
        progress.advance(measured.count as u64, "");
    }
    progress.finish();
    Ok(measured.result())
}

/// The same for pictures in memory.
pub(crate) fn measure(model: &AutoencoderKl, prepared: &Prepared, examples: usize, device: &Device) -> Result<Reconstruction> {
    let mut measured = Measurement::default();
    for first in (0..prepared.len()).step_by(BATCH) {
        measured.add(model, prepared, first, examples, device)?;
    }
    Ok(measured.result())
}

#[derive(Default)]
struct Measurement {
    psnr: f64,
    error: f64,
    count: usize,
    examples: Vec<(RgbImage, RgbImage)>,
}

impl Measurement {
    fn add(&mut self, model: &AutoencoderKl, prepared: &Prepared, first: usize, examples: usize, device: &Device) -> Result<()> {
        let (size, last) = (prepared.size, (first + BATCH).min(prepared.len()));
        let pixels = &prepared.images[first * size * size * 3..last * size * size * 3];
        let x = to_tensor(pixels, last - first, size, device)?;
        let moments = model.encode_moments(&x)?;
        let y = model.decode(Posterior::new(&moments)?.mode())?;
        for (original, reconstruction) in pixels.chunks_exact(size * size * 3).zip(from_tensor(&y)?) {
            let error = mean_squared_error(original, &reconstruction.pixels);
            self.psnr += psnr(error);
            self.error += error;
            self.count += 1;
            if self.examples.len() < examples {
                let original = RgbImage { width: size, height: size, pixels: original.to_vec() };
                self.examples.push((original, reconstruction));
            }
        }
        Ok(())
    }

    fn result(self) -> Reconstruction {
        let n = self.count.max(1) as f64;
        let Self { psnr, error, count, examples } = self;
        Reconstruction { psnr: psnr / n, mean_squared_error: error / n, count, examples }
    }
}

/// Latents to pictures. latents: `[B, Z, h, w]`, unscaled; decoded a few at a time, so that memory does not grow with B.
///
/// # Errors
/// If the channels are not the network's.
pub fn decode_latents(autoencoder: &LoadedAutoencoder, latents: &Tensor) -> Result<Vec<RgbImage>> {
    let count = latents.dim(0)?;
    let mut decoded = Vec::with_capacity(count);
    for first in (0..count).step_by(BATCH) {
        let rows = latents.narrow(0, first, BATCH.min(count - first))?;
        decoded.extend(from_tensor(&autoencoder.model.decode(&rows)?)?);
    }
    Ok(decoded)
}
