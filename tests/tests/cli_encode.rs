//! Encoding that is killed, or shared by processes, yields the same bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    path::Path,
    process::{Child, Command, Stdio},
};

use common::{SMALL_AUTOENCODER, binary, contents, pictures, strata};

const ENCODE: [&str; 14] = [
    "encode",
    "--autoencoder",
    "autoencoder",
    "--data",
    "data",
    "--shard-images",
    "16",
    "--batch",
    "4",
    "--size",
    "32",
    "--flip",
    "--quiet",
    "--out",
];

fn prepare(folder: &Path) {
    pictures(&folder.join("data"), 150);
    std::fs::write(folder.join("data/017.png"), "no picture").unwrap();
    std::fs::write(folder.join("data/018.txt"), "a caption").unwrap();
    let train = ["train", "autoencoder", "--data", "data", "--size", "32", "--out", "autoencoder", "--quiet"];
    strata(folder).args(train).args(SMALL_AUTOENCODER).assert().success();
    strata(folder).args(ENCODE).arg("straight").assert().success();
}

fn spawn(folder: &Path, out: &str, variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(binary());
    command.args(ENCODE).arg(out).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command.envs(variables.iter().copied()).spawn().unwrap()
}

fn assert_same(folder: &Path, out: &str) {
    let files = |name: &str| {
        let root = folder.join(name);
        contents(&root)
            .into_iter()
            .map(|(path, hash)| (path.strip_prefix(&root).unwrap().to_path_buf(), hash))
            .collect::<Vec<_>>()
    };
    assert_eq!(files("straight"), files(out));
}

#[test]
fn cli_encode_killed_at_ten_random_moments_yields_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    prepare(folder);
    let mut random = 12345u64;
    let mut unfinished = 0;
    for _ in 0..10 {
        let mut child = spawn(folder, "killed", &[]);
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Looks at the folder so many times: a moment that nothing in the program knows.
        for _ in 0..random >> 50 {
            std::hint::black_box(std::fs::read_dir(folder.join("killed")).map_or(0, Iterator::count));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        unfinished += usize::from(!folder.join("killed/manifest.json").exists());
    }
    assert!(unfinished > 0, "every run ended before it was killed");
    strata(folder).args(ENCODE).arg("killed").assert().success();
    assert_same(folder, "killed");
}

#[test]
fn cli_encode_by_three_processes_yields_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    prepare(folder);
    let rank = |rank: &str| spawn(folder, "shared", &[("RANK", rank), ("WORLD_SIZE", "3")]);
    let children: Vec<Child> = ["0", "1", "2"].into_iter().map(rank).collect();
    assert!(children.into_iter().all(|mut child| child.wait().unwrap().success()));
    assert_same(folder, "shared");
    // One of two is lost; the same command completes what it left.
    let lone = spawn(folder, "lost", &[("RANK", "1"), ("WORLD_SIZE", "2")]).wait().unwrap();
    assert!(lone.success() && !folder.join("lost/manifest.json").exists());
    strata(folder).args(ENCODE).arg("lost").assert().success();
    assert_same(folder, "lost");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("lost/manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["count"], &manifest["left_out"]), (&300.into(), &1.into()));
}
