//! Training on pixels without an autoencoder, and on attributes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{
    contents, pictures, refusal,
    run::{SMALL_UNET, kill_when, ok},
    strata,
};

/// A three-stage network in EDM's setting that learns in a moment.
const SMALL: &[&str] = &[
    "--preset",
    "emoji-32-edm-multistage",
    "--size",
    "16",
    "--batch",
    "4",
    "--set",
    "unet.width=16",
    "--set",
    "unet.multipliers=[1,2]",
    "--set",
    "unet.groups=8",
    "--set",
    "unet.dropout=0.1",
    "--set",
    "unet.decoders=[{ width = 24, attention = [1] }, { width = 16 }, { width = 8 }]",
    "--quiet",
];

fn pixels(folder: &Path, file: &str) -> Vec<u8> {
    image::open(folder.join(file)).unwrap().into_rgb8().into_raw()
}

fn weights(run: &Path) -> Vec<u64> {
    contents(&run.join("checkpoints")).into_iter().map(|(_, hash)| hash).collect()
}

#[test]
fn cli_a_run_on_pixels_samples_by_itself_and_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    pictures(&folder.join("photos/cats"), 20);
    pictures(&folder.join("photos/dogs"), 21);
    ok(folder, &["stages", "--data", "photos", "--size", "16", "--samples", "100", "--out", "stages.toml", "--quiet"], &[]);
    let train = ["train", "diffusion", "--data", "photos", "--stages-file", "stages.toml"];
    // From memory, and from disk: a random crop is made anew each time.
    for crop in ["center", "random"] {
        let crop_of = format!("pictures.crop=\"{crop}\"");
        let often = ["--set", &crop_of, "--images", "96", "--set", "save_every_images=16", "--set", "pictures.flip=true"];
        let (straight, killed) = (format!("straight-{crop}"), format!("killed-{crop}"));
        let args = |out| [&train[..], SMALL, &often, &["--out", out]].concat();
        ok(folder, &args(&straight), &[]);
        kill_when(folder, &args(&killed), &folder.join(&killed).join("checkpoints"), 0);
        ok(folder, &args(&killed), &[]);
        assert!(weights(&folder.join(&straight)) == weights(&folder.join(&killed)), "{crop}: the weights differ");
    }
    assert_ne!(weights(&folder.join("straight-center")), weights(&folder.join("straight-random")));

    let sample = ["sample", "straight-center", "--steps", "3", "--quiet", "--class", "dogs"];
    ok(folder, &sample, &["--out", "drawn", "--seeds", "0-3"]);
    assert_eq!(image::open(folder.join("drawn/000003.png")).unwrap().width(), 16);
    ok(folder, &sample, &["--out", "varied", "--seeds", "0", "--init-image", "photos/dogs/000.png", "--strength", "0.4"]);
    assert_ne!(pixels(folder, "drawn/000000.png"), pixels(folder, "varied/000000.png"));
    let (text, _) = ok(folder, &["inspect", "straight-center"], &[]);
    assert!(text.contains("classes: cats, dogs"), "{text}");

    // Stages of other data, and an autoencoder where there are no latents, are refused.
    pictures(&folder.join("others"), 5);
    let other = ["train", "diffusion", "--data", "others", "--stages-file", "stages.toml", "--out", "other"];
    assert!(refusal(strata(folder).args(other).args(SMALL)).contains("`strata stages` on these data"));
    let with = [&sample[..], &["--out", "none", "--autoencoder", "straight-center"]].concat();
    assert!(refusal(strata(folder).args(with)).contains("pictures, not latents"));
    assert!(!folder.join("other").exists() && !folder.join("none").exists());
}

/// CelebA's layout: those that smile are bright.
fn celeba(folder: &Path) {
    let images = folder.join("celeba/img_align_celeba");
    std::fs::create_dir_all(&images).unwrap();
    let mut list = "24\nMale Smiling\n".to_string();
    for i in 0..24u32 {
        let (name, smiling) = (format!("{:06}.jpg", i + 1), i % 2 == 0);
        let bright = if smiling { 220 } else { 30 };
        image::RgbImage::from_pixel(178, 218, image::Rgb([bright, bright, (i * 5) as u8])).save(images.join(&name)).unwrap();
        list.push_str(&format!("{name} {:>2} {:>2}\n", if i % 3 == 0 { 1 } else { -1 }, if smiling { 1 } else { -1 }));
    }
    std::fs::write(folder.join("celeba/list_attr_celeba.txt"), list).unwrap();
}

#[test]
fn cli_attributes_reach_the_latents_and_the_model_and_decide_what_is_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    celeba(folder);
    let train = ["train", "autoencoder", "--data", "celeba", "--out", "autoencoder", "--size", "16", "--images", "32", "--quiet"];
    ok(folder, &train, common::run::SMALL_AUTOENCODER);
    let encode =
        ["encode", "--autoencoder", "autoencoder", "--data", "celeba", "--crop", "celeba", "--out", "latents", "--quiet"];
    ok(folder, &encode, &[]);
    ok(folder, &["train", "diffusion", "--latents", "latents"], &on_latents());
    let (text, _) = ok(folder, &["inspect", "on-latents"], &[]);
    assert!(text.contains("attributes: Male, Smiling"), "{text}");
    ok(folder, &["sample", "on-latents", "--out", "faces", "--seeds", "0-1", "--steps", "2", "--attributes", "Smiling"], &["-q"]);

    let pixels_run = ["train", "diffusion", "--data", "celeba", "--set", "pictures.crop=\"celeba\"", "--images", "1600"];
    let more = ["--out", "on-pixels", "--set", "optimizer.lr=4e-3", "--set", "lr_schedule={ kind = \"constant\" }"];
    let quick = ["--set", "ema={ kind = \"constant\", decay = 0.9 }", "--batch", "16", "--size", "8"];
    let small: Vec<&str> = SMALL.iter().copied().filter(|a| !["--batch", "4", "--size", "16"].contains(a)).collect();
    ok(folder, &pixels_run, &[&small[..], &more, &quick].concat());
    let mean = |wish: &str, out: &str| {
        let drawn = ["sample", "on-pixels", "--out", out, "--seeds", "0-7", "--steps", "8", "--attributes", wish];
        ok(folder, &drawn, &["--quiet", "--guidance", "1"]);
        let values: Vec<u8> = (0..8).flat_map(|i| pixels(folder, &format!("{out}/{i:06}.png"))).collect();
        values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
    };
    let (bright, dark) = (mean("smiling=1,male=0", "bright"), mean("-Smiling", "dark"));
    assert!(bright > dark + 40.0, "smiling {bright}, not smiling {dark}");

    let sample = ["sample", "on-pixels", "--out", "wrong", "--attributes", "Smiling,Simling,-smiling,Male=yes"];
    let stderr = refusal(strata(folder).args(sample));
    assert!(
        ["no attribute `Simling`; did you mean `Smiling`?", "named twice", "expected NAME=1 or NAME=0", "Male, Smiling"]
            .iter()
            .all(|part| stderr.contains(part)),
        "{stderr}"
    );
    let no_classes = ["train", "diffusion", "--data", "celeba", "--out", "wrong", "--set", "conditioning=\"class\""];
    assert!(refusal(strata(folder).args(no_classes).args(SMALL)).contains("`conditioning` is class"));
}

fn on_latents() -> Vec<&'static str> {
    [SMALL_UNET, &["--images", "32", "--out", "on-latents", "--set", "boundaries=[1.0, 5.0]", "--quiet"]].concat()
}
