//! Autoencoders on the command line: a codebook through the whole chain, measuring, converting, and images by tiles.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{pictures, refusal, strata};

const VQ: &[&str] = &[
    "--set",
    "kind=vq",
    "--set",
    "codebook.codes=32",
    "--set",
    "model.channels=[8,16]",
    "--set",
    "model.norm_groups=4",
    "--set",
    "model.decoder_blocks=2",
    "--set",
    "model.patch=1",
    "--set",
    "perceptual.weight=0.1",
    "--set",
    "adversarial={ weight = 0.5, discriminator = { width = 8 } }",
    "--batch",
    "4",
    "--images",
    "32",
    "--size",
    "32",
];

fn ok(folder: &Path, args: &[&str]) -> (String, String) {
    let output = strata(folder).args(args).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "strata {args:?}\nstdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn pixels(path: &Path) -> Vec<u8> {
    image::open(path).unwrap().into_rgb8().into_raw()
}

#[test]
fn cli_codebook_through_the_chain() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    pictures(&folder.join("photos"), 30);
    let train = [&["train", "autoencoder", "--data", "photos", "--out", "ae"], VQ].concat();
    let (_, stderr) = ok(folder, &train);
    assert!(stderr.contains("training without LPIPS") && stderr.contains("Laplacian"), "{stderr}");
    assert!(folder.join("ae/samples/reconstructions-00000032.png").is_file());

    let (stdout, stderr) =
        ok(folder, &["eval", "reconstruction", "--autoencoder", "ae", "--data", "photos", "--held-out", "0.1", "--json"]);
    let measured = json(&stdout);
    assert!(stderr.contains("LPIPS is left out") && measured["lpips"].is_null(), "{stderr}");
    assert!(measured["psnr"].as_f64().unwrap() > 3.0 && measured["ssim"].as_f64().unwrap() < 1.0);
    assert_eq!((measured["size"].as_u64(), measured["codebook"]["codes"].as_u64()), (Some(32), Some(32)));
    assert!(measured["codebook"]["perplexity"].as_f64().unwrap() >= 1.0);
    assert_eq!(measured["latents"]["std"].as_array().unwrap().len(), 4);

    // diffusers' layout and back: the same numbers.
    ok(folder, &["convert", "ae", "exported", "--scaling-factor", "0.7"]);
    assert_eq!(json(&std::fs::read_to_string(folder.join("exported/config.json")).unwrap())["_class_name"], "VQModel");
    let again =
        ok(folder, &["eval", "reconstruction", "--autoencoder", "exported", "--data", "photos", "--held-out", "0.1", "--json"]).0;
    assert_eq!(json(&again)["psnr"], measured["psnr"]);
    assert!(refusal(strata(folder).args(["convert", "ae", "exported"])).contains("exists already"));

    // Copies of an autoencoder in diffusers' layout go with the latents and the run.
    ok(folder, &["encode", "--autoencoder", "exported", "--data", "photos", "--out", "latents"]);
    std::fs::remove_dir_all(folder.join("exported")).unwrap();
    let manifest = json(&ok(folder, &["inspect", "latents", "--json"]).0);
    assert_eq!(manifest["kind"], "continuous");
    let unet =
        ["--set", "unet.width=16", "--set", "unet.multipliers=[1,2]", "--set", "unet.blocks=1", "--set", "unet.attention=[1]"];
    let more = ["--set", "unet.heads={ width = 16 }", "--set", "unet.groups=8", "--set", "unet.decoders=[{ width = 16 }]"];
    let train = ["train", "diffusion", "--latents", "latents", "--out", "run", "--batch", "4", "--images", "16"];
    ok(folder, &[&train[..], &unet, &more].concat());
    ok(folder, &["sample", "run", "--out", "drawn", "--seeds", "0-1", "--steps", "2"]);
    assert_eq!(pixels(&folder.join("drawn/000001.png")).len(), 32 * 32 * 3);
    ok(folder, &["decode", "latents", "--out", "decoded", "--limit", "2"]);
    assert!(folder.join("decoded/000001.png").is_file());
}

#[test]
fn cli_tiles_give_the_same_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    pictures(&folder.join("photos"), 3);
    let small = ["--set", "model.channels=[8,16]", "--set", "model.norm_groups=4", "--images", "4", "--size", "32"];
    ok(folder, &[&["train", "autoencoder", "--data", "photos", "--out", "ae"][..], &small].concat());
    let encode = ["encode", "--autoencoder", "ae", "--data", "photos", "--size", "160"];
    ok(folder, &[&encode[..], &["--out", "whole"]].concat());
    ok(folder, &[&encode[..], &["--out", "tiled", "--tile", "64"]].concat());
    ok(folder, &["decode", "whole", "--out", "a"]);
    ok(folder, &["decode", "tiled", "--out", "b", "--tile", "64"]);
    for i in 0..3 {
        let name = format!("{i:06}.png");
        let (a, b) = (pixels(&folder.join("a").join(&name)), pixels(&folder.join("b").join(&name)));
        assert!(a.len() == 160 * 160 * 3 && a.iter().zip(&b).all(|(a, b)| a.abs_diff(*b) <= 1), "{name}");
    }
    let eval = ["eval", "reconstruction", "--autoencoder", "ae", "--data", "photos", "--size", "160", "--json"];
    let psnr = |more: &[&str]| json(&ok(folder, &[&eval[..], more].concat()).0)["psnr"].as_f64().unwrap();
    assert!((psnr(&[]) - psnr(&["--tile", "64"])).abs() < 1e-3);
    let unet = ["unet.width=16", "unet.multipliers=[1]", "unet.blocks=1", "unet.attention=[]", "unet.groups=8"];
    let unet: Vec<&str> = unet.iter().flat_map(|setting| ["--set", setting]).collect();
    let train = ["train", "diffusion", "--latents", "whole", "--out", "run", "--batch", "2", "--images", "2"];
    ok(folder, &[&train[..], &unet, &["--set", "unet.decoders=[{ width = 16 }]", "--set", "unet.heads={ width = 16 }"]].concat());
    let sample = ["sample", "run", "--seeds", "0", "--steps", "2", "--init-image", "photos/000.png"];
    ok(folder, &[&sample[..], &["--out", "c"]].concat());
    ok(folder, &[&sample[..], &["--out", "d", "--tile", "64"]].concat());
    let (c, d) = (pixels(&folder.join("c/000000.png")), pixels(&folder.join("d/000000.png")));
    assert!(c.len() == 160 * 160 * 3 && c.iter().zip(&d).all(|(c, d)| c.abs_diff(*d) <= 1));
    let stderr = refusal(strata(folder).args(sample).args(["--out", "d"]));
    assert!(stderr.contains("`tile` is 64 there, but null"), "{stderr}");
    let output = strata(folder).args(sample).args(["--out", "e", "--tile", "32"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.contains("64 or more"), "{stderr}");
}

#[test]
fn cli_autoencoder_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    pictures(&folder.join("photos"), 3);
    let small = ["--set", "model.channels=[8,16]", "--set", "model.norm_groups=4", "--images", "4", "--size", "32"];
    ok(folder, &[&["train", "autoencoder", "--data", "photos", "--out", "ae"][..], &small].concat());
    let eval = ["eval", "reconstruction", "--autoencoder", "ae", "--data", "photos"];
    let stderr = refusal(strata(folder).args(eval).args(["--size", "30"]));
    assert!(stderr.contains("factor (4), 28 or 32; pictures are cropped and resized to it, got 30"), "{stderr}");
    let encode = ["encode", "--autoencoder", "ae", "--data", "photos", "--out", "latents"];
    let stderr = refusal(strata(folder).args(encode).args(["--size", "3"]));
    assert!(stderr.contains("factor (4), 4; pictures are") && !folder.join("latents").exists(), "{stderr}");
    let stderr = refusal(strata(folder).args(["convert", "ae", "out"]));
    assert!(stderr.contains("model.patch") && !folder.join("out").exists(), "{stderr}");
    let stderr = refusal(strata(folder).args(eval).args(["--lpips", "ae/checkpoints/000000000004/ema.safetensors"]));
    assert!(stderr.contains("missing `features.0.weight`") && stderr.contains("alex"), "{stderr}");
    // A damaged checkpoint stops the training, and the message says what is left.
    let file = folder.join("ae/checkpoints/000000000004/optimizer.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let train = ["train", "autoencoder", "--data", "photos", "--out", "ae"];
    let stderr = refusal(strata(folder).args(train).args(small));
    assert!(stderr.contains("damaged checkpoint") && stderr.contains("optimizer.safetensors"), "{stderr}");
}
