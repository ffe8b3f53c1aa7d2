//! Models that are told a picture by its embedding: embedded once beside the latents, trained on, and drawn by `--like`, with a tiny CLIP
//! image tower in the published layout.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};
use common::{
    refusal,
    run::{SMALL_AUTOENCODER, ok},
    strata,
};
use serde_json::json;
use strata_nn::random::Key;

/// Width of the embeddings.
const WIDTH: usize = 8;

/// A folder as published, with random weights of `seed`.
fn encoder(folder: &Path, seed: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let config = json!({"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "projection_dim": WIDTH});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    let mut add = |name: &str, dims: &[usize]| {
        let name = format!("vision_model.{name}");
        let t = match name.contains("norm") && name.ends_with("weight") {
            true => Tensor::ones(dims, candle_core::DType::F32, &Device::Cpu),
            false => Key::new(seed, &name).normal_tensor(dims, &Device::Cpu).unwrap() * 0.3,
        };
        tensors.push((name.replace("vision_model.visual", "visual"), t.unwrap()));
    };
    add("embeddings.class_embedding", &[16]);
    add("embeddings.patch_embedding.weight", &[16, 3, 8, 8]);
    add("embeddings.position_embedding.weight", &[5, 16]);
    for norm in ["pre_layrnorm", "encoder.layers.0.layer_norm1", "encoder.layers.0.layer_norm2", "post_layernorm"] {
        add(&format!("{norm}.weight"), &[16]);
        add(&format!("{norm}.bias"), &[16]);
    }
    let maps = [("self_attn.q_proj", 16, 16), ("self_attn.k_proj", 16, 16), ("self_attn.v_proj", 16, 16)];
    for (map, n_in, n_out) in maps.into_iter().chain([("self_attn.out_proj", 16, 16), ("mlp.fc1", 16, 24), ("mlp.fc2", 24, 16)]) {
        add(&format!("encoder.layers.0.{map}.weight"), &[n_out, n_in]);
        add(&format!("encoder.layers.0.{map}.bias"), &[n_out]);
    }
    add("visual_projection.weight", &[WIDTH, 16]);
    strata_nn::weights::save(&folder.join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
}

/// Dark and bright pictures in turn.
fn pictures(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..24u32 {
        let shade = if i % 2 == 0 { 30 + i as u8 } else { 200 + i as u8 };
        image::RgbImage::from_pixel(16, 16, image::Rgb([shade; 3])).save(folder.join(format!("{i:02}.png"))).unwrap();
    }
}

#[test]
fn cli_samples_are_like_the_pictures_that_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    encoder(&folder.join("encoder"), 0);
    pictures(&folder.join("pictures"));
    let train =
        ["train", "autoencoder", "--data", "pictures", "--out", "autoencoder", "--size", "16", "--images", "1600", "--quiet"];
    ok(folder, &train, SMALL_AUTOENCODER);
    let encode = ["encode", "--autoencoder", "autoencoder", "--data", "pictures", "--out", "latents", "--flip"];
    let (text, _) = ok(folder, &encode, &["--picture-encoder", "encoder"]);
    assert!(text.contains("48 pictures embedded, 8 wide"), "each mirrored, too: {text}");
    let before = std::fs::read(folder.join("latents/embeddings.safetensors")).unwrap();
    ok(folder, &encode, &["--picture-encoder", "encoder"]);
    assert!(before == std::fs::read(folder.join("latents/embeddings.safetensors")).unwrap());
    encoder(&folder.join("others"), 1);
    let other = [&encode[..], &["--picture-encoder", "others"]].concat();
    assert!(refusal(strata(folder).args(other)).contains("its pictures were embedded by"));

    let train = ["train", "diffusion", "--latents", "latents", "--preset", "emoji-text", "--images", "4800", "--quiet"];
    let small = ["--set", "unet.width=16", "--set", "unet.groups=8", "--set", "unet.multipliers=[1,2]", "--batch", "8"];
    let decoders = ["--set", "unet.decoders=[{ width = 16, attention = [1] }]", "--set", "stage_policy=\"natural\""];
    let quick = ["--set", "optimizer.lr=4e-3", "--set", "lr_schedule={ kind = \"constant\" }"];
    let rest = ["--set", "ema={ kind = \"constant\", decay = 0.9 }", "--set", "unet.transformer.context_width=8"];
    let train = [&train[..], &small, &decoders, &quick, &rest].concat();
    let texts = refusal(strata(folder).args(&train).args(["--out", "never"]));
    assert!(texts.contains("`conditioning` is text, but the data have none"), "{texts}");
    ok(folder, &train, &["--set", "conditioning=\"picture\"", "--out", "run"]);

    let sample = ["sample", "run", "--steps", "4", "--seeds", "0-7"];
    let mean = |like: &str, out: &str| {
        ok(folder, &[&sample[..], &["--out", out, "--like", like]].concat(), &[]);
        let of = |i: u32| image::open(folder.join(format!("{out}/{i:06}.png"))).unwrap().into_rgb8().into_raw();
        let means = (0..8).map(of).map(|p| p.iter().map(|&v| f64::from(v)).sum::<f64>() / p.len() as f64);
        means.collect::<Vec<_>>()
    };
    let (dark, bright) = (mean("pictures/00.png", "dark"), mean("pictures/01.png", "bright"));
    let sum = |means: &[f64]| means.iter().sum::<f64>() / 8.0;
    assert!(sum(&bright) > sum(&dark) + 5.0, "dark {dark:?}, bright {bright:?}");
    // The seeds take the files of a folder in turn.
    let both = mean("pictures", "both");
    assert_eq!(both[0], dark[0]);
    assert_eq!(both[1], bright[1]);
    // More seeds, which take more of the files, go on in the same folder.
    ok(folder, &["sample", "run", "--steps", "4", "--seeds", "0-9", "--out", "both", "--like", "pictures"], &[]);
    // Another picture at the same place is another picture.
    std::fs::copy(folder.join("pictures/00.png"), folder.join("shown.png")).unwrap();
    mean("shown.png", "shown");
    std::fs::copy(folder.join("pictures/01.png"), folder.join("shown.png")).unwrap();
    let again = [&sample[..], &["--out", "shown", "--like", "shown.png"]].concat();
    assert!(refusal(strata(folder).args(&again)).contains("holds samples of another origin"));

    let (text, _) = ok(folder, &["inspect", "run"], &[]);
    assert!(text.contains("pictures: 1 tokens of width 8 by"), "{text}");

    let refused = |more: &[&str]| refusal(strata(folder).args([&sample[..], &["--out", "none"]].concat()).args(more));
    assert!(refused(&["--prompt", "a cat"]).contains("the model is told pictures"));
    assert!(refused(&["--text-encoder", "encoder"]).contains("the model is told pictures"));
    assert!(
        refused(&["--like", "pictures/00.png", "--picture-encoder", "others"]).contains("not the picture encoder of this model")
    );
    assert!(refused(&["--like", "missing.png"]).contains("missing.png"));
    std::fs::rename(folder.join("encoder"), folder.join("moved")).unwrap();
    assert!(refused(&["--like", "pictures/00.png"]).contains("no longer at"));
}
