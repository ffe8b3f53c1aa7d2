//! A few generated pictures, and trainings on them.

#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use strata_autoencoder::{AutoencoderTraining, EncodeReport, Encoded, TrainSummary, pictures, train, weight_file};
use strata_datasets::{Dataset, DatasetOptions, LatentManifest, RgbImage};
use strata_nn::{
    random::{Key, uniform_f32},
    weights,
};
use strata_training::{Interrupt, Progress, RunDir};

/// Flat pictures with one bright square each.
pub fn pictures_in(dir: &Path, count: usize) -> Dataset {
    for i in 0..count {
        let mut rng = Key::new(5, "pictures").index(i as u64).generator();
        let (x, y) = ((uniform_f32(&mut rng) * 10.0) as usize, (uniform_f32(&mut rng) * 10.0) as usize);
        let inside = |p: usize| (x..x + 6).contains(&(p % 16)) && (y..y + 6).contains(&(p / 16));
        let pixels = (0..256).flat_map(|p| if inside(p) { [250, 30, (9 * i % 256) as u8] } else { [255; 3] }).collect();
        pictures::write_png(&dir.join(format!("{i:03}.png")), &RgbImage { width: 16, height: 16, pixels }).unwrap();
    }
    Dataset::open(dir.to_str().unwrap(), &DatasetOptions::default()).unwrap()
}

pub fn train_in(
    dir: &Path,
    config: &AutoencoderTraining,
    data: &Dataset,
    progress: &dyn Progress,
    stop: &Interrupt,
) -> TrainSummary {
    let table = toml::Table::try_from(config).unwrap();
    let mut run = RunDir::open_changing(dir, "autoencoder", &table, AutoencoderTraining::FREE_KEYS).unwrap();
    train(config, data, &mut run, &Device::Cpu, progress, stop).unwrap()
}

/// Stops the training when it has seen some images.
pub struct StopAt(pub u64, pub Interrupt);

impl Progress for StopAt {
    fn start(&self, _: &str, _: u64, _: &str) {}
    fn advance(&self, done: u64, message: &str) {
        if message.starts_with("loss") && done >= self.0 {
            self.1.trigger();
        }
    }
    fn finish(&self) {}
}

pub fn files(run: &Path) -> HashMap<&'static str, HashMap<String, Tensor>> {
    let folder = weight_file(run).unwrap().parent().unwrap().to_path_buf();
    let read = |name: &str| weights::load(&folder.join(name), &Device::Cpu).unwrap().tensors;
    ["model.safetensors", "ema.safetensors", "optimizer.safetensors"].map(|name| (name, read(name))).into()
}

pub fn tempdir_in(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

pub fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Every number of two sets of files is the same.
pub fn assert_same_bits(a: &Path, b: &Path) {
    let (a, b) = (files(a), files(b));
    for (file, tensors) in &a {
        assert_eq!(tensors.len(), b[file].len());
        for (name, t) in tensors {
            let bits = |t: &Tensor| t.flatten_all().unwrap().to_dtype(candle_core::DType::F64).unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(bits(t), bits(&b[file][name]), "{file}: {name}");
        }
    }
}

/// The manifest of an encoding that came to its end.
pub fn complete(report: EncodeReport) -> LatentManifest {
    match report.outcome {
        Encoded::Complete(manifest) => *manifest,
        other => panic!("not complete: {other:?}"),
    }
}
