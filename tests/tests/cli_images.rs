//! Models that are shown images: a smaller picture, a picture with a hole, a map of classes; from data to samples.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{
    refusal,
    run::{SMALL_AUTOENCODER, ok},
    strata,
};
use image::{GrayImage, Luma, Rgb, RgbImage};

/// One decoder that learns in a moment.
const SMALL: &[&str] = &[
    "--set",
    "unet.width=16",
    "--set",
    "unet.groups=8",
    "--set",
    "unet.multipliers=[1,2]",
    "--set",
    "unet.blocks=1",
    "--set",
    "unet.attention=[]",
    "--set",
    "unet.heads={ width = 16 }",
    "--set",
    "unet.decoders=[{ width = 16 }]",
    "--set",
    "optimizer.lr=4e-3",
    "--set",
    "lr_schedule={ kind = \"constant\" }",
    "--set",
    "ema={ kind = \"constant\", decay = 0.9 }",
    "--batch",
    "8",
    "--quiet",
];

/// Pictures of one shade each, dark and bright, with a bright or dark right half.
fn pictures(folder: &Path) {
    std::fs::create_dir_all(folder.join("pictures")).unwrap();
    std::fs::create_dir_all(folder.join("maps")).unwrap();
    for i in 0..24u32 {
        let shade = |x: u32| if (x < 8) == (i % 2 == 0) { 40 + i as u8 } else { 210 + i as u8 };
        let name = format!("{i:02}.png");
        RgbImage::from_fn(16, 16, |x, _| Rgb([shade(x); 3])).save(folder.join("pictures").join(&name)).unwrap();
        GrayImage::from_fn(16, 16, |x, _| Luma([u8::from(shade(x) > 128)])).save(folder.join("maps").join(&name)).unwrap();
    }
}

fn picture(folder: &Path, file: &str) -> RgbImage {
    image::open(folder.join(file)).unwrap().into_rgb8()
}

/// Mean of the left and of the right half.
fn halves(image: &RgbImage) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for (x, _, pixel) in image.enumerate_pixels() {
        let half = usize::from(2 * x >= image.width());
        sums[half] += f64::from(pixel[1]) / f64::from(image.width() * image.height() / 2);
    }
    sums
}

#[test]
fn cli_latents_carry_what_models_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    pictures(folder);
    let train =
        ["train", "autoencoder", "--data", "pictures", "--out", "autoencoder", "--size", "16", "--images", "1600", "--quiet"];
    ok(folder, &train, SMALL_AUTOENCODER);
    let encode = ["encode", "--autoencoder", "autoencoder", "--data", "pictures", "--flip", "--quiet", "--out"];
    let encoded = |out: &str, more: &[&str]| ok(folder, &[&encode[..], &[out]].concat(), more).0;
    assert!(encoded("small", &["--low-res", "4"]).contains("pictures 4 times smaller for 48 latents, 1 for each"));
    assert!(encoded("holes", &["--inpaint-masks", "3"]).contains("holes for 48 latents, 3 for each"));
    let maps = ["--maps", "maps", "--map-classes", "2"];
    assert!(encoded("maps-beside", &maps).contains("maps of 2 classes"));
    let again = std::fs::read(folder.join("small/images.safetensors")).unwrap();
    encoded("small", &["--low-res", "4"]);
    assert!(again == std::fs::read(folder.join("small/images.safetensors")).unwrap());
    let (text, _) = ok(folder, &["inspect", "small"], &[]);
    assert!(text.contains("images beside them: pictures 4 times smaller, 1 for each"), "{text}");

    let refused = |out: &str, more: &[&str]| refusal(strata(folder).args([&encode[..], &[out]].concat()).args(more));
    assert!(
        refused("small", &["--low-res", "2"]).contains("holds pictures 4 times smaller already, not pictures 2 times smaller")
    );
    assert!(refused("none", &["--low-res", "3"]).contains("2 or more that divides 16, got 3"));
    GrayImage::from_pixel(16, 16, Luma([2])).save(folder.join("maps/05.png")).unwrap();
    let wrong = refused("maps-wrong", &maps);
    assert!(wrong.contains("05.png: expected classes below 2, got 2"), "{wrong}");

    let train = |latents: &str, out: &str, image: &str, images: &str| {
        let set = format!("image={image}");
        let args = ["train", "diffusion", "--latents", latents, "--out", out, "--set", &set, "--images", images];
        strata(folder).args(args).args(["--set", "conditioning=\"none\""]).args(SMALL).output().unwrap()
    };
    let stderr = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let low_res = "{ kind = \"low-res\", factor = 4, max_noise = 0.3 }";
    let output = train("holes", "none", low_res, "8");
    assert!(stderr(&output).contains("got holes: encode the images with `strata encode --low-res 4`"), "{}", stderr(&output));
    for (latents, image) in [
        ("small", low_res),
        ("holes", "{ kind = \"inpaint\" }"),
        ("maps-beside", "{ kind = \"map\", classes = 2, channels = 3 }"),
    ] {
        let output = train(latents, &format!("run-{latents}"), image, "4800");
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let (text, _) = ok(folder, &["inspect", "run-small"], &[]);
    assert!(text.contains("is shown: a picture 4 times smaller, with noise up to 0.3"), "{text}");

    // A dark and a bright half, and the other way round.
    for (name, dark_left) in [("dark-left.png", true), ("dark-right.png", false)] {
        let is_dark = |x: u32, side: u32| (2 * x < side) == dark_left;
        RgbImage::from_fn(4, 4, |x, _| Rgb([if is_dark(x, 4) { 50 } else { 220 }; 3])).save(folder.join(name)).unwrap();
        let map = GrayImage::from_fn(16, 16, |x, _| Luma([u8::from(!is_dark(x, 16))]));
        std::fs::create_dir_all(folder.join("map")).unwrap();
        map.save(folder.join("map").join(name)).unwrap();
    }
    let sample = |run: &str, out: &str, more: &[&str]| {
        ok(folder, &["sample", run, "--out", out, "--seeds", "0-1", "--steps", "8", "--quiet"], more);
        [0, 1].map(|seed| halves(&picture(folder, &format!("{out}/00000{seed}.png"))))
    };
    for [dark, bright] in sample("run-small", "left", &["--low-res", "dark-left.png"]) {
        assert!(bright > dark + 60.0, "dark {dark}, bright {bright}");
    }
    for [bright, dark] in sample("run-small", "noised", &["--low-res", "dark-right.png", "--low-res-noise", "0.2"]) {
        assert!(bright > dark + 60.0, "dark {dark}, bright {bright}");
    }
    // The seeds take the maps of a folder in turn.
    let [[dark, bright], [left, right]] = sample("run-maps-beside", "mapped", &["--map", "map"]);
    assert!(bright > dark + 60.0 && left > right + 60.0, "{dark} {bright} {left} {right}");

    let refused = |run: &str, more: &[&str]| {
        refusal(strata(folder).args(["sample", run, "--out", "none", "--seeds", "0-1", "--quiet"]).args(more))
    };
    let said = refused("run-small", &[]);
    assert!(said.contains("must be shown a picture 4 times smaller") && said.contains("--low-res FILE"), "{said}");
    let said = refused("run-small", &["--low-res", "dark-left.png", "--low-res-noise", "0.5"]);
    assert!(said.contains("expected 0 to 0.3, as in training, got 0.5"), "{said}");
    let said = refused("run-maps-beside", &["--low-res", "dark-left.png"]);
    assert!(said.contains("--low-res: the model was trained to be shown a map of 2 classes"), "{said}");
    assert!(refused("run-maps-beside", &["--map", "maps/05.png"]).contains("expected classes below 2, got 2"));
    assert!(refused("run-holes", &[]).contains("give it with --init-image FILE --mask FILE"));
    let said = refused("run-small", &["--low-res", "dark-left.png", "--guidance", "3"]);
    assert!(said.contains("needs a condition, but the model is unconditional"), "{said}");
}

#[test]
fn cli_a_model_that_was_trained_to_inpaint_goes_by_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    pictures(folder);
    let train = ["train", "diffusion", "--data", "pictures", "--size", "16", "--out", "run", "--images", "6400"];
    let image = ["--set", "image={ kind = \"inpaint\" }", "--set", "image_dropout=0.1", "--set", "conditioning=\"none\""];
    ok(folder, &[&train[..], &image].concat(), SMALL);
    GrayImage::from_fn(16, 16, |x, _| Luma([if x < 8 { 0 } else { 255 }])).save(folder.join("mask.png")).unwrap();
    let sample = ["sample", "run", "--seeds", "0-3", "--steps", "8", "--quiet", "--mask", "mask.png"];
    for i in [0, 1] {
        let (init, out) = (format!("pictures/{i:02}.png"), format!("drawn-{i}"));
        ok(folder, &sample, &["--init-image", &init, "--out", &out]);
        let original = picture(folder, &init);
        for seed in 0..4 {
            let drawn = picture(folder, &format!("{out}/00000{seed}.png"));
            let far = |x, y| (0..3).map(|c| drawn.get_pixel(x, y)[c].abs_diff(original.get_pixel(x, y)[c])).max().unwrap();
            let kept = (0..8).flat_map(|x| (0..16).map(move |y| (x, y))).map(|(x, y)| far(x, y)).max().unwrap();
            assert!(kept <= 1, "what is known is kept within 1/255: {kept}");
            // What is drawn is the opposite of what is known.
            let [known, new] = halves(&drawn);
            assert!((known < 128.0) == (new > 128.0), "picture {i}, seed {seed}: known {known}, drawn {new}");
        }
    }
    // Without a picture it draws all, since it was trained without one now and then.
    ok(folder, &["sample", "run", "--out", "free", "--seeds", "0-1", "--steps", "2", "--quiet"], &[]);
    GrayImage::from_pixel(8, 8, Luma([255])).save(folder.join("small.png")).unwrap();
    let wrong = ["sample", "run", "--out", "none", "--init-image", "pictures/00.png", "--mask", "small.png"];
    let said = refusal(strata(folder).args(wrong));
    assert!(said.contains("small.png: a mask of 8x8 pixels, but pictures/00.png has 16x16"), "{said}");
    let maps = ["train", "diffusion", "--data", "pictures", "--out", "maps-run", "--set"];
    let said = refusal(strata(folder).args(maps).arg("image={ kind = \"map\", classes = 2, channels = 3 }"));
    assert!(said.contains("maps are stored beside latents"), "{said}");
}
