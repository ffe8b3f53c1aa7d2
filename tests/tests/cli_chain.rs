//! The chain by hand on a user's own folder, and what a kill in the middle of it leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{
    contents,
    run::{SMALL_UNET, TRAIN, kill_when, ok, prepare},
};

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

    let by_gradients = ["stages", "--latents", "latents", "--method", "gradient-affinity", "--samples", "20", "--levels", "8"];
    ok(folder, &by_gradients, &["--checkpoint", "diffusion", "--out", "by-gradients.toml"]);
    let by_gradients = std::fs::read_to_string(folder.join("by-gradients.toml")).unwrap();
    assert!(by_gradients.contains("method = \"gradient-affinity\"") && by_gradients.contains("checkpoints_sha256"));

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
