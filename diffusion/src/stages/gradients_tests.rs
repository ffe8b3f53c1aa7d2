//! Gradient affinity of small networks on latents that are written for it.
#![allow(clippy::unwrap_used)]

use candle_core::Device;
use strata_datasets::{LatentItem, LatentManifest, LatentSet, LatentWriter};
use strata_nn::random::Key;
use strata_training::{Interrupt, NoProgress};

use super::*;
use crate::{
    model::{LatentScaling, Model, ModelConfig},
    unet::{DecoderConfig, Heads, UNetConfig},
};

const SHAPE: [usize; 3] = [2, 8, 8];

fn latents(dir: &std::path::Path) -> LatentSet {
    let manifest = LatentManifest {
        channels: 2,
        height: 8,
        width: 8,
        autoencoder_sha256: "ae".into(),
        pictures: 24,
        pictures_per_shard: 16,
        ..LatentManifest::default()
    };
    let length = manifest.item_len();
    let writer = LatentWriter::create(dir, manifest).unwrap();
    for mut shard in writer.missing(0, 1).unwrap() {
        for i in shard.remaining() {
            let (moments, key) = (Key::new(i as u64, "latent").normal(length), i.to_string());
            shard.push(LatentItem { moments: &moments, label: None, key: &key, caption: None, attributes: &[] }).unwrap();
            shard.advance(1);
        }
        shard.finish().unwrap();
    }
    writer.finish(0).unwrap();
    LatentSet::open(dir).unwrap()
}

fn model(decoders: usize, autoencoder: &str) -> Model {
    let decoder = DecoderConfig { width: 16, attention: vec![], heads: None };
    let unet = UNetConfig {
        in_channels: 2,
        out_channels: 2,
        width: 16,
        multipliers: vec![1, 2],
        blocks: 1,
        attention: vec![],
        heads: Heads::Count(1),
        groups: 8,
        zero_init: false,
        dropout: 0.5,
        decoders: vec![decoder; decoders],
        ..UNetConfig::default()
    };
    let config = ModelConfig {
        unet,
        parametrization: crate::denoiser::Parametrization::F { sigma_data: 1.0 },
        schedule: "edm".parse().unwrap(),
        boundaries: (1..decoders).map(|i| i as f64).collect(),
        classes: 0,
        class_names: Vec::new(),
        attribute_names: Vec::new(),
        text: None,
        image: None,
        shape: SHAPE,
        latents: LatentScaling { scale: vec![1.0], shift: vec![0.0], autoencoder_sha256: autoencoder.into() },
    };
    Model::new(&config, 3, &Device::Cpu).unwrap()
}

fn config() -> DivideConfig {
    DivideConfig { schedule: "edm".parse().unwrap(), samples: 20, levels: 9, ..DivideConfig::default() }
}

fn divided(models: &[Model], latents: &LatentSet, config: &DivideConfig) -> crate::Result<Division> {
    divide_by_gradients(models, latents, config, &NoProgress, &Interrupt::new())
}

#[test]
fn networks_with_one_and_with_several_decoders_divide() {
    let dir = tempfile::tempdir().unwrap();
    let latents = latents(dir.path());
    for decoders in [1, 3] {
        let division = divided(&[model(decoders, "ae")], &latents, &config()).unwrap();
        assert_eq!((division.stages.count(), division.stages.method), (3, Method::GradientAffinity));
        let m = &division.matrix;
        assert!((0..9).all(|i| m.values[i * 10] == 1.0));
        let at = |a: usize, b: usize| m.values[a * 9 + b];
        assert!((0..81).all(|i| at(i / 9, i % 9) == at(i % 9, i / 9) && at(i / 9, i % 9).abs() <= 1.0));
        // Neighbouring levels ask for nearly the same, far ones do not.
        assert!(at(0, 1) > 0.9 && at(0, 8) < 0.9 && at(7, 8) > 0.9, "{m:?}");
        assert_eq!(divided(&[model(decoders, "ae")], &latents, &config()).unwrap().matrix, *m);
        // Two equal checkpoints are like one.
        let twice = divided(&[model(decoders, "ae"), model(decoders, "ae")], &latents, &config()).unwrap();
        assert!(twice.matrix.values.iter().zip(&m.values).all(|(a, b)| (a - b).abs() < 1e-12));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let latents = latents(dir.path());
    let complaint = |models: &[Model], config: &DivideConfig| {
        divided(models, &latents, config).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(complaint(&[], &config()).contains("at least one trained model"));
    assert!(complaint(&[model(1, "another")], &config()).contains("autoencoder"));
    assert!(complaint(&[model(1, "ae")], &DivideConfig { levels: 2, ..config() }).contains("3 stages"));
    let broken = model(1, "ae");
    let first = &broken.store().parameters()[0];
    first.var().set(&first.var().affine(0.0, f64::NAN).unwrap()).unwrap();
    assert!(complaint(&[broken], &config()).contains("checkpoint 1"));
    let stop = Interrupt::new();
    stop.trigger();
    let answer = divide_by_gradients(&[model(1, "ae")], &latents, &config(), &NoProgress, &stop);
    assert!(matches!(answer, Err(crate::Error::Interrupted)));
}
