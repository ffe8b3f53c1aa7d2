//! Trainings with a codebook, a discriminator and a perceptual term: what they log, and that they go on where they stood.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{Device, Tensor};
use common::{StopAt, assert_same_bits, complete, files, pictures_in, tempdir_in, train_in, values};
use strata_autoencoder::{
    AdversarialTraining, AutoencoderTraining, CodebookTraining, EncodeOptions, Kind, KlConfig, PerceptualTraining, TinyConfig,
    adversarial::{DiscriminatorConfig, GanLoss},
    encode, load,
    perceptual::LpipsNet,
    train, weight_file,
};
use strata_datasets::{LatentKind, LatentSet, Transform};
use strata_nn::{random::Key, weights};
use strata_training::{Interrupt, NoProgress, RunDir, run::read_stats};

/// Everything at once, as small as it gets.
fn everything(kind: Kind) -> AutoencoderTraining {
    AutoencoderTraining {
        images: 48,
        batch: 4,
        micro_batch: 2,
        size: 32,
        warmup_images: 8,
        save_every_images: 1000,
        log_every_images: 16,
        evaluate_every_images: 0,
        learned_variance: true,
        kind,
        model: KlConfig {
            channels: vec![8, 16],
            patch: 2,
            encoder_blocks: 1,
            decoder_blocks: 1,
            norm_groups: 4,
            ..KlConfig::default()
        },
        tiny: Some(TinyConfig {
            encoder_channels: 8,
            decoder_channels: 8,
            encoder_blocks: vec![1, 1],
            decoder_blocks: vec![1, 1],
            ..TinyConfig::default()
        }),
        codebook: CodebookTraining { codes: 24, revive_after_images: 12, ..CodebookTraining::default() },
        perceptual: PerceptualTraining { weight: 0.5, ..PerceptualTraining::default() },
        adversarial: AdversarialTraining {
            weight: 0.5,
            start_images: 16,
            loss: if kind == Kind::Vq { GanLoss::Vanilla } else { GanLoss::Hinge },
            discriminator: DiscriminatorConfig { width: 8, layers: 2, ..DiscriminatorConfig::default() },
            ..AdversarialTraining::default()
        },
        ..AutoencoderTraining::default()
    }
}

#[test]
fn every_part_of_a_training_goes_on_where_it_stood() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 24);
    for kind in [Kind::Kl, Kind::Vq, Kind::Tiny] {
        let config = everything(kind);
        let (whole, parts) = (dir.path().join(format!("{kind:?}-whole")), dir.path().join(format!("{kind:?}-parts")));
        assert!(train_in(&whole, &config, &data, &NoProgress, &Interrupt::default()).finished);
        // Once before the discriminator begins, once after.
        for stop_at in [12, 28] {
            let stop = Interrupt::default();
            assert_eq!(train_in(&parts, &config, &data, &StopAt(stop_at, stop.clone()), &stop).seen_images, stop_at);
        }
        assert!(train_in(&parts, &config, &data, &NoProgress, &Interrupt::default()).finished);
        assert_same_bits(&whole, &parts);
        let without_times = |run: &std::path::Path| -> Vec<serde_json::Value> {
            let mut records = read_stats(run).unwrap();
            for record in &mut records {
                record.as_object_mut().unwrap().retain(|key, _| !key.contains("second") && key != "time");
            }
            records
        };
        assert_eq!(without_times(&whole), without_times(&parts));
        check_records(&without_times(&whole), kind);
        check_checkpoint(&whole, kind);
    }
}

#[test]
fn the_weight_of_the_discriminator_counts() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 12);
    let trained = |weight: f64| {
        let run = dir.path().join(format!("{weight}"));
        let plain = everything(Kind::Kl);
        let adversarial = AdversarialTraining { weight, start_images: 0, ..plain.adversarial.clone() };
        let config = AutoencoderTraining { images: 24, adversarial, ..plain };
        train_in(&run, &config, &data, &NoProgress, &Interrupt::default());
        files(&run).remove("model.safetensors").unwrap()
    };
    let without = trained(0.0);
    let difference = |weight: f64| -> f32 {
        let with = trained(weight);
        let of = |(name, t): (&String, &Tensor)| (t - &with[name]).unwrap().abs().unwrap().sum_all().unwrap();
        without.iter().map(|one| of(one).to_scalar::<f32>().unwrap()).sum()
    };
    let (hardly, half) = (difference(1e-9), difference(0.5));
    assert!(hardly < 0.2 * half, "{hardly} {half}");
}

#[test]
fn checkpointed_activations_train_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 12);
    for kind in [Kind::Kl, Kind::Vq, Kind::Tiny] {
        let [kept, recomputed] = [false, true].map(|checkpoint_activations| {
            let run = dir.path().join(format!("{kind:?}-{checkpoint_activations}"));
            let config = AutoencoderTraining { images: 24, checkpoint_activations, ..everything(kind) };
            train_in(&run, &config, &data, &NoProgress, &Interrupt::default());
            run
        });
        assert_same_bits(&kept, &recomputed);
    }
}

fn check_records(records: &[serde_json::Value], kind: Kind) {
    let number = |i: usize, key: &str| records[i][key].as_f64().unwrap_or(f64::NAN);
    for (i, seen) in [(0, 16.0), (1, 32.0), (2, 48.0)] {
        assert_eq!(number(i, "seen_images"), seen);
        for key in ["loss", "rec", "perceptual", "logvar", "grad_norm"] {
            assert!(number(i, key).is_finite(), "{kind:?} {key}: {}", records[i]);
        }
    }
    assert!(records[0].get("discriminator").is_none(), "it begins at 16 images");
    for key in ["generator", "discriminator", "logits_real", "logits_fake", "adversarial_weight"] {
        assert!(number(1, key).is_finite() && number(1, key) != 0.0, "{kind:?} {key}: {}", records[1]);
    }
    assert_ne!(number(1, "discriminator"), number(2, "discriminator"), "the discriminator does not move");
    assert_ne!(number(0, "logvar"), number(2, "logvar"), "the log-variance does not move");
    if kind == Kind::Vq {
        assert!(number(2, "codebook_used") > 0.0 && number(2, "codebook_perplexity") > 1.0);
        assert!(number(0, "codes_revived") > 0.0 && number(0, "commitment") > 0.0);
        assert!(records[3]["held_out_codebook_used"].as_f64().unwrap() > 0.0);
    }
    assert!(records[3]["held_out_psnr"].is_number() && records[3]["held_out_ssim"].is_number());
}

/// What only training needs lies beside the moments, and the weight files hold the network alone.
fn check_checkpoint(run: &std::path::Path, kind: Kind) {
    let files = files(run);
    let optimizer = &files["optimizer.safetensors"];
    for name in ["loss.logvar", "discriminator.conv_in.weight", "discriminator.blocks.0.norm.running_var", "logvar.exp_avg"] {
        assert!(optimizer.contains_key(name), "{name} is not in the checkpoint");
    }
    assert!(optimizer.contains_key("discriminator_optimizer.discriminator.conv_out.bias.exp_avg_sq"));
    assert_eq!(optimizer.contains_key("codebook_usage.idle"), kind == Kind::Vq);
    assert!(files["ema.safetensors"].keys().all(|name| !name.contains("discriminator") && !name.contains("logvar")));
    let loaded = load(run, &Device::Cpu).unwrap();
    assert_eq!((loaded.config.kind(), loaded.size), (kind, 32));
}

#[test]
fn parts_of_a_batch_add_up_to_its_gradient() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 24);
    // The first moments of Adam after one step are a share of the gradient.
    let moments = |micro_batch: usize| {
        let mut config = AutoencoderTraining { images: 4, micro_batch, max_grad_norm: 0.0, ..everything(Kind::Kl) };
        config.adversarial.weight = 0.0;
        let run = dir.path().join(format!("micro-{micro_batch}"));
        train_in(&run, &config, &data, &NoProgress, &Interrupt::default());
        files(&run).remove("optimizer.safetensors").unwrap()
    };
    let (whole, parts) = (moments(0), moments(3));
    for (name, t) in whole.iter().filter(|(name, _)| name.ends_with("exp_avg")) {
        let (a, b) = (values(&t.flatten_all().unwrap()), values(&parts[name].flatten_all().unwrap()));
        let largest = a.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-3 * largest + 1e-9), "{name}");
    }
}

#[test]
fn latents_of_a_codebook_are_those_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 12);
    let run = dir.path().join("run");
    train_in(&run, &AutoencoderTraining { images: 8, ..everything(Kind::Vq) }, &data, &NoProgress, &Interrupt::default());
    let ae = load(&run, &Device::Cpu).unwrap();
    let out = dir.path().join("latents");
    let options = EncodeOptions { batch: 5, ..EncodeOptions::default() };
    let manifest = complete(encode(&ae, &data, &Transform::new(32), &options, &out, &NoProgress, &Interrupt::default()).unwrap());
    assert_eq!((manifest.kind, manifest.channels, manifest.height), (LatentKind::Continuous, 4, 8));
    let latent = LatentSet::open(&out).unwrap().moments(3).unwrap();
    let strata_autoencoder::Autoencoder::Vq(model) = &ae.model else { panic!("not a codebook") };
    let h = candle_core::Tensor::from_vec(latent.clone(), (1, 4, 8, 8), &Device::Cpu).unwrap();
    let quantized = values(&model.quantize(&h).unwrap().latent.flatten_all().unwrap());
    assert_ne!(latent, quantized, "quantized already");
    // Decoding quantizes.
    let direct = model.decode_unquantized(&model.quantize(&h).unwrap().latent).unwrap();
    assert_eq!(values(&ae.model.decode(&h).unwrap().flatten_all().unwrap()), values(&direct.flatten_all().unwrap()));
}

#[test]
fn a_damaged_checkpoint_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 12);
    let run = dir.path().join("run");
    let mut config = AutoencoderTraining { images: 8, save_every_images: 4, ..everything(Kind::Kl) };
    train_in(&run, &config, &data, &NoProgress, &Interrupt::default());
    let file = weight_file(&run).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    config.images = 12;
    let table = toml::Table::try_from(&config).unwrap();
    let mut open = RunDir::open_changing(&run, "autoencoder", &table, &["images"]).unwrap();
    let result = train(&config, &data, &mut open, &Device::Cpu, &NoProgress, &Interrupt::default());
    let message = result.unwrap_err().to_string();
    assert!(message.contains("damaged checkpoint") && message.contains("000000000004"), "{message}");
    assert!(file.is_file());
}

/// AlexNet with random weights, as torchvision names them.
fn write_alexnet(path: &std::path::Path) {
    let shapes: [(usize, [usize; 4]); 5] =
        [(0, [64, 3, 11, 11]), (3, [192, 64, 5, 5]), (6, [384, 192, 3, 3]), (8, [256, 384, 3, 3]), (10, [256, 256, 3, 3])];
    let mut tensors = Vec::new();
    for (number, shape) in shapes {
        let fan_in: usize = shape[1..].iter().product();
        let weight = Key::new(number as u64, "alexnet").normal_tensor(&shape[..], &Device::Cpu).unwrap();
        tensors.push((format!("features.{number}.weight"), (weight / (fan_in as f64).sqrt()).unwrap()));
        let bias = candle_core::Tensor::zeros(shape[0], candle_core::DType::F32, &Device::Cpu).unwrap();
        tensors.push((format!("features.{number}.bias"), bias));
    }
    weights::save(path, &tensors, &Default::default()).unwrap();
}

#[test]
fn a_network_judges_where_its_weights_are_at_hand() {
    let dir = tempfile::tempdir().unwrap();
    let data = pictures_in(&tempdir_in(dir.path(), "data"), 12);
    let file = dir.path().join("alexnet.safetensors");
    write_alexnet(&file);
    let perceptual = |name: &str, file: String| -> f64 {
        let mut config = AutoencoderTraining { images: 16, ..everything(Kind::Kl) };
        config.perceptual = PerceptualTraining { weight: 0.5, net: LpipsNet::Alex, file };
        let run = dir.path().join(name);
        train_in(&run, &config, &data, &NoProgress, &Interrupt::default());
        read_stats(&run).unwrap()[0]["perceptual"].as_f64().unwrap()
    };
    let (network, fallback) = (perceptual("network", file.display().to_string()), perceptual("fallback", String::new()));
    assert!(network.is_finite() && network > 0.0 && (network - fallback).abs() > 1e-6, "{network} {fallback}");
}
