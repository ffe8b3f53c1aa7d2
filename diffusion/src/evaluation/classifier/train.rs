//! Trains the classifier on the labels of a data set.

use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Device, Tensor};
use strata_datasets::{Dataset, LoaderOptions, PictureStream, Transform, prepare, split};
use strata_nn::{backward, params::ParamStore, weights};
use strata_training::{AdamWConfig, Interrupt, Optimizer, Progress, StepOptions};

use super::{Classifier, ClassifierConfig, FORMAT, to_tensor};
use crate::{Error, Result};

/// How a classifier is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtractorTraining {
    /// Side of the pictures in pixels: 8, 16, 32, ...
    pub size: usize,
    /// Length of the training in pictures seen.
    pub images: u64,
    /// Pictures a step.
    pub batch: usize,
    /// Learning rate at the beginning; it falls to 0 in a straight line.
    pub lr: f64,
    /// Share of the set that is measured on and never trained on.
    pub held_out: f64,
    /// Seed of the weights and of the order.
    pub seed: u64,
}

impl Default for ExtractorTraining {
    /// A minute on two cores.
    fn default() -> Self {
        Self { size: 32, images: 60_000, batch: 64, lr: 2e-3, held_out: 0.05, seed: 0 }
    }
}

/// What a training came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Share of the held-out pictures that it classifies rightly.
    pub accuracy: f64,
    /// How many those are.
    pub held_out: usize,
    /// Pictures seen.
    pub seen_images: u64,
    /// Number of classes.
    pub classes: usize,
}

/// Trains on `data` and writes the weights to `out`.
///
/// # Errors
/// If pictures have no labels, there are too few, or settings cannot be used; if it is interrupted, and nothing is written then.
pub fn train(
    config: &ExtractorTraining,
    data: &Dataset,
    out: &Path,
    device: &Device,
    (progress, interrupt): (&dyn Progress, &Interrupt),
) -> Result<Trained> {
    let network = ClassifierConfig { size: config.size, classes: classes(data)? };
    network.validate()?;
    if config.batch == 0 || config.images == 0 || !(config.held_out > 0.0 && config.held_out < 1.0) {
        return Err(Error::Config("`batch` and `images` must be above 0, `held_out` between 0 and 1".into()));
    }
    let parts = split(data, config.held_out);
    let store = ParamStore::new(config.seed, device);
    let model = Classifier::new(&network, &store.root())?;
    let mut optimizer = Optimizer::new(store.trainable(), AdamWConfig { lr: config.lr, ..AdamWConfig::default() })?;
    let loading = LoaderOptions { batch: config.batch, seed: config.seed, ..LoaderOptions::default() };
    let transform = Transform::new(config.size);
    let mut pictures = PictureStream::new(data, &parts.train, transform, loading, &|_| ())?;
    let mut seen = 0;
    progress.start("training the extractor", config.images, "images");
    while seen < config.images {
        if interrupt.is_set() {
            return Err(Error::Interrupted);
        }
        let batch = pictures.batch(seen, config.batch)?;
        let labels: Vec<u32> = batch.labels.iter().map(|l| l.unwrap_or(0)).collect();
        let (_, logits) = model.forward(&to_tensor(&batch.pixels, labels.len(), config.size, device)?)?;
        let loss = cross_entropy(&logits, &labels)?;
        let options = StepOptions { lr_multiplier: 1.0 - seen as f64 / config.images as f64, max_grad_norm: Some(1.0) };
        optimizer.step(&backward(&loss)?, options)?;
        seen += config.batch as u64;
        let message =
            if optimizer.steps().is_multiple_of(20) { format!("loss {:.3}", loss.to_scalar::<f32>()?) } else { String::new() };
        progress.advance(seen.min(config.images), &message);
    }
    progress.finish();
    store.freeze();
    let accuracy = accuracy(&model, data, &parts.held_out, transform, device)?;
    let trained = Trained { accuracy, held_out: parts.held_out.len(), seen_images: seen, classes: network.classes };
    let metadata = BTreeMap::from([
        ("format".to_string(), FORMAT.to_string()),
        ("config".to_string(), serde_json::to_string(&network).map_err(|e| Error::Config(e.to_string()))?),
        ("data_fingerprint".to_string(), data.fingerprint()?),
        ("accuracy".to_string(), format!("{accuracy:.4}")),
    ]);
    weights::save(out, &store.tensors(), &metadata)?;
    Ok(trained)
}

/// Number of classes.
///
/// # Errors
/// If a picture has no label, or all have the same.
fn classes(data: &Dataset) -> Result<usize> {
    let labels = (0..data.len()).map(|i| Ok(data.label(i)?)).collect::<Result<Vec<_>>>()?;
    let Some(labels) = labels.into_iter().collect::<Option<Vec<u32>>>() else {
        let message = format!("{}: an extractor is trained on labels, and some pictures have none", data.spec());
        return Err(Error::Config(message));
    };
    let classes = labels.iter().max().map_or(0, |l| *l as usize + 1);
    match labels.iter().any(|l| *l != labels[0]) {
        true => Ok(classes),
        false => Err(Error::Config(format!("{}: an extractor needs at least two classes, all pictures are of one", data.spec()))),
    }
}

/// Mean over the batch of `log sum exp(logits) - logits[label]`.
fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let labels = Tensor::from_slice(labels, (labels.len(), 1), logits.device())?;
    let right = logits.gather(&labels, 1)?.squeeze(1)?;
    let largest = logits.max_keepdim(1)?.detach();
    let sums = logits.broadcast_sub(&largest)?.exp()?.sum(1)?.log()?;
    Ok(((sums + largest.squeeze(1)?)? - right)?.mean_all()?)
}

fn accuracy(model: &Classifier, data: &Dataset, indices: &[usize], transform: Transform, device: &Device) -> Result<f64> {
    const BATCH: usize = 256;
    let pictures = prepare(data, indices, &transform, 0.01, &|_| ())?;
    let (bytes, mut right) = (transform.size * transform.size * 3, 0);
    for (pixels, labels) in pictures.images.chunks(BATCH * bytes).zip(pictures.labels.chunks(BATCH)) {
        let (_, logits) = model.forward(&to_tensor(pixels, labels.len(), transform.size, device)?)?;
        let guesses = logits.argmax(1)?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
        right += guesses.iter().zip(labels).filter(|(guess, label)| Some(**guess) == **label).count();
    }
    Ok(right as f64 / pictures.len().max(1) as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Var;

    use super::*;

    #[test]
    fn cross_entropy_and_its_gradient_by_hand() {
        let logits = Var::new(&[[0f32, 0.0], [1000.0, 0.0]], &Device::Cpu).unwrap();
        let loss = cross_entropy(logits.as_tensor(), &[1, 0]).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - 2f32.ln() / 2.0).abs() < 1e-6);
        let grads = loss.backward().unwrap();
        let gradient = grads.get(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(gradient, [[0.25, -0.25], [0.0, 0.0]]);
    }

    #[test]
    fn what_cannot_be_trained_on_is_refused() {
        let options = strata_datasets::DatasetOptions::default();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.png"), "x").unwrap();
        let data = Dataset::open(&folder.path().display().to_string(), &options).unwrap();
        let message = classes(&data).unwrap_err().to_string();
        assert!(message.contains("trained on labels"), "{message}");
        for config in [ClassifierConfig { size: 28, classes: 10 }, ClassifierConfig { size: 32, classes: 1 }] {
            assert!(config.validate().is_err());
        }
    }
}
