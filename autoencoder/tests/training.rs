//! Training, loading and encoding on a few generated pictures.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use candle_core::{Device, Tensor};
use common::{StopAt, assert_same_bits, complete, pictures_in, tempdir_in, train_in, values};
use strata_autoencoder::{
    Autoencoder, AutoencoderConfig, AutoencoderKl, AutoencoderTiny, AutoencoderTraining, EncodeOptions, Encoded, KlConfig,
    LoadedAutoencoder, Posterior, ReconstructOptions, TinyConfig, VqConfig, VqModel, encode, export_diffusers, load, pictures,
    reconstruct, save,
};
use strata_datasets::{LatentSet, Transform};
use strata_nn::{params::ParamStore, random::Key, weights};
use strata_training::{Interrupt, NoProgress, Progress, run::read_stats};

fn small() -> AutoencoderTraining {
    AutoencoderTraining {
        images: 64,
        batch: 4,
        size: 16,
        warmup_images: 8,
        save_every_images: 1000,
        log_every_images: 16,
        evaluate_every_images: 32,
        model: KlConfig {
            channels: vec![8, 16],
            patch: 2,
            encoder_blocks: 1,
            decoder_blocks: 1,
            norm_groups: 4,
            ..KlConfig::default()
        },
        ..AutoencoderTraining::default()
    }
}

#[test]
fn an_interrupted_run_gives_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 24);
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let config = small();
    let summary = train_in(&whole, &config, &data, &NoProgress, &Interrupt::default());
    assert!(summary.finished && !summary.interrupted && summary.held_out_psnr.is_some());

    let stop = Interrupt::default();
    let summary = train_in(&parts, &config, &data, &StopAt(28, stop.clone()), &stop);
    assert_eq!((summary.seen_images, summary.finished, summary.interrupted), (28, false, true));
    let summary = train_in(&parts, &config, &data, &NoProgress, &Interrupt::default());
    assert_eq!((summary.seen_images, summary.finished), (64, true));

    assert_same_bits(&whole, &parts);
    let seen = |run: &Path| -> Vec<u64> { read_stats(run).unwrap().iter().filter_map(|r| r["seen_images"].as_u64()).collect() };
    assert_eq!(seen(&whole), [16, 32, 32, 48, 64, 64]);
    assert_eq!(seen(&parts), seen(&whole));
    assert!(whole.join("samples/reconstructions-00000064.png").is_file());
}

#[test]
fn training_lowers_the_error_and_what_is_saved_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 40);
    let run = dir.path().join("run");
    let config = AutoencoderTraining { images: 1600, ..small() };
    let summary = train_in(&run, &config, &data, &NoProgress, &Interrupt::default());
    let psnr = summary.held_out_psnr.unwrap();
    assert!(psnr > 14.0, "{psnr}");

    let ae = load(&run, &Device::Cpu).unwrap();
    assert_eq!((ae.size, ae.config.factor()), (16, 4));
    let all: Vec<usize> = (0..data.len()).collect();
    let transform = Transform::new(16);
    let three = ReconstructOptions { examples: 3, ..ReconstructOptions::default() };
    let measured = reconstruct(&ae, &data, &all, &transform, three, &NoProgress, &Interrupt::default()).unwrap();
    assert!((measured.psnr - psnr).abs() < 3.0 && measured.examples.len() == 3, "{measured:?}");

    // The same file by itself, and in diffusers' layout, gives the same network.
    let file = dir.path().join("ae.safetensors");
    save(&ae, &file).unwrap();
    let x = Key::new(0, "x").normal_tensor((1, 3, 16, 32), &Device::Cpu).unwrap();
    let moments = |path: &Path| values(&load(path, &Device::Cpu).unwrap().model.encode_stored(&x).unwrap());
    assert_eq!(moments(&file), moments(&run));
    assert!(export_diffusers(&ae, dir.path(), 1.0).unwrap_err().to_string().contains("model.patch"));

    // Latents: as many as pictures, of unit variance when scaled; a second call finds them finished.
    let out = dir.path().join("latents");
    let encode_all = |options: &EncodeOptions| encode(&ae, &data, &transform, options, &out, &NoProgress, &Interrupt::default());
    let options = EncodeOptions { batch: 7, shard_pictures: 16, ..EncodeOptions::default() };
    let manifest = complete(encode_all(&options).unwrap());
    assert_eq!((manifest.count, manifest.shards.len(), manifest.channels), (40, 3, 4));
    assert_eq!(manifest.autoencoder_sha256, ae.sha256);
    let set = LatentSet::open(&out).unwrap();
    let moments = Tensor::from_vec(set.moments(11).unwrap(), (1, 8, 4, 4), &Device::Cpu).unwrap();
    let picture = data.load(11).unwrap();
    let direct = ae.model.encode_stored(&pictures::to_tensor(&picture.pixels, 1, 16, &Device::Cpu).unwrap()).unwrap();
    let difference = values(&(moments - direct).unwrap()).iter().fold(0f32, |m, d| m.max(d.abs()));
    assert!(difference < 1e-4, "{difference}");
    assert_eq!(complete(encode_all(&options).unwrap()), manifest);
}

#[test]
fn an_interrupted_encoding_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 11);
    let run = dir.path().join("run");
    train_in(&run, &AutoencoderTraining { images: 12, ..small() }, &data, &NoProgress, &Interrupt::default());
    let ae = load(&run, &Device::Cpu).unwrap();
    let options = EncodeOptions { batch: 3, flip: true, ..EncodeOptions::default() };
    struct AfterTwo(Interrupt);
    impl Progress for AfterTwo {
        fn start(&self, _: &str, _: u64, _: &str) {}
        fn advance(&self, done: u64, _: &str) {
            if done >= 6 {
                self.0.trigger();
            }
        }
        fn finish(&self) {}
    }
    let encode_into = |name: &str, progress: &dyn Progress, stop: &Interrupt| {
        encode(&ae, &data, &Transform::new(16), &options, &dir.path().join(name), progress, stop).unwrap()
    };
    let stop = Interrupt::default();
    assert_eq!(encode_into("parts", &AfterTwo(stop.clone()), &stop).outcome, Encoded::Interrupted);
    let parts = complete(encode_into("parts", &NoProgress, &Interrupt::default()));
    let whole = complete(encode_into("whole", &NoProgress, &Interrupt::default()));
    assert_eq!(parts.count, 22);
    assert_eq!(parts, whole);
}

#[test]
fn every_trainable_parameter_gets_a_gradient() {
    let coder = KlConfig {
        channels: vec![8, 16, 16],
        norm_groups: 4,
        encoder_attention: vec![1],
        decoder_attention: vec![2],
        bottleneck_channels: Some(6),
        ..KlConfig::default()
    };
    let x = Key::new(0, "x").normal_tensor((2, 3, 8, 12), &Device::Cpu).unwrap();
    for patch in [1, 2] {
        let coder =
            KlConfig { patch, channels: coder.channels[..4 - patch].to_vec(), decoder_attention: vec![1], ..coder.clone() };
        all_get_gradients(|store| {
            let model = AutoencoderKl::new(&coder, &store.root()).unwrap();
            let posterior = Posterior::new(&model.encode_moments(&x).unwrap()).unwrap();
            let noise = Key::new(0, "noise").normal_tensor(posterior.mode().dims(), &Device::Cpu).unwrap();
            let y = model.decode(&posterior.sample(&noise).unwrap()).unwrap();
            (y.sqr().unwrap().mean_all().unwrap() + posterior.kl().unwrap().mean_all().unwrap()).unwrap()
        });
    }
    all_get_gradients(|store| {
        let model = VqModel::new(&VqConfig { codes: 1, coder: coder.clone() }, &store.root()).unwrap();
        let h = model.encode(&x).unwrap();
        let loss = model.quantize(&h).unwrap().published_loss(0.25).unwrap();
        (model.decode(&h).unwrap().sqr().unwrap().mean_all().unwrap() + loss).unwrap()
    });
    all_get_gradients(|store| {
        let config = TinyConfig {
            encoder_channels: 8,
            decoder_channels: 8,
            encoder_blocks: vec![1, 2],
            decoder_blocks: vec![1, 2],
            ..TinyConfig::default()
        };
        let model = AutoencoderTiny::new(&config, &store.root()).unwrap();
        model.decode(&model.encode(&x).unwrap()).unwrap().sqr().unwrap().mean_all().unwrap()
    });
}

fn all_get_gradients(loss: impl Fn(&ParamStore) -> Tensor) {
    let store = ParamStore::new(0, &Device::Cpu);
    let grads = loss(&store).backward().unwrap();
    for p in store.trainable() {
        let grad = grads.get(p.var()).unwrap_or_else(|| panic!("no gradient reaches {}", p.name()));
        assert!(values(grad).iter().any(|g| *g != 0.0), "the gradient of {} is zero", p.name());
    }
    // Frozen, it builds no graph.
    store.freeze();
}

#[test]
fn presets_can_be_built() {
    for (name, text) in AutoencoderTraining::PRESETS {
        let config: AutoencoderTraining = toml::from_str(text).unwrap();
        config.validate().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let small: AutoencoderTraining = toml::from_str(AutoencoderTraining::PRESETS[0].1).unwrap();
    assert_eq!(small, AutoencoderTraining::default(), "the defaults are the first preset");
}

#[test]
fn unusable_settings_are_named() {
    let cases = [
        (AutoencoderTraining { size: 30, ..small() }, "factor (4), 28 or 32; pictures are cropped and resized to it, got 30"),
        (AutoencoderTraining { batch: 0, ..small() }, "`batch`: expected 1 or more, got 0"),
        (AutoencoderTraining { held_out_share: 1.5, ..small() }, "`held_out_share`"),
        (AutoencoderTraining { lr: -1.0, ..small() }, "lr"),
    ];
    for (config, part) in cases {
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_autoencoder_of_other_channels_takes_no_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 2);
    let config = AutoencoderConfig::Kl(KlConfig { in_channels: 1, ..small().model });
    let store = ParamStore::new(0, &Device::Cpu);
    let model = Autoencoder::new(&config, &store.root()).unwrap();
    let (file, out) = (dir.path().join("gray.safetensors"), dir.path().join("latents"));
    let gray = LoadedAutoencoder { model, config, store, file, sha256: "0".into(), size: 16 };
    let (options, stop, transform) = (EncodeOptions::default(), Interrupt::default(), Transform::new(16));
    let encoded = encode(&gray, &data, &transform, &options, &out, &NoProgress, &stop).unwrap_err().to_string();
    let options = ReconstructOptions::default();
    let measured = reconstruct(&gray, &data, &[0], &transform, options, &NoProgress, &stop).unwrap_err().to_string();
    for message in [encoded, measured] {
        let expected = "gray.safetensors: expected an autoencoder of 3 channels (RGB), got 1 of its input and 3 of its output";
        assert!(message.ends_with(expected), "{message}");
    }
    assert!(!out.exists());
}

#[test]
fn what_is_no_autoencoder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| load(path, &Device::Cpu).unwrap_err().to_string();
    assert!(message(&dir.path().join("nowhere")).contains("does not exist"));
    assert!(message(dir.path()).contains("not a run directory"), "{}", message(dir.path()));
    let file = dir.path().join("w.safetensors");
    weights::save(&file, &[("a".into(), Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap())], &Default::default())
        .unwrap();
    assert!(message(&file).contains("config.json"), "{}", message(&file));
}
