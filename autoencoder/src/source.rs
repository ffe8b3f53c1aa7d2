//! Training batches by position: from memory where the pictures fit, else from disk.

use strata_datasets::{Crop, Dataset, ImageLoader, LoaderOptions, Order, Prepared, prepare, probe};
use strata_nn::random::Key;
use strata_training::Progress;

use crate::{AutoencoderTraining, Error, Result};

/// Pictures of a training set up to this size are decoded once and kept.
const MEMORY_BYTES: usize = 1 << 30;

/// Square pictures in a seeded order without end; what is at a position depends on nothing else.
pub(crate) enum Source {
    Memory { pictures: Prepared, order: Order, flips: Option<Key> },
    Disk(Box<ImageLoader>),
}

impl Source {
    /// `start`: position of the first picture, for a run that goes on.
    pub(crate) fn new(
        config: &AutoencoderTraining,
        data: &Dataset,
        indices: &[usize],
        start: u64,
        progress: &dyn Progress,
    ) -> Result<Self> {
        if indices.is_empty() {
            return Err(Error::input("data set", "pictures to train on", "none"));
        }
        let transform = config.transform();
        // A picture that is cropped anew each time is decoded anew each time.
        if indices.len() * transform.size * transform.size * 3 > MEMORY_BYTES || transform.crop == Crop::Random {
            probe(data, indices, &transform, config.max_bad)?;
            let options = LoaderOptions {
                batch: config.batch,
                seed: config.seed,
                flip: config.flip,
                start,
                max_bad: config.max_bad,
                ..LoaderOptions::default()
            };
            return Ok(Self::Disk(Box::new(ImageLoader::new(data, indices.to_vec(), transform, options)?)));
        }
        progress.start("reading pictures", indices.len() as u64, "images");
        let pictures = prepare(data, indices, &transform, config.max_bad, &|done| progress.advance(done, ""))?;
        progress.finish();
        let order = Order::new(pictures.len(), config.seed);
        Ok(Self::Memory { pictures, order, flips: config.flip.then(|| Key::new(config.seed, "flip")) })
    }

    /// The `batch` pictures from `position` on, packed 8-bit RGB.
    pub(crate) fn batch(&mut self, position: u64, batch: usize) -> Result<Vec<u8>> {
        match self {
            Self::Disk(loader) => Ok(loader.next()?.pixels),
            Self::Memory { pictures, order, flips } => {
                let mut pixels = Vec::with_capacity(batch * pictures.size * pictures.size * 3);
                for position in position..position + batch as u64 {
                    let picture = pictures.image(order.at(position));
                    let mirrored = flips.is_some_and(|key| key.index(position).uniform(1)[0] < 0.5);
                    if mirrored {
                        extend_mirrored(&mut pixels, picture, pictures.size);
                    } else {
                        pixels.extend_from_slice(picture);
                    }
                }
                Ok(pixels)
            }
        }
    }
}

fn extend_mirrored(pixels: &mut Vec<u8>, picture: &[u8], size: usize) {
    for row in picture.chunks_exact(3 * size) {
        row.rchunks_exact(3).for_each(|pixel| pixels.extend_from_slice(pixel));
    }
}
