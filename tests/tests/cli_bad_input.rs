//! Bad input: a clear error with the path and what to do, exit code 1, nothing overwritten.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use common::{SMALL_AUTOENCODER, contents, pictures, refusal, strata};

fn train_autoencoder(folder: &Path, out: &str, seed: &str) -> assert_cmd::Command {
    let mut command = strata(folder);
    command.args(["train", "autoencoder", "--data", "pictures", "--out", out, "--seed", seed]).args(SMALL_AUTOENCODER);
    command
}

fn folder_with_pictures() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    pictures(&folder.path().join("pictures"), 24);
    folder
}

fn encode(folder: &Path, autoencoder: &str, out: &str) -> assert_cmd::Command {
    let mut command = strata(folder);
    command.args(["encode", "--autoencoder", autoencoder, "--data", "pictures", "--out", out]);
    command
}

#[test]
fn cli_refuses_a_missing_folder() {
    let folder = tempfile::tempdir().unwrap();
    for command in
        [["data", "inspect", "no-such-folder"].as_slice(), &["train", "autoencoder", "--data", "no-such-folder", "--out", "run"]]
    {
        let stderr = refusal(strata(folder.path()).args(command));
        assert!(stderr.contains("no-such-folder"), "{stderr}");
    }
    assert!(contents(folder.path()).is_empty());
}

#[test]
fn cli_refuses_a_folder_without_images() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("texts")).unwrap();
    std::fs::write(folder.path().join("texts/a.txt"), "no picture").unwrap();
    let stderr = refusal(strata(folder.path()).args(["train", "autoencoder", "--data", "texts", "--out", "run"]));
    assert!(stderr.contains("texts") && stderr.contains("no pictures"), "{stderr}");
    assert!(!folder.path().join("run").exists());
}

#[test]
fn cli_refuses_an_output_that_cannot_be_written() {
    let folder = folder_with_pictures();
    std::fs::write(folder.path().join("file"), "in the way").unwrap();
    let stderr = refusal(&mut train_autoencoder(folder.path(), "file/run", "0"));
    assert!(stderr.contains("file"), "{stderr}");
    assert_eq!(std::fs::read_to_string(folder.path().join("file")).unwrap(), "in the way");
}

#[test]
fn cli_refuses_a_foreign_output_folder() {
    let folder = folder_with_pictures();
    let before = contents(&folder.path().join("pictures"));
    let stderr = refusal(&mut train_autoencoder(folder.path(), "pictures", "0"));
    assert!(stderr.contains("pictures"), "{stderr}");
    assert_eq!(contents(&folder.path().join("pictures")), before);
}

#[test]
fn cli_refuses_unknown_settings_and_names_the_nearest() {
    let folder = folder_with_pictures();
    let stderr = refusal(train_autoencoder(folder.path(), "run", "0").args(["--set", "kl_wieght=1e-6"]));
    assert!(stderr.contains("kl_wieght") && stderr.contains("kl_weight"), "{stderr}");
    std::fs::write(folder.path().join("my.toml"), "[model]\nlatent_chanels = 4\n").unwrap();
    let stderr = refusal(train_autoencoder(folder.path(), "run", "0").args(["--config", "my.toml"]));
    assert!(stderr.contains("latent_chanels") && stderr.contains("latent_channels"), "{stderr}");
    let stderr = refusal(train_autoencoder(folder.path(), "run", "0").args(["--preset", "emoji"]));
    assert!(stderr.contains("`emoji`") && stderr.contains("hint: "), "{stderr}");
    assert!(!folder.path().join("run").exists());
}

#[test]
fn cli_refuses_sizes_that_cannot_be_halved() {
    let folder = folder_with_pictures();
    let stderr = refusal(train_autoencoder(folder.path(), "run", "0").args(["--size", "31"]));
    assert!(stderr.contains("28 or 32") && stderr.contains("got 31"), "{stderr}");
    assert!(!folder.path().join("run").exists());
}

#[test]
fn cli_inspects_settings_and_says_what_cannot_be_built() {
    let folder = tempfile::tempdir().unwrap();
    let base = include_str!("../../diffusion/presets/small-multistage.toml");
    let inspect = |from: &str, to: &str| {
        std::fs::write(folder.path().join("my.toml"), base.replacen(from, to, 1)).unwrap();
        let mut command = strata(folder.path());
        command.args(["inspect", "my.toml"]);
        command
    };
    let shown = inspect("", "").output().unwrap();
    assert!(shown.status.success() && String::from_utf8_lossy(&shown.stdout).contains("decoder of stage 3"), "{shown:?}");
    for (from, to, parts) in [
        ("width = 32\nmult", "width = 33\nmult", &["`width`", "33"][..]),
        ("groups = 16", "groups = 5", &["32 channels", "5 groups"]),
        ("heads = { width = 32 }", "heads = { width = 7 }", &["heads", "7"]),
        ("[unet]", "boundaries = [5.0, 2.0]\n[unet]", &["boundaries", "2"]),
        ("[unet]", "boundaries = [5.0]\n[unet]", &["2 stages need 2 decoders", "[48, 32, 16]"]),
    ] {
        let stderr = refusal(&mut inspect(from, to));
        assert!(parts.iter().all(|part| stderr.contains(part)), "{to}: {stderr}");
    }
}

/// One chain for the refusals that need a trained autoencoder.
#[test]
fn cli_refuses_parts_that_do_not_belong_together() {
    let folder = folder_with_pictures();
    let root = folder.path();
    train_autoencoder(root, "one", "1").assert().success();
    train_autoencoder(root, "two", "2").assert().success();

    let before = contents(&root.join("one"));
    let stderr = refusal(&mut train_autoencoder(root, "one", "2"));
    assert!(stderr.contains("one") && stderr.contains("seed") && stderr.contains('1') && stderr.contains('2'), "{stderr}");
    assert_eq!(contents(&root.join("one")), before, "nothing overwritten");

    encode(root, "one", "latents").assert().success();
    let before = contents(&root.join("latents"));
    let stderr = refusal(&mut encode(root, "two", "latents"));
    assert!(stderr.contains("latents") && stderr.contains("autoencoder"), "{stderr}");
    assert_eq!(contents(&root.join("latents")), before, "nothing overwritten");

    let decode = ["decode", "latents", "--autoencoder", "two", "--out", "pixels"];
    let stderr = refusal(strata(root).args(decode));
    assert!(stderr.contains("sha256"), "{stderr}");
    let diffusion = ["train", "diffusion", "--latents", "latents", "--autoencoder", "two", "--out", "model"];
    let stderr = refusal(strata(root).args(diffusion));
    assert!(stderr.contains("sha256"), "{stderr}");
    assert!(!root.join("pixels").exists() && !root.join("model").exists());

    truncate_newest_model(&root.join("one"));
    let stderr = refusal(&mut encode(root, "one", "more"));
    assert!(stderr.contains("ema.safetensors") && stderr.contains("damaged"), "{stderr}");
}

/// Cuts the weights of the run's newest checkpoint short.
fn truncate_newest_model(run: &Path) {
    let mut checkpoints: Vec<PathBuf> =
        std::fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.sort();
    let newest = checkpoints.last().unwrap();
    for name in ["model.safetensors", "ema.safetensors"] {
        let path = newest.join(name);
        let data = std::fs::read(&path).unwrap();
        std::fs::write(&path, &data[..data.len() / 2]).unwrap();
    }
}

#[test]
fn cli_help_is_there_and_bad_usage_is_2() {
    let folder = tempfile::tempdir().unwrap();
    let help = strata(folder.path()).arg("--help").output().unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("demo"));
    assert_eq!(strata(folder.path()).arg("paint").output().unwrap().status.code(), Some(2));
}
