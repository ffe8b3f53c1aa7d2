//! Every command of README.md, run in its order on a small folder. Trainings are cut short; nothing else is changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{pictures, strata};

/// The indented lines that begin with `strata` or `cargo run --release --`, as arguments of the binary.
fn commands(readme: &str) -> Vec<Vec<String>> {
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    "));
    let of_ours = lines.filter_map(|line| line.strip_prefix("strata ").or(line.strip_prefix("cargo run --release -- ")));
    of_ours.map(|line| line.split_whitespace().map(str::to_string).collect()).collect()
}

/// What makes a command short enough for a test.
fn cut(args: &[String]) -> &'static [&'static str] {
    match (args[0].as_str(), args.get(1).map(String::as_str)) {
        ("demo", _) => &["--minutes", "0.02"],
        ("train", Some("autoencoder")) => &["--images", "32", "--batch", "8"],
        ("train", Some("diffusion")) => &["--images", "16", "--batch", "8"],
        ("eval", Some("train-extractor")) => &["--images", "128"],
        ("sample", _) => &["--seeds", "0-3"],
        _ => &[],
    }
}

/// The arguments with `more` in place of options that they give already.
fn replaced(args: &[String], more: &[&str]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut i = 0;
    while i < args.len() {
        if args[i].starts_with("--") && more.contains(&args[i].as_str()) {
            i += 2;
        } else {
            kept.push(args[i].clone());
            i += 1;
        }
    }
    kept.extend(more.iter().map(ToString::to_string));
    kept
}

#[test]
fn readme_commands_run() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let commands = commands(&readme);
    assert!(commands.len() >= 15, "{commands:?}");
    assert_eq!(commands[0], ["demo"]);
    assert!(readme.contains("\n    cargo test --release --workspace\n"));
    let dir = tempfile::tempdir().unwrap();
    pictures(&dir.path().join("photos/one"), 24);
    pictures(&dir.path().join("photos/two"), 24);
    for command in commands {
        let args = replaced(&command, cut(&command));
        let output = strata(dir.path()).args(&args).output().unwrap();
        assert!(output.status.success(), "strata {}\n{}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    for picture in ["reconstructions.png", "samples.png", "samples-by-class.png", "training.png", "report.html"] {
        assert!(dir.path().join("strata-demo").join(picture).is_file(), "{picture}");
    }
}
