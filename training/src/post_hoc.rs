//! Averages of any width after a training (Karras et al. 2024, Section 3): a run keeps power-function averages of a few widths, stores
//! them now and then, and later adds the stored ones up to the one that is asked for.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use strata_nn::{params::ParamStore, weights};

use crate::{
    Ema, EmaSchedule, Error, Result,
    ema::EmaCounters,
    files::create_folder,
    power_ema::{Profile, reconstruct},
};

/// The folder of a run directory that stored averages lie in.
pub const FOLDER: &str = "averages";
/// The key of a stored average's metadata that says what it is.
const KEY: &str = "power_ema";
/// Where the averages' tensors begin in a checkpoint's optimizer file.
const PREFIX: &str = "power_ema.";

/// Which averages a run keeps for later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostHocSettings {
    /// Widths relative to the length of the training; EDM2 keeps 0.05 and 0.1. Empty: none is kept.
    pub widths: Vec<f64>,
    /// They are stored every so many images, and at the end.
    pub every_images: u64,
}

impl Default for PostHocSettings {
    fn default() -> Self {
        Self { widths: Vec::new(), every_images: 100_000 }
    }
}

impl PostHocSettings {
    /// # Errors
    /// The first value out of its range.
    pub fn validate(&self) -> Result<()> {
        if self.every_images == 0 {
            return Err(Error::Config("post-hoc averages: `every_images`: expected 1 or more, got 0".into()));
        }
        self.widths.iter().try_for_each(|&width| EmaSchedule::Power { relative_width: width }.validate())
    }
}

/// What a stored average is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    seen_images: u64,
    width: f64,
}

/// The averages of a run.
#[derive(Debug)]
pub struct Tracks {
    tracks: Vec<(f64, Ema)>,
}

impl Tracks {
    /// Averages that begin as copies of the parameters.
    ///
    /// # Errors
    /// A width out of its range.
    pub fn new(store: &ParamStore, settings: &PostHocSettings) -> Result<Self> {
        let track = |&width: &f64| Ok((width, Ema::new(store, EmaSchedule::Power { relative_width: width })?));
        Ok(Self { tracks: settings.widths.iter().map(track).collect::<Result<_>>()? })
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// Updates all of them after a step of `batch` images.
    ///
    /// # Errors
    /// Those of candle.
    pub fn update(&mut self, batch: u64) -> Result<()> {
        self.tracks.iter_mut().try_for_each(|(_, ema)| ema.update(batch).map(|_| ()))
    }

    /// What a checkpoint keeps of them, beside the optimizer's state.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let of = |(i, (_, ema)): (usize, &(f64, Ema))| {
            ema.tensors().into_iter().map(move |(name, t)| (format!("{PREFIX}{i}.{name}"), t))
        };
        self.tracks.iter().enumerate().flat_map(of).collect()
    }

    /// Takes theirs out of the tensors of a checkpoint's optimizer file.
    ///
    /// # Errors
    /// Missing, unexpected and mis-shaped tensors.
    pub fn load(&mut self, tensors: &mut HashMap<String, Tensor>, counters: EmaCounters) -> Result<()> {
        for (i, (_, ema)) in self.tracks.iter_mut().enumerate() {
            let prefix = format!("{PREFIX}{i}.");
            let names: Vec<String> = tensors.keys().filter(|name| name.starts_with(&prefix)).cloned().collect();
            let own = names.into_iter().filter_map(|name| Some((name[prefix.len()..].to_string(), tensors.remove(&name)?)));
            ema.load(&own.collect(), counters)?;
        }
        Ok(())
    }

    /// Stores all of them in the run directory `run` as they are at `seen_images`; `metadata` is that of the model's weight files.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn store(&self, run: &Path, seen_images: u64, metadata: &BTreeMap<String, String>) -> Result<()> {
        let folder = run.join(FOLDER);
        for (width, ema) in &self.tracks {
            create_folder(&folder)?;
            let stored = Stored { seen_images, width: *width };
            let path = folder.join(format!("{seen_images:012}-{width}.safetensors"));
            let mut metadata = metadata.clone();
            metadata.insert(KEY.to_string(), serde_json::to_string(&stored).map_err(|e| Error::file(&path, e))?);
            weights::save(&path, &ema.tensors(), &metadata)?;
        }
        Ok(())
    }
}

/// An average of another width or time, from the stored ones.
#[derive(Debug)]
pub struct PostHoc {
    /// The parameters' averages, sorted by name.
    pub tensors: Vec<(String, Tensor)>,
    /// The metadata of the model's weight files.
    pub metadata: BTreeMap<String, String>,
    /// Images seen at its end.
    pub seen_images: u64,
    /// The files that it was made of, with the share of each.
    pub shares: Vec<(PathBuf, f64)>,
}

/// The average of relative width `width` at `seen_images`, by default at the newest stored one, from the files in the run directory
/// `run`.
///
/// # Errors
/// No stored averages up to there; a damaged file; a width out of its range.
pub fn average(run: &Path, width: f64, seen_images: Option<u64>) -> Result<PostHoc> {
    let (used, seen_images) = stored(run, seen_images)?;
    let profile = |s: &Stored| Profile { time: s.seen_images as f64, std: s.width };
    let target = Profile { time: seen_images as f64, std: width };
    let profiles: Vec<Profile> = used.iter().map(|(_, s)| profile(s)).collect();
    let shares: Vec<f64> = reconstruct(&profiles, &[target])?.coefficients.into_iter().map(|row| row[0]).collect();
    let mut sums: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut metadata = BTreeMap::new();
    for ((path, _), share) in used.iter().zip(&shares) {
        let file = weights::load(path, &Device::Cpu)?;
        for (name, t) in file.tensors {
            let part = t.to_dtype(DType::F64)?.affine(*share, 0.0)?;
            let sum = sums.remove(&name).map_or(Ok(part.clone()), |sum| sum + &part)?;
            sums.insert(name, sum);
        }
        metadata = file.metadata;
    }
    metadata.remove(KEY);
    let tensors = sums.into_iter().map(|(name, t)| Ok((name, t.to_dtype(DType::F32)?))).collect::<Result<_>>()?;
    let shares = used.into_iter().map(|(path, _)| path).zip(shares).collect();
    Ok(PostHoc { tensors, metadata, seen_images, shares })
}

/// The files that an average at `seen_images`, by default at the newest of them, is made of.
///
/// # Errors
/// As [`average`].
pub fn files(run: &Path, seen_images: Option<u64>) -> Result<Vec<PathBuf>> {
    Ok(stored(run, seen_images)?.0.into_iter().map(|(path, _)| path).collect())
}

/// The averages that were stored up to there, and where that is.
fn stored(run: &Path, seen_images: Option<u64>) -> Result<(Vec<(PathBuf, Stored)>, u64)> {
    let folder = run.join(FOLDER);
    let all = list(&folder)?;
    let newest = all.iter().map(|(_, s)| s.seen_images).max().unwrap_or(0);
    let seen_images = seen_images.unwrap_or(newest);
    let used: Vec<_> = all.into_iter().filter(|(_, s)| s.seen_images <= seen_images && s.seen_images > 0).collect();
    if used.is_empty() {
        let message = "no average was stored up to there; set `post_hoc.widths`, for example to [0.05, 0.1], in training";
        return Err(Error::file(folder, message));
    }
    Ok((used, seen_images))
}

/// The stored averages, oldest first.
fn list(folder: &Path) -> Result<Vec<(PathBuf, Stored)>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    paths.sort();
    let stored = |path: PathBuf| {
        let checkpoint = strata_nn::checkpoint::Checkpoint::open(&path)?;
        let text =
            checkpoint.metadata().get(&format!("__metadata__.{KEY}")).and_then(|v| v.as_str()).unwrap_or_default().to_string();
        let stored = serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("is no stored average: {e}")))?;
        Ok((path, stored))
    };
    paths.into_iter().map(stored).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use strata_nn::params::Init;

    use super::*;

    /// A parameter that counts the images: the average of a width is then known.
    #[test]
    fn an_average_of_another_width_is_found_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let store = ParamStore::new(0, &Device::Cpu);
        let p = store.root().param("p", 1, Init::ZEROS).unwrap();
        let settings = PostHocSettings { widths: vec![0.05, 0.1], every_images: 100 };
        let mut tracks = Tracks::new(&store, &settings).unwrap();
        let mut direct = Ema::new(&store, EmaSchedule::Power { relative_width: 0.07 }).unwrap();
        for step in 1..=200u64 {
            p.var().set(&Tensor::new(&[(step as f32 * 0.05).sin()], &Device::Cpu).unwrap()).unwrap();
            tracks.update(10).unwrap();
            direct.update(10).unwrap();
            if step % 10 == 0 {
                tracks.store(dir.path(), step * 10, &BTreeMap::new()).unwrap();
            }
        }
        let found = average(dir.path(), 0.07, None).unwrap();
        assert_eq!((found.seen_images, found.shares.len()), (2000, 40));
        let value = |tensors: &[(String, Tensor)]| tensors[0].1.to_vec1::<f32>().unwrap()[0];
        assert!((value(&found.tensors) - value(&direct.tensors())).abs() < 2e-3, "{found:?} {direct:?}");
        let exact = average(dir.path(), 0.1, Some(1000)).unwrap();
        assert!(exact.shares.iter().all(|(path, share)| {
            let own = path.ends_with("000000001000-0.1.safetensors");
            (share - f64::from(u8::from(own))).abs() < 1e-6
        }));
        assert!(average(dir.path(), 0.07, Some(5)).unwrap_err().to_string().contains("post_hoc.widths"));
    }

    #[test]
    fn tracks_go_on_from_a_checkpoint() {
        let store = ParamStore::new(0, &Device::Cpu);
        store.root().param("p", 2, Init::ONES).unwrap();
        let settings = PostHocSettings { widths: vec![0.05, 0.1], every_images: 100 };
        let mut tracks = Tracks::new(&store, &settings).unwrap();
        let mut tensors: HashMap<String, Tensor> = tracks.tensors().into_iter().collect();
        tensors.insert("p.exp_avg".into(), Tensor::new(&[0f32], &Device::Cpu).unwrap());
        tracks.load(&mut tensors, EmaCounters { updates: 1, seen_images: 10 }).unwrap();
        assert_eq!(tensors.len(), 1, "the optimizer's own are left");
        assert!(PostHocSettings { widths: vec![0.5], every_images: 1 }.validate().is_err());
    }
}
