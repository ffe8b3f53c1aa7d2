//! The chain by hand on a user's own folder, and what a kill in the middle of it leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use common::{binary, contents, pictures, strata};

const SMALL_AUTOENCODER: &[&str] =
    &["--set", "model.channels=[8,16]", "--set", "model.norm_groups=4", "--set", "model.decoder_blocks=1", "--batch", "4"];
const SMALL_UNET: &[&str] = &[
    "--set",
    "unet.width=16",
    "--set",
    "unet.multipliers=[1,2]",
    "--set",
    "unet.blocks=1",
    "--set",
    "unet.attention=[1]",
    "--set",
    "unet.heads={ width = 16 }",
    "--set",
    "unet.groups=8",
    "--set",
    "unet.dropout=0.1",
    "--set",
    "unet.decoders=[{ width = 24, attention = [1] }, { width = 16 }, { width = 8 }]",
    "--set",
    "noise={ kind = \"uniform-time\" }",
    "--batch",
    "4",
];

fn ok(folder: &Path, args: &[&str], more: &[&str]) -> (String, String) {
    let output = strata(folder).args(args).args(more).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "strata {args:?} {more:?}\nstdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

/// Two classes of pictures of mixed sizes, PNG and JPEG, with a broken one among them.
fn photos(folder: &Path) {
    pictures(&folder.join("photos/cats"), 20);
    pictures(&folder.join("photos/dogs"), 21);
    let whole = std::fs::read(folder.join("photos/dogs/001.jpg")).unwrap();
    std::fs::write(folder.join("photos/dogs/broken.jpg"), &whole[..whole.len() / 2]).unwrap();
}

/// Everything up to `stages.toml`.
fn prepare(folder: &Path) {
    photos(folder);
    let train = ["train", "autoencoder", "--data", "photos", "--out", "autoencoder", "--size", "32", "--images", "64"];
    let (_, stderr) = ok(folder, &train, SMALL_AUTOENCODER);
    assert!(stderr.contains("broken.jpg"), "the broken picture is not named: {stderr}");
    ok(folder, &["encode", "--autoencoder", "autoencoder", "--data", "photos", "--out", "latents"], &[]);
    ok(folder, &["stages", "--latents", "latents", "--out", "stages.toml", "--samples", "300"], &["--quiet"]);
}

const TRAIN: &[&str] = &["train", "diffusion", "--latents", "latents", "--stages-file", "stages.toml"];

#[test]
fn cli_chain_on_a_folder_of_mixed_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    prepare(folder);
    let (stdout, _) = ok(folder, &["data", "inspect", "photos", "--json"], &["--quiet"]);
    let inspected: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(inspected["count"], 42);
    assert_eq!(inspected["broken"].as_array().unwrap().len(), 1);
    ok(folder, &["data", "verify", "latents"], &[]);
    let (text, _) = ok(folder, &["inspect", "latents"], &[]);
    assert!(text.contains("41 latents of 4x8x8") && text.contains("cats, dogs"), "{text}");

    let conditional = [SMALL_UNET, &["--images", "64", "--out", "diffusion"]].concat();
    ok(folder, TRAIN, &conditional);
    let (text, _) = ok(folder, &["inspect", "diffusion"], &[]);
    assert!(text.contains("stage 3 active") && text.contains("checkpoint at 64 images"), "{text}");

    let sample = ["sample", "diffusion", "--steps", "4", "--quiet", "--json"];
    let (answer, _) = ok(folder, &sample, &["--out", "drawn", "--seeds", "0-6", "--class", "dogs", "--batch", "7"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((answer["images"].as_u64(), answer["new"].as_u64()), (Some(7), Some(7)));
    let grid = image::open(folder.join("drawn/grid.png")).unwrap();
    assert!(grid.width() > 3 * 32 && grid.height() > 2 * 32);
    // An image is a function of its seed, not of the batch it is drawn in; a second call draws what is missing.
    ok(folder, &sample, &["--out", "drawn-alone", "--seeds", "5", "--class", "dogs", "--batch", "1"]);
    let pixels = |path: &str| image::open(folder.join(path)).unwrap().into_rgb8().into_raw();
    let (a, b) = (pixels("drawn/000005.png"), pixels("drawn-alone/000005.png"));
    assert!(a.iter().zip(&b).all(|(a, b)| a.abs_diff(*b) <= 1));
    let (answer, _) = ok(folder, &sample, &["--out", "drawn", "--seeds", "0-8", "--class", "dogs"]);
    assert!(answer.contains("\"new\":2"), "{answer}");

    ok(folder, &["decode", "latents", "--out", "decoded", "--limit", "3", "--quiet"], &[]);
    assert_eq!(image::open(folder.join("decoded/000002.png")).unwrap().width(), 32);
}

/// Runs `strata args` and kills it as soon as `watched` has more than `count` entries.
fn kill_when(folder: &Path, args: &[&str], watched: &Path, count: usize) {
    let mut child =
        Command::new(binary()).args(args).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let entries = || std::fs::read_dir(watched).map_or(0, Iterator::count);
    while entries() <= count {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The checkpoints, without the wall-clock times of the log.
fn checkpoints(run: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let root = run.join("checkpoints");
    contents(&root).into_iter().map(|(path, hash)| (path.strip_prefix(&root).unwrap().to_path_buf(), hash)).collect()
}

fn losses(run: &Path) -> Vec<(serde_json::Value, serde_json::Value)> {
    let text = std::fs::read_to_string(run.join("stats.jsonl")).unwrap();
    let record = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    text.lines().map(record).map(|r| (r["seen_images"].clone(), r["loss"].clone())).collect()
}

#[test]
fn cli_a_killed_training_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    prepare(folder);
    let often = ["--images", "160", "--set", "save_every_images=16", "--set", "log_every_images=48", "--quiet"];
    let args = |out: &'static str| [TRAIN, SMALL_UNET, &often, &["--out", out]].concat();
    ok(folder, &args("straight"), &[]);
    // Twice, at different places; what was being written is left behind, what was complete stays.
    kill_when(folder, &args("killed"), &folder.join("killed/checkpoints"), 0);
    kill_when(folder, &args("killed"), &folder.join("killed/checkpoints"), 1);
    ok(folder, &args("killed"), &[]);
    assert_eq!(losses(&folder.join("straight")), losses(&folder.join("killed")));
    assert!(checkpoints(&folder.join("straight")) == checkpoints(&folder.join("killed")), "the weights differ");
    // A run that is complete stays as it is.
    let before = checkpoints(&folder.join("killed"));
    ok(folder, &args("killed"), &[]);
    assert!(before == checkpoints(&folder.join("killed")));
}
