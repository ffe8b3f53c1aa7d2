//! Autoencoders in published layouts, there and back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use strata_autoencoder::{
    Autoencoder, AutoencoderConfig, Kind, KlConfig, LoadedAutoencoder, Resampling, TinyConfig, VqConfig, export_diffusers,
    layouts::compvis, load, save,
};
use strata_nn::{params::ParamStore, random::Key, weights};

fn coder() -> KlConfig {
    KlConfig { channels: vec![32, 64], encoder_blocks: 1, decoder_blocks: 2, latent_channels: 3, ..KlConfig::default() }
}

fn fresh(config: AutoencoderConfig) -> LoadedAutoencoder {
    let store = ParamStore::new(3, &Device::Cpu);
    let model = Autoencoder::new(&config, &store.root()).unwrap();
    store.freeze();
    LoadedAutoencoder { model, config, store, file: "none".into(), sha256: String::new(), size: 16 }
}

/// Latent and reconstruction of a fixed picture.
fn pass(ae: &LoadedAutoencoder) -> Vec<f32> {
    let x = Key::new(0, "x").normal_tensor((1, 3, 16, 24), &Device::Cpu).unwrap();
    let z = ae.model.encode(&x).unwrap();
    let y = ae.model.decode(&z).unwrap();
    [z, y].iter().flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

fn tiny() -> TinyConfig {
    TinyConfig {
        encoder_channels: 8,
        decoder_channels: 8,
        encoder_blocks: vec![1, 2],
        decoder_blocks: vec![2, 1],
        ..TinyConfig::default()
    }
}

#[test]
fn every_kind_survives_the_layout_of_diffusers_and_ours() {
    let dir = tempfile::tempdir().unwrap();
    let attentive =
        KlConfig { encoder_attention: vec![1], decoder_attention: vec![0], quant_conv: false, post_quant_conv: false, ..coder() };
    let narrow = VqConfig { codes: 11, coder: KlConfig { bottleneck_channels: Some(6), ..coder() } };
    let all = [
        AutoencoderConfig::Kl(coder()),
        AutoencoderConfig::Kl(attentive),
        AutoencoderConfig::Vq(narrow),
        AutoencoderConfig::Tiny(tiny()),
    ];
    for (i, config) in all.into_iter().enumerate() {
        let ae = fresh(config);
        let (folder, file) = (dir.path().join(format!("{i}")), dir.path().join(format!("{i}.safetensors")));
        export_diffusers(&ae, &folder, 0.5).unwrap();
        save(&ae, &file).unwrap();
        for path in [&folder, &file] {
            let back = load(path, &Device::Cpu).unwrap();
            assert_eq!(back.config, ae.config);
            assert_eq!(pass(&back), pass(&ae));
        }
        let json: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
        assert_eq!(json["scaling_factor"], 0.5);
    }
}

/// Writes the tensors as a first stage of CompVis within a whole model, with what else such a file holds.
fn write_compvis(ae: &LoadedAutoencoder, path: &Path) {
    let mut tensors: Vec<(String, Tensor)> = compvis::key_map(&ae.store).export(&ae.store).unwrap();
    tensors.iter_mut().for_each(|(name, _)| *name = format!("first_stage_model.{name}"));
    let other = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    for name in ["model.diffusion_model.out.2.bias", "first_stage_model.loss.discriminator.main.0.bias", "betas"] {
        tensors.push((name.to_string(), other.clone()));
    }
    weights::save(path, &tensors, &Default::default()).unwrap();
}

#[test]
fn a_compvis_model_is_known_by_its_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let odd = KlConfig {
        channels: vec![64, 32, 32],
        stem_channels: Some(32),
        encoder_attention: vec![2],
        decoder_attention: vec![2],
        bottleneck_channels: Some(5),
        ..coder()
    };
    let plain = KlConfig { resampling: Resampling::Plain, middle_attention: false, ..coder() };
    let all = [
        AutoencoderConfig::Kl(coder()),
        AutoencoderConfig::Kl(odd.clone()),
        AutoencoderConfig::Kl(plain),
        AutoencoderConfig::Vq(VqConfig { codes: 7, coder: odd }),
    ];
    for config in all {
        let ae = fresh(config);
        write_compvis(&ae, &path);
        let back = load(&path, &Device::Cpu).unwrap();
        assert_eq!((&back.config, back.size), (&ae.config, 0));
        assert_eq!(pass(&back), pass(&ae));
    }
}

#[test]
fn all_wrong_keys_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("diffusion_pytorch_model.safetensors");
    let ae = fresh(AutoencoderConfig::Kl(coder()));
    export_diffusers(&ae, dir.path(), 1.0).unwrap();
    let mut tensors: Vec<(String, Tensor)> = weights::load(&path, &Device::Cpu).unwrap().tensors.into_iter().collect();
    tensors.retain(|(name, _)| name != "encoder.conv_in.bias" && name != "decoder.conv_out.weight");
    tensors.push(("encoder.surplus".to_string(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap()));
    weights::save(&path, &tensors, &Default::default()).unwrap();
    let message = load(dir.path(), &Device::Cpu).unwrap_err().to_string();
    for part in ["missing `encoder.conv_in.bias`", "missing `decoder.conv_out.weight`", "unexpected `encoder.surplus`"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(ae.config.kind(), Kind::Kl);
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("diffusion_pytorch_model.safetensors");
    export_diffusers(&fresh(AutoencoderConfig::Kl(coder())), dir.path(), 1.0).unwrap();
    let mut tensors: Vec<(String, Tensor)> = weights::load(&path, &Device::Cpu).unwrap().tensors.into_iter().collect();
    for (name, tensor) in &mut tensors {
        if ["decoder.conv_out.bias", "encoder.conv_in.bias"].contains(&name.as_str()) {
            *tensor = (&*tensor * f64::INFINITY).unwrap();
        }
    }
    weights::save(&path, &tensors, &Default::default()).unwrap();
    let message = load(dir.path(), &Device::Cpu).unwrap_err().to_string();
    for part in ["2 tensors do not fit", "`decoder.conv_out.bias`: expected finite numbers, got 3 of 3", "`encoder.conv_in.bias`"]
    {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn what_diffusers_cannot_express_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = |config| export_diffusers(&fresh(config), dir.path(), 1.0).unwrap_err().to_string();
    let patched = KlConfig { patch: 2, ..coder() };
    assert!(message(AutoencoderConfig::Kl(patched)).contains("`model.patch`: expected 1 (diffusers)"));
    let bottleneck = KlConfig { bottleneck_channels: Some(5), ..coder() };
    assert!(message(AutoencoderConfig::Kl(bottleneck)).contains("model.bottleneck_channels"));
    let bare = VqConfig { codes: 3, coder: KlConfig { quant_conv: false, ..coder() } };
    assert!(message(AutoencoderConfig::Vq(bare)).contains("model.quant_conv"));
    assert!(!dir.path().join("config.json").exists());
}
