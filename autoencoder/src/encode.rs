//! From a data set to latent shards.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use strata_datasets::{
    Ahead, Dataset, Finished, LatentItem, LatentKind, LatentManifest, LatentType, LatentWriter, PreparedItem, ShardWriter,
    SourceInfo, Transform, tolerated,
};
use strata_training::{Interrupt, Progress, Ranks};

use crate::{Error, Kind, LoadedAutoencoder, Result, kl::check_size, pictures::to_tensor};

/// How latents are written.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeOptions {
    /// Pictures at a time.
    pub batch: usize,
    /// Side of the tiles that large images are worked on by, in pixels; absent: whole.
    pub tile: Option<usize>,
    /// Each picture is followed by its mirror image.
    pub flip: bool,
    /// Moments, of which training draws anew each time, or the mode alone. An autoencoder without a posterior has but one latent,
    /// which a VQ model gives before quantization.
    pub kind: LatentKind,
    /// How numbers are stored.
    pub dtype: LatentType,
    /// Factor that normalises latents, for each channel or one for all; empty: measured, so that each channel has unit variance.
    pub scale: Vec<f32>,
    /// What is subtracted before; empty: measured, the mean.
    pub shift: Vec<f32>,
    /// Pictures to a file.
    pub shard_pictures: usize,
    /// Share of unusable pictures above which the data set is refused.
    pub max_bad: f64,
    /// Threads that read and decode pictures while the network works.
    pub workers: usize,
    /// Which processes share the work: each writes shards of its own.
    pub ranks: Ranks,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            batch: 16,
            tile: None,
            flip: false,
            kind: LatentKind::Moments,
            dtype: LatentType::F32,
            scale: Vec::new(),
            shift: Vec::new(),
            shard_pictures: 4096,
            max_bad: 0.01,
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ranks: Ranks::default(),
        }
    }
}

/// How an encoding ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// The folder is complete.
    Complete(Box<LatentManifest>),
    /// This process's part is done; so many shards are missing, which others write.
    Missing(usize),
    /// It was asked to stop; what was done is saved.
    Interrupted,
}

/// What an encoding did.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodeReport {
    /// How it ended.
    pub outcome: Encoded,
    /// From the first picture to the last.
    pub elapsed: Duration,
    /// Of that, how long the network waited for pictures.
    pub waited: Duration,
}

impl EncodeReport {
    /// The manifest, if the folder is complete.
    pub fn manifest(self) -> Option<LatentManifest> {
        match self.outcome {
            Encoded::Complete(manifest) => Some(*manifest),
            Encoded::Missing(_) | Encoded::Interrupted => None,
        }
    }
}

/// Time between saves of a shard that is not whole yet: what a kill costs at most.
const BETWEEN_SAVES: Duration = Duration::from_secs(20);
/// Batches that are decoded ahead of the network.
const BATCHES_AHEAD: usize = 4;

/// Encodes the pictures of `data` into latent shards in the folder `out`: all of them, or this rank's share. A folder of the
/// same origin is continued where it stands; unusable pictures are warned of and left out.
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
) -> Result<EncodeReport> {
    let writer = LatentWriter::create(out, manifest(autoencoder, data, transform, options)?)?;
    let mut encoding = Encoding {
        autoencoder,
        data,
        transform,
        options,
        allowed: tolerated(data.len(), options.max_bad),
        bad: writer.bad()?,
        waited: Duration::ZERO,
    };
    let began = Instant::now();
    let done = encoding.shards(&writer, progress, interrupt);
    progress.finish();
    let outcome = if done? { writer.finish(encoding.allowed)?.into() } else { Encoded::Interrupted };
    Ok(EncodeReport { outcome, elapsed: began.elapsed(), waited: encoding.waited })
}

impl From<Finished> for Encoded {
    fn from(finished: Finished) -> Self {
        match finished {
            Finished::Complete(manifest) => Self::Complete(manifest),
            Finished::Missing(shards) => Self::Missing(shards),
        }
    }
}

fn manifest(ae: &LoadedAutoencoder, data: &Dataset, transform: &Transform, options: &EncodeOptions) -> Result<LatentManifest> {
    let (factor, channels) = (ae.config.factor(), ae.config.latent_channels());
    check_size(transform.size, factor)?;
    ae.check_rgb()?;
    for (key, values) in [("scale", &options.scale), ("shift", &options.shift)] {
        if ![0, 1, channels].contains(&values.len()) {
            let expected = format!("one number, or one for each of {channels} channels");
            return Err(Error::config(key, expected, format!("{} numbers", values.len())));
        }
    }
    let (spec, fingerprint) = (data.spec().to_string(), data.fingerprint()?);
    Ok(LatentManifest {
        autoencoder_sha256: ae.sha256.clone(),
        factor,
        channels,
        height: transform.size / factor,
        width: transform.size / factor,
        kind: kind(ae, options),
        dtype: options.dtype,
        scale: options.scale.clone(),
        shift: options.shift.clone(),
        transform: *transform,
        source: SourceInfo { spec, fingerprint, options: data.options().clone() },
        flipped: options.flip,
        class_names: data.class_names().to_vec(),
        attribute_names: data.summary().attribute_names.clone(),
        pictures: data.len(),
        pictures_per_shard: options.shard_pictures,
        ..LatentManifest::default()
    })
}

/// What is stored.
fn kind(ae: &LoadedAutoencoder, options: &EncodeOptions) -> LatentKind {
    if ae.config.kind() == Kind::Kl { options.kind } else { LatentKind::Continuous }
}

struct Encoding<'a> {
    autoencoder: &'a LoadedAutoencoder,
    data: &'a Dataset,
    transform: &'a Transform,
    options: &'a EncodeOptions,
    /// Unusable pictures that are tolerated.
    allowed: usize,
    /// Those met so far: key and reason.
    bad: Vec<(String, String)>,
    waited: Duration,
}

impl Encoding<'_> {
    /// Writes the shards of this rank that are missing; answers whether it came to the end.
    fn shards(&mut self, writer: &LatentWriter, progress: &dyn Progress, interrupt: &Interrupt) -> Result<bool> {
        let Ranks { rank, count, .. } = self.options.ranks;
        let shards = writer.missing(rank, count)?;
        self.bad.extend(shards.iter().flat_map(ShardWriter::left_out).cloned());
        let total: usize = (rank..writer.shards()).step_by(count).map(|shard| writer.pictures_of(shard).len()).sum();
        let mut done = total - shards.iter().map(|shard| shard.remaining().len()).sum::<usize>();
        progress.start("encoding", total as u64, "images");
        let mut pictures = self.decode_ahead(&shards);
        let mut saved = Instant::now();
        for mut shard in shards {
            while !shard.remaining().is_empty() {
                if interrupt.is_set() {
                    shard.checkpoint()?;
                    return Ok(false);
                }
                let Some(batch) = pictures.next() else { break };
                self.waited = pictures.waited();
                done += self.push(&batch?, &mut shard)?;
                progress.advance(done as u64, "");
                if saved.elapsed() > BETWEEN_SAVES {
                    shard.checkpoint()?;
                    saved = Instant::now();
                }
            }
            shard.finish()?;
        }
        Ok(true)
    }

    /// The pictures that are still to come, in batches that begin where their shard begins: what a batch holds does not
    /// depend on where a run was stopped.
    fn decode_ahead(&self, shards: &[ShardWriter<'_>]) -> Ahead<Result<Vec<PreparedItem>>> {
        let each = self.options.batch.max(1);
        let batches = |shard: &ShardWriter<'_>| {
            let Range { start, end } = shard.remaining();
            (start..end).step_by(each).map(move |first| first..(first + each).min(end))
        };
        let batches: Vec<Range<usize>> = shards.iter().flat_map(batches).collect();
        let (data, transform) = (self.data.clone(), *self.transform);
        let room = BATCHES_AHEAD.max(2 * self.options.workers);
        Ahead::new(self.options.workers, room, batches.len() as u64, move |number| {
            let read = |i| Ok(PreparedItem::read(&data, i, &transform)?);
            batches[number as usize].clone().map(read).collect()
        })
    }

    /// Encodes usable pictures and their mirror images; answers how many pictures that were.
    fn push(&mut self, batch: &[PreparedItem], shard: &mut ShardWriter<'_>) -> Result<usize> {
        let usable: Vec<_> = batch.iter().filter_map(|item| Some((&item.info, item.picture.as_ref().ok()?))).collect();
        for item in batch {
            if let Err(why) = &item.picture {
                self.leave_out(&item.info.key, why, shard)?;
            }
        }
        if !usable.is_empty() {
            let pixels: Vec<u8> = usable.iter().flat_map(|(_, picture)| &picture.pixels).copied().collect();
            let x = to_tensor(&pixels, usable.len(), self.transform.size, self.autoencoder.store.device())?;
            let straight = self.latents(&x)?;
            let mirrored = if self.options.flip { Some(self.latents(&x.flip(&[3])?)?) } else { None };
            for (i, (info, _)) in usable.iter().enumerate() {
                for latents in std::iter::once(&straight).chain(&mirrored) {
                    let (key, caption) = (info.key.as_str(), info.caption.as_deref());
                    shard.push(LatentItem {
                        moments: &latents[i],
                        label: info.label,
                        key,
                        caption,
                        attributes: &info.attributes,
                    })?;
                }
            }
        }
        shard.advance(batch.len());
        Ok(batch.len())
    }

    /// Errors, naming all so far, once they are more than tolerated.
    fn leave_out(&mut self, key: &str, why: &str, shard: &mut ShardWriter<'_>) -> Result<()> {
        shard.leave_out(key, why);
        self.bad.push((key.to_string(), why.to_string()));
        if self.bad.len() <= self.allowed {
            return Ok(());
        }
        let bad = std::mem::take(&mut self.bad);
        Err(strata_datasets::Error::TooManyBad { bad, total: self.data.len(), allowed: self.allowed }.into())
    }

    fn latents(&self, x: &Tensor) -> Result<Vec<Vec<f32>>> {
        let (x, model) = (x.contiguous()?, &self.autoencoder.model);
        let stored = match self.options.tile {
            Some(side) => model.encode_stored_tiled(&x, side)?,
            None => model.encode_stored(&x)?,
        };
        // The mode is what comes first.
        let channels = match kind(self.autoencoder, self.options) {
            LatentKind::Moments => stored.dim(1)?,
            LatentKind::Continuous => self.autoencoder.config.latent_channels(),
        };
        let kept = stored.narrow(1, 0, channels)?.contiguous()?;
        Ok(kept.flatten_from(1)?.to_vec2()?)
    }
}
