//! Training pictures by position: from memory where they fit, else from disk.

use crate::dataset::Dataset;
use crate::loader::{ImageBatch, ImageLoader, LoaderOptions, is_mirrored};
use crate::order::Order;
use crate::prepare::{Prepared, prepare, probe};
use crate::transform::{Crop, Transform};
use crate::{Error, Result};

/// Pictures up to this size are decoded once and kept.
const MEMORY_BYTES: usize = 1 << 30;

/// Square pictures in a seeded order without end. What is at a position is a function of the data set, the
/// options and the position alone.
pub struct PictureStream(Place);

enum Place {
    Memory { pictures: Box<Prepared>, order: Order, options: LoaderOptions },
    Disk { loader: Box<ImageLoader>, batch: usize },
}

impl PictureStream {
    /// The pictures of `data` at `indices`. `on_progress` is told how many are decoded, where they are decoded ahead.
    /// `options.start` is the position of the first picture, for a run that goes on; of `options.ranks` processes each takes every
    /// so-manyth picture.
    ///
    /// Errors if there are none, or more of them than tolerated are unusable.
    pub fn new(
        data: &Dataset,
        indices: &[usize],
        transform: Transform,
        options: LoaderOptions,
        on_progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Self> {
        if indices.is_empty() {
            return Err(Error::argument("data set", "pictures to train on", "none"));
        }
        // A picture that is cropped anew each time is decoded anew each time.
        if indices.len() * transform.size * transform.size * 3 > MEMORY_BYTES || transform.crop == Crop::Random {
            probe(data, indices, &transform, options.max_bad)?;
            let batch = options.batch;
            let loader = Box::new(ImageLoader::new(data, indices.to_vec(), transform, options)?);
            return Ok(Self(Place::Disk { loader, batch }));
        }
        let pictures = prepare(data, indices, &transform, options.max_bad, on_progress)?;
        let order = Order::new(pictures.len(), options.seed);
        Ok(Self(Place::Memory { pictures: Box::new(pictures), order, options }))
    }

    /// The `n` pictures of this process from `position`, which is counted over all processes, on. From disk, each call goes on where the last one ended, with batches of the options'
    /// size. Errors if that is not so, or once more pictures than tolerated were unusable.
    pub fn batch(&mut self, position: u64, n: usize) -> Result<ImageBatch> {
        match &mut self.0 {
            Place::Disk { batch, .. } if *batch != n => Err(Error::argument("batch", format!("{batch} pictures"), n)),
            Place::Disk { loader, .. } => {
                let batch = loader.next()?;
                match batch.position == position {
                    true => Ok(batch),
                    false => Err(Error::argument("position", batch.position.to_string(), position)),
                }
            }
            Place::Memory { pictures, order, options } => {
                let mut out = ImageBatch { pixels: Vec::new(), labels: Vec::new(), indices: Vec::new(), position };
                for at in (0..n).map(|k| position + (k * options.ranks + options.rank) as u64) {
                    let i = order.at(at);
                    let mirrored = options.flip && is_mirrored(options.seed, at);
                    extend(&mut out.pixels, pictures.image(i), pictures.size, mirrored);
                    out.labels.push(pictures.labels[i]);
                    out.indices.push(pictures.indices[i]);
                }
                Ok(out)
            }
        }
    }
}

fn extend(pixels: &mut Vec<u8>, picture: &[u8], size: usize, mirrored: bool) {
    if !mirrored {
        return pixels.extend_from_slice(picture);
    }
    for row in picture.chunks_exact(3 * size) {
        row.rchunks_exact(3).for_each(|pixel| pixels.extend_from_slice(pixel));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DatasetOptions;

    #[test]
    fn memory_and_disk_give_the_same_pictures() -> Result<()> {
        let data = Dataset::open("emoji", &DatasetOptions::default())?;
        let (indices, transform): (Vec<usize>, _) = ((0..9).collect(), Transform::new(8));
        for (rank, ranks) in [(0, 1), (1, 2)] {
            let options = LoaderOptions { batch: 5, seed: 3, flip: true, start: 10, rank, ranks, ..LoaderOptions::default() };
            let mut memory = PictureStream::new(&data, &indices, transform, options.clone(), &|_| ())?;
            let loader = Box::new(ImageLoader::new(&data, indices.clone(), transform, options)?);
            let mut disk = PictureStream(Place::Disk { loader, batch: 5 });
            for position in (0..3).map(|i| 10 + 5 * i * ranks as u64) {
                assert_eq!(memory.batch(position, 5)?, disk.batch(position, 5)?);
            }
            assert!(disk.batch(99, 5).is_err() && disk.batch(30, 4).is_err());
        }
        Ok(())
    }
}
