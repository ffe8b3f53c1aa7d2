//! How well pictures survive the way through the latent.

use candle_core::{Device, Tensor};
use serde::Serialize;
use strata_datasets::{Dataset, Prepared, RgbImage, Transform, prepare};
use strata_training::{Interrupt, Progress};

use crate::{
    Autoencoder, LoadedAutoencoder, Result,
    codebook::Usage,
    kl::check_size,
    perceptual::Lpips,
    pictures::{self, from_tensor, mean_squared_error, psnr, to_tensor},
    ssim::ssim,
};

/// Pictures at a time, where the caller gives no other number.
const BATCH: usize = 16;
/// Pictures prepared ahead of the network: memory does not grow with the data set.
const PREPARED: usize = 1024;
/// Share of unreadable pictures that is tolerated, where the caller gives no other.
const MAX_BAD: f64 = 0.01;

/// What [`reconstruct`] measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Reconstruction {
    /// Mean over the pictures of each one's peak signal-to-noise ratio, in dB over 8-bit values.
    pub psnr: f64,
    /// Mean squared error of 8-bit values over all pictures.
    pub mean_squared_error: f64,
    /// Mean structural similarity (Wang et al. 2004).
    pub ssim: f64,
    /// Mean LPIPS, where a network was given.
    pub lpips: Option<f64>,
    /// Of a VQ model.
    pub codebook: Option<CodebookUse>,
    /// Of the latents, before quantization.
    pub latents: LatentStatistics,
    /// Pictures measured.
    pub count: usize,
    /// The first pictures and their reconstructions, as many as were asked for.
    pub examples: Vec<(RgbImage, RgbImage)>,
}

/// How a codebook was used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CodebookUse {
    /// Entries.
    pub codes: usize,
    /// Share of them that was the nearest at least once.
    pub used: f64,
    /// Exponential of the entropy of their use.
    pub perplexity: f64,
}

/// Mean and standard deviation of latents, by channel and over all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LatentStatistics {
    /// By channel.
    pub mean: Vec<f64>,
    /// By channel.
    pub std: Vec<f64>,
    /// 1 / the standard deviation over all channels: the scale factor of the published latent diffusion models.
    pub scale_factor: f64,
}

/// Sees pictures of the data and their reconstructions, a batch at a time.
pub type Watch<'a> = &'a dyn Fn(&[RgbImage], &[RgbImage]) -> Result<()>;

/// What [`reconstruct`] is to do beside measuring.
#[derive(Clone, Copy, Default)]
pub struct ReconstructOptions<'a> {
    /// How many pairs of pictures to keep.
    pub examples: usize,
    /// The perceptual distance to measure.
    pub lpips: Option<&'a Lpips>,
    /// Pictures at a time; 0: 16.
    pub batch: usize,
    /// Side of the tiles that large images are worked on by, in pixels; absent: whole.
    pub tile: Option<usize>,
    /// Share of unreadable pictures above which it fails; absent: 0.01.
    pub max_bad: Option<f64>,
    /// Who sees the pairs.
    pub watch: Option<Watch<'a>>,
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

/// Encodes the pictures of `data` at `indices` (to the mode of a KL model's posterior) and decodes them. Stops early, with what it
/// has, when `interrupt` is set.
///
/// # Errors
/// If pictures cannot be read, or the size does not fit the network.
pub fn reconstruct(
    autoencoder: &LoadedAutoencoder,
    data: &Dataset,
    indices: &[usize],
    transform: &Transform,
    options: ReconstructOptions<'_>,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Reconstruction> {
    check_size(transform.size, autoencoder.config.factor())?;
    autoencoder.check_rgb()?;
    let mut measured = Measurement::new(&autoencoder.model, options, autoencoder.store.device());
    let (batch, max_bad) = (measured.batch(), options.max_bad.unwrap_or(MAX_BAD));
    progress.start("reconstructing", indices.len() as u64, "images");
    for part in indices.chunks(PREPARED.next_multiple_of(batch)) {
        let prepared = prepare(data, part, transform, max_bad, &|_| ())?;
        for first in (0..prepared.len()).step_by(batch) {
            if interrupt.is_set() && measured.count > 0 {
                progress.finish();
                return Ok(measured.result());
            }
            measured.add(&prepared, first)?;
            progress.advance(measured.count as u64, "");
        }
    }
    progress.finish();
    Ok(measured.result())
}

/// The same for pictures in memory.
pub(crate) fn measure(model: &Autoencoder, prepared: &Prepared, examples: usize, device: &Device) -> Result<Reconstruction> {
    let mut measured = Measurement::new(model, ReconstructOptions { examples, ..ReconstructOptions::default() }, device);
    for first in (0..prepared.len()).step_by(measured.batch()) {
        measured.add(prepared, first)?;
    }
    Ok(measured.result())
}

struct Measurement<'a> {
    model: &'a Autoencoder,
    options: ReconstructOptions<'a>,
    device: &'a Device,
    psnr: f64,
    error: f64,
    ssim: f64,
    lpips: f64,
    usage: Option<Usage>,
    latents: Moments,
    count: usize,
    examples: Vec<(RgbImage, RgbImage)>,
}

impl<'a> Measurement<'a> {
    fn new(model: &'a Autoencoder, options: ReconstructOptions<'a>, device: &'a Device) -> Self {
        let usage = match model {
            Autoencoder::Vq(model) => Some(Usage::new(model.config().codes)),
            _ => None,
        };
        let latents = Moments::default();
        Self {
            model,
            options,
            device,
            psnr: 0.0,
            error: 0.0,
            ssim: 0.0,
            lpips: 0.0,
            usage,
            latents,
            count: 0,
            examples: Vec::new(),
        }
    }

    fn batch(&self) -> usize {
        if self.options.batch == 0 { BATCH } else { self.options.batch }
    }

    fn add(&mut self, prepared: &Prepared, first: usize) -> Result<()> {
        let (size, last) = (prepared.size, (first + self.batch()).min(prepared.len()));
        let pixels = &prepared.images[first * size * size * 3..last * size * size * 3];
        let x = to_tensor(pixels, last - first, size, self.device)?;
        let z = self.model.encode_by(&x, self.options.tile)?;
        self.latents.add(&z)?;
        if let (Some(usage), Autoencoder::Vq(model)) = (&mut self.usage, self.model) {
            usage.add(&model.quantize(&z)?.indices.flatten_all()?.to_vec1::<u32>()?, (last - first) as u64);
        }
        let y = self.model.decode_by(&z, self.options.tile)?;
        if let Some(lpips) = self.options.lpips {
            self.lpips += f64::from(lpips.distance(&x, &y.clamp(-1.0, 1.0)?)?.sum_all()?.to_scalar::<f32>()?);
        }
        let image = |pixels: &[u8]| RgbImage { width: size, height: size, pixels: pixels.to_vec() };
        let originals: Vec<RgbImage> = pixels.chunks_exact(size * size * 3).map(image).collect();
        let reconstructions = from_tensor(&y)?;
        if let Some(watch) = self.options.watch {
            watch(&originals, &reconstructions)?;
        }
        originals.into_iter().zip(reconstructions).for_each(|(original, reconstruction)| self.add_pair(original, reconstruction));
        Ok(())
    }

    fn add_pair(&mut self, original: RgbImage, reconstruction: RgbImage) {
        let error = mean_squared_error(&original.pixels, &reconstruction.pixels);
        self.psnr += psnr(error);
        self.error += error;
        self.ssim += ssim(&original, &reconstruction);
        self.count += 1;
        if self.examples.len() < self.options.examples {
            self.examples.push((original, reconstruction));
        }
    }

    fn result(self) -> Reconstruction {
        let n = self.count.max(1) as f64;
        let codebook = self.usage.map(|usage| {
            let (used, perplexity) = usage.measure();
            CodebookUse { codes: usage.codes(), used, perplexity }
        });
        Reconstruction {
            psnr: self.psnr / n,
            mean_squared_error: self.error / n,
            ssim: self.ssim / n,
            lpips: self.options.lpips.map(|_| self.lpips / n),
            codebook,
            latents: self.latents.statistics(),
            count: self.count,
            examples: self.examples,
        }
    }
}

/// Sums of latents and of their squares, by channel.
#[derive(Default)]
struct Moments {
    count: f64,
    sums: Vec<[f64; 2]>,
}

impl Moments {
    /// z: `[B, Z, h, w]`.
    fn add(&mut self, z: &Tensor) -> Result<()> {
        let (b, channels, h, w) = z.dims4()?;
        self.sums.resize(channels, [0.0; 2]);
        let values = z.flatten_all()?.to_vec1::<f32>()?;
        for (i, plane) in values.chunks_exact(h * w).enumerate() {
            let [sum, squares] = &mut self.sums[i % channels];
            for v in plane {
                *sum += f64::from(*v);
                *squares += f64::from(*v).powi(2);
            }
        }
        self.count += (b * h * w) as f64;
        Ok(())
    }

    fn statistics(&self) -> LatentStatistics {
        let n = self.count.max(1.0);
        let deviation = |[sum, squares]: [f64; 2], n: f64| (squares / n - (sum / n).powi(2)).max(0.0).sqrt();
        let all = self.sums.iter().fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d]);
        LatentStatistics {
            mean: self.sums.iter().map(|[sum, _]| sum / n).collect(),
            std: self.sums.iter().map(|sums| deviation(*sums, n)).collect(),
            scale_factor: 1.0 / deviation(all, n * self.sums.len().max(1) as f64).max(1e-12),
        }
    }
}

/// Latents to pictures. latents: `[B, Z, h, w]`, unscaled; decoded a few at a time, so that memory does not grow with B. A VQ
/// model quantizes them first. `tile`: side of the tiles that large images are worked on by, in pixels; absent: whole.
///
/// # Errors
/// If the channels are not the network's, a number is not finite, or a tile is too small.
pub fn decode_latents(autoencoder: &LoadedAutoencoder, latents: &Tensor, tile: Option<usize>) -> Result<Vec<RgbImage>> {
    let count = latents.dim(0)?;
    let mut decoded = Vec::with_capacity(count);
    for first in (0..count).step_by(BATCH) {
        let rows = latents.narrow(0, first, BATCH.min(count - first))?;
        decoded.extend(from_tensor(&autoencoder.model.decode_by(&rows, tile)?)?);
    }
    Ok(decoded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn latents_are_measured_by_channel_and_over_all() {
        let z = Tensor::new(&[[[[1f32, 3.]], [[0., 0.]]], [[[1., 3.]], [[4., 4.]]]], &Device::Cpu).unwrap();
        let mut moments = Moments::default();
        moments.add(&z).unwrap();
        let measured = moments.statistics();
        assert_eq!((measured.mean, measured.std), (vec![2.0, 2.0], vec![1.0, 2.0]));
        assert!((measured.scale_factor - 1.0 / 2.5f64.sqrt()).abs() < 1e-12);
    }
}
