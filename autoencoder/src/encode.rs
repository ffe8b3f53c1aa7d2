//! From a data set to latent shards.

use std::path::Path;

use strata_datasets::{
    Dataset, LatentKind, LatentManifest, LatentType, LatentWriter, Prepared, SourceInfo, Transform, prepare, tolerated,
};
use strata_training::{Interrupt, Progress};

use crate::{Error, LoadedAutoencoder, Result, pictures::to_tensor};

/// How latents are written.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeOptions {
    /// Pictures at a time.
    pub batch: usize,
    /// Each picture is followed by its mirror image.
    pub flip: bool,
    /// Moments, of which training draws anew each time, or the mode alone.
    pub kind: LatentKind,
    /// How numbers are stored.
    pub dtype: LatentType,
    /// Factor that normalises latents, for each channel or one for all; empty: measured, so that each channel has unit variance.
    pub scale: Vec<f32>,
    /// What is subtracted before; empty: measured, the mean.
    pub shift: Vec<f32>,
    /// Latents in a file.
    pub shard_items: usize,
    /// Share of unusable pictures above which the data set is refused.
    pub max_bad: f64,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            batch: 16,
            flip: false,
            kind: LatentKind::Moments,
            dtype: LatentType::F32,
            scale: Vec::new(),
            shift: Vec::new(),
            shard_items: 4096,
            max_bad: 0.01,
        }
    }
}

/// Encodes all pictures of `data`, in their order, into latent shards in the folder `out`. A folder of the same origin is
/// continued where it stands; unusable pictures are warned of and left out. `None`: interrupted, with what was done saved.
///
/// # Errors
/// If the size does not fit the network, too many pictures are unusable, or the folder holds something else.
pub fn encode(
    autoencoder: &LoadedAutoencoder,
    data: &Dataset,
    transform: &Transform,
    options: &EncodeOptions,
    out: &Path,
    progress: &dyn Progress,
    interrupt: &Interrupt,
) -> Result<Option<LatentManifest>> {
    let manifest = manifest(autoencoder, data, transform, options)?;
    let mut writer = LatentWriter::create(out, manifest, options.shard_items)?;
    if writer.is_finished() {
        return Ok(Some(writer.finish()?));
    }
    let mut encoding = Encoding { autoencoder, data, options, written: writer.written(), position: 0 };
    let indices: Vec<usize> = (0..data.len()).collect();
    let mut bad = 0;
    progress.start("encoding", data.len() as u64, "images");
    for chunk in indices.chunks(options.batch.max(1)) {
        if interrupt.is_set() {
            writer.checkpoint()?;
            progress.finish();
            return Ok(None);
        }
        let pictures = prepare(data, chunk, transform, 1.0, &|_| ())?;
        bad += pictures.bad.len();
        encoding.push(&pictures, &mut writer)?;
        progress.advance(chunk.last().map_or(0, |i| *i as u64 + 1), "");
    }
    progress.finish();
    check_bad(bad, data, options.max_bad)?;
    Ok(Some(writer.finish()?))
}

fn check_bad(bad: usize, data: &Dataset, max_bad: f64) -> Result<()> {
    let allowed = tolerated(data.len(), max_bad);
    if bad <= allowed {
        return Ok(());
    }
    Err(Error::input("data set", format!("at most {allowed} unusable pictures of {}", data.len()), bad))
}

fn manifest(ae: &LoadedAutoencoder, data: &Dataset, transform: &Transform, options: &EncodeOptions) -> Result<LatentManifest> {
    let factor = ae.model.factor();
    if transform.size == 0 || !transform.size.is_multiple_of(factor) {
        return Err(Error::config("size", format!("a multiple of the autoencoder's factor ({factor})"), transform.size));
    }
    for (key, values) in [("scale", &options.scale), ("shift", &options.shift)] {
        if ![0, 1, ae.model.latent_channels()].contains(&values.len()) {
            let expected = format!("one number, or one for each of {} channels", ae.model.latent_channels());
            return Err(Error::config(key, expected, format!("{} numbers", values.len())));
        }
    }
    Ok(LatentManifest {
        autoencoder_sha256: ae.sha256.clone(),
        factor,
        channels: ae.model.latent_channels(),
        height: transform.size / factor,
        width: transform.size / factor,
        kind: options.kind,
        dtype: options.dtype,
        scale: options.scale.clone(),
        shift: options.shift.clone(),
        transform: *transform,
        source: SourceInfo { spec: data.spec().to_string(), fingerprint: data.fingerprint()? },
        flipped: options.flip,
        class_names: data.class_names().to_vec(),
        ..LatentManifest::default()
    })
}

struct Encoding<'a> {
    autoencoder: &'a LoadedAutoencoder,
    data: &'a Dataset,
    options: &'a EncodeOptions,
    /// Latents that a run before this one has written.
    written: usize,
    /// Latents up to here, those of before included.
    position: usize,
}

impl Encoding<'_> {
    /// Encodes usable pictures and their mirror images, but for those that are written already.
    fn push(&mut self, pictures: &Prepared, writer: &mut LatentWriter) -> Result<()> {
        let each = if self.options.flip { 2 } else { 1 };
        let end = self.position + each * pictures.len();
        if pictures.is_empty() || end <= self.written {
            self.position = end;
            return Ok(());
        }
        let x = to_tensor(&pictures.images, pictures.len(), pictures.size, self.autoencoder.store.device())?;
        let straight = self.latents(&x)?;
        let mirrored = if self.options.flip { Some(self.latents(&x.flip(&[3])?)?) } else { None };
        for (i, index) in pictures.indices.iter().enumerate() {
            let caption = self.data.info(*index)?.caption;
            for latents in std::iter::once(&straight).chain(&mirrored) {
                if self.position >= self.written {
                    writer.push(&latents[i], pictures.labels[i], &pictures.keys[i], caption.as_deref())?;
                }
                self.position += 1;
            }
        }
        Ok(())
    }

    fn latents(&self, x: &candle_core::Tensor) -> Result<Vec<Vec<f32>>> {
        let moments = self.autoencoder.model.encode_moments(&x.contiguous()?)?;
        let kept = match self.options.kind {
            LatentKind::Moments => moments,
            LatentKind::Continuous => moments.narrow(1, 0, self.autoencoder.model.latent_channels())?.contiguous()?,
        };
        Ok(kept.flatten_from(1)?.to_vec2()?)
    }
}
