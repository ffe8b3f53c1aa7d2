//! The chain by hand on small pictures, as far as a test needs it, and killing what runs.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::{binary, cache, pictures, strata};

/// An autoencoder that learns in a moment.
pub const SMALL_AUTOENCODER: &[&str] =
    &["--set", "model.channels=[8,16]", "--set", "model.norm_groups=4", "--set", "model.decoder_blocks=1", "--batch", "4"];
/// A three-stage network that learns in a moment.
pub const SMALL_UNET: &[&str] = &[
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

/// Stdout and stderr of a command that succeeds.
pub fn ok(folder: &Path, args: &[&str], more: &[&str]) -> (String, String) {
    let output = strata(folder).args(args).args(more).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "strata {args:?} {more:?}\nstdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

/// Two classes of pictures of mixed sizes, PNG and JPEG, with a broken one among them.
pub fn photos(folder: &Path) {
    pictures(&folder.join("photos/cats"), 20);
    pictures(&folder.join("photos/dogs"), 21);
    let whole = std::fs::read(folder.join("photos/dogs/001.jpg")).unwrap();
    std::fs::write(folder.join("photos/dogs/broken.jpg"), &whole[..whole.len() / 2]).unwrap();
}

/// Everything up to `stages.toml`.
pub fn prepare(folder: &Path) {
    photos(folder);
    let train = ["train", "autoencoder", "--data", "photos", "--out", "autoencoder", "--size", "32", "--images", "64"];
    let (_, stderr) = ok(folder, &train, SMALL_AUTOENCODER);
    assert!(stderr.contains("broken.jpg"), "the broken picture is not named: {stderr}");
    ok(folder, &["encode", "--autoencoder", "autoencoder", "--data", "photos", "--out", "latents"], &[]);
    ok(folder, &["stages", "--latents", "latents", "--out", "stages.toml", "--samples", "300"], &["--quiet"]);
}

/// Trains on what [`prepare`] made.
pub const TRAIN: &[&str] = &["train", "diffusion", "--latents", "latents", "--stages-file", "stages.toml"];

/// Runs `strata args` and kills it as soon as `watched` has more than `count` entries.
pub fn kill_when(folder: &Path, args: &[&str], watched: &Path, count: usize) {
    kill_once(folder, args, || std::fs::read_dir(watched).map_or(0, Iterator::count) > count);
}

/// Runs `strata args` and kills it as soon as `ready`.
pub fn kill_once(folder: &Path, args: &[&str], ready: impl Fn() -> bool) {
    let mut command = Command::new(binary());
    command.args(args).current_dir(folder).env("XDG_CACHE_HOME", cache(folder));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !ready() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A run `diffusion` of a conditional three-stage model, after a few steps.
pub fn train(folder: &Path) {
    prepare(folder);
    ok(folder, TRAIN, &[SMALL_UNET, &["--images", "64", "--out", "diffusion", "--quiet"]].concat());
}
