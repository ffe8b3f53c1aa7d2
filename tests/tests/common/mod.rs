//! The binary under test, and small folders of pictures for it.

// Every test binary uses its part of this.
#![allow(dead_code)]

pub mod hub;
pub mod ranks;
pub mod run;
pub mod tiles;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A small autoencoder, so that a few steps take a moment.
pub const SMALL_AUTOENCODER: [&str; 12] = [
    "--set",
    "model.channels=[8, 16]",
    "--set",
    "model.norm_groups=4",
    "--set",
    "model.latent_channels=2",
    "--set",
    "warmup_images=4",
    "--batch",
    "4",
    "--images",
    "16",
];

/// The binary: built once, in the profile and the target directory of the running test.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let folder = test.ancestors().nth(2).unwrap();
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            name => name,
        };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "strata-cli", "--profile", profile, "--target-dir"]);
        cargo.arg(folder.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(cargo.status().unwrap().success(), "the binary cannot be built");
        folder.join(format!("strata{}", std::env::consts::EXE_SUFFIX))
    })
}

/// `strata`, run in `folder`.
pub fn strata(folder: &Path) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(binary());
    command.current_dir(folder).timeout(std::time::Duration::from_secs(300));
    command.env("XDG_CACHE_HOME", cache(folder));
    command
}

/// What is kept for the next time stays in the test's folder.
pub fn cache(folder: &Path) -> PathBuf {
    folder.join("cache")
}

/// Writes `n` pictures of mixed sizes into `folder`, alternately PNG and JPEG.
pub fn pictures(folder: &Path, n: u32) {
    std::fs::create_dir_all(folder).unwrap();
    for i in 0..n {
        let (width, height) = (24 + 5 * (i % 7), 20 + 3 * (i % 5));
        let color = |x: u32, y: u32| image::Rgb([(40 * i + 5 * x) as u8, (7 * y + 90 * i) as u8, (3 * x * y) as u8]);
        let name = format!("{i:03}.{}", if i % 2 == 0 { "png" } else { "jpg" });
        image::RgbImage::from_fn(width, height, color).save(folder.join(name)).unwrap();
    }
}

/// What the command printed to stderr, after it failed with exit code 1.
pub fn refusal(command: &mut assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "stdout: {}\nstderr: {stderr}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.contains("error: "), "{stderr}");
    stderr
}

/// Every file below `folder` with the hash of its contents, to see that nothing was changed. The lock of a run directory is left
/// out: it names the process that looked at it last.
pub fn contents(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else if path.file_name().unwrap() != "lock" {
            let mut hasher = DefaultHasher::new();
            std::fs::read(&path).unwrap().hash(&mut hasher);
            files.push((path, hasher.finish()));
        }
    }
    files.sort();
    files
}
