//! Small sets: everything decoded into memory once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;

use crate::dataset::{Dataset, ItemInfo};
use crate::order::key_bits;
use crate::picture::RgbImage;
use crate::transform::Transform;
use crate::{Error, Result};

/// Pictures of one size, end to end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// N x size x size x 3 bytes, row-major RGB.
    pub images: Vec<u8>,
    /// One for each picture.
    pub labels: Vec<Option<u32>>,
    /// One for each picture.
    pub keys: Vec<String>,
    /// Where each picture stands in the data set.
    pub indices: Vec<usize>,
    /// Pictures that could not be used: key and reason.
    pub bad: Vec<(String, String)>,
    /// Side of the pictures.
    pub size: usize,
}

impl Prepared {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Picture `i`: size x size x 3 bytes.
    pub fn image(&self, i: usize) -> &[u8] {
        let bytes = self.size * self.size * 3;
        &self.images[i * bytes..(i + 1) * bytes]
    }
}

/// How many of `total` pictures may be unusable: the share `max_bad`, but one always, and never all.
pub fn tolerated(total: usize, max_bad: f64) -> usize {
    let share = (max_bad.clamp(0.0, 1.0) * total as f64).floor() as usize;
    share.max(1).min(total.saturating_sub(1))
}

/// What is known of an item, and its picture or why there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedItem {
    /// Key, label, caption and more; of an item whose texts cannot be read, the key alone.
    pub info: ItemInfo,
    /// The picture, or the reason.
    pub picture: std::result::Result<RgbImage, String>,
}

impl PreparedItem {
    /// Item `i` of `dataset`, transformed. A random crop lies where the item's key says. Errors if `i` is out of range.
    pub fn read(dataset: &Dataset, i: usize, transform: &Transform) -> Result<Self> {
        let key = dataset.key(i)?;
        let picture = || -> Result<(ItemInfo, RgbImage)> {
            Ok((dataset.info(i)?, transform.apply_drawn(&dataset.load(i)?, key_bits(&key))?))
        };
        Ok(match picture() {
            Ok((info, picture)) => Self { info, picture: Ok(picture) },
            Err(error) => Self { info: ItemInfo { key, ..ItemInfo::default() }, picture: Err(error.reason()) },
        })
    }
}

/// Decodes and transforms the pictures at `indices`, on all cores, in their order. Unusable ones are left out, named in
/// `bad` and warned of. `on_progress` is told how many are done. Errors, with every bad picture found so far, as soon as
/// more than [`tolerated`] are unusable.
pub fn prepare(
    dataset: &Dataset,
    indices: &[usize],
    transform: &Transform,
    max_bad: f64,
    on_progress: &(dyn Fn(u64) + Sync),
) -> Result<Prepared> {
    let bytes = transform.size * transform.size * 3;
    if bytes == 0 {
        return Err(Error::argument("size", "at least 1", transform.size));
    }
    let allowed = tolerated(indices.len(), max_bad);
    let mut images = vec![0u8; indices.len() * bytes];
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let bad = Mutex::new(Vec::<(usize, String)>::new());
    images.par_chunks_exact_mut(bytes).zip(indices).enumerate().for_each(|(at, (place, &i))| {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match dataset.load(i).and_then(|image| transform.apply(&image)) {
            Ok(image) => place.copy_from_slice(&image.pixels),
            Err(error) => {
                let mut bad = bad.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                bad.push((at, error.reason()));
                stop.fetch_or(bad.len() > allowed, Ordering::Relaxed);
            }
        }
        on_progress(done.fetch_add(1, Ordering::Relaxed) + 1);
    });
    let mut bad = bad.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    bad.sort_unstable();
    collect(dataset, indices, images, transform.size, &bad, allowed)
}

/// Pictures that [`probe`] looks at.
const PROBED: usize = 2000;

/// Looks at pictures evenly spread over those at `indices`, before a training that reads them from disk as it goes. Errors,
/// naming them, if more of these are unusable than [`tolerated`].
pub fn probe(dataset: &Dataset, indices: &[usize], transform: &Transform, max_bad: f64) -> Result<()> {
    let step = indices.len().div_ceil(PROBED).max(1);
    let probed: Vec<usize> = indices.iter().step_by(step).copied().collect();
    let bad = |&i: &usize| dataset.load(i).and_then(|image| transform.apply(&image)).err().map(|error| (i, error.reason()));
    let bad: Vec<(usize, String)> = probed.par_iter().filter_map(bad).collect();
    let allowed = tolerated(probed.len(), max_bad);
    if bad.len() <= allowed {
        return Ok(());
    }
    let bad = bad.into_iter().map(|(i, why)| Ok((dataset.key(i)?, why))).collect::<Result<Vec<_>>>()?;
    Err(Error::TooManyBad { bad, total: probed.len(), allowed })
}

fn collect(
    dataset: &Dataset,
    indices: &[usize],
    mut images: Vec<u8>,
    size: usize,
    bad: &[(usize, String)],
    allowed: usize,
) -> Result<Prepared> {
    let named = bad.iter().map(|(at, why)| Ok((dataset.key(indices[*at])?, why.clone()))).collect::<Result<Vec<_>>>()?;
    for (key, why) in &named {
        tracing::warn!(%key, %why, "picture left out");
    }
    if bad.len() > allowed {
        return Err(Error::TooManyBad { bad: named, total: indices.len(), allowed });
    }
    let bytes = size * size * 3;
    let good: Vec<usize> = (0..indices.len()).filter(|at| bad.binary_search_by_key(at, |(b, _)| *b).is_err()).collect();
    for (to, &from) in good.iter().enumerate() {
        images.copy_within(from * bytes..(from + 1) * bytes, to * bytes);
    }
    images.truncate(good.len() * bytes);
    let indices: Vec<usize> = good.iter().map(|&at| indices[at]).collect();
    let labels = indices.iter().map(|&i| dataset.label(i)).collect::<Result<_>>()?;
    let keys = indices.iter().map(|&i| dataset.key(i)).collect::<Result<_>>()?;
    Ok(Prepared { images, labels, keys, indices, bad: named, size })
}
