//! `strata stages`: every method and schedule, what is written, and what it says to data and settings that have no division.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{pictures, refusal, strata};

/// `strata stages` on the emoji at 8 pixels, a few samples.
fn emoji(folder: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = strata(folder);
    command.args(["stages", "--data", "emoji", "--size", "8", "--samples", "120", "--levels", "12", "--quiet"]).args(more);
    command
}

fn answer(mut command: assert_cmd::Command) -> serde_json::Value {
    let output = command.arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn cli_stages_writes_boundaries_and_pictures_once() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let first = answer(emoji(folder, &["--out", "new/stages.toml"]));
    assert_eq!(first["stages"].as_array().unwrap().len(), 3);
    assert!(first["stages"][0]["interval_t"][0].as_f64().unwrap() < first["stages"][0]["interval_t"][1].as_f64().unwrap());
    for picture in ["new/stages.png", "new/stages.similarity.png"] {
        assert!(image::open(folder.join(picture)).unwrap().width() > 500, "{picture}");
    }
    let written = std::fs::read(folder.join("new/stages.toml")).unwrap();
    assert_eq!(answer(emoji(folder, &["--out", "new/stages.toml"])), first);
    for other in [["--alpha", "0.8"], ["--eta", "0.01"], ["--method", "similarity"], ["--settled", "0.1"], ["--seed", "4"]] {
        let stderr = refusal(emoji(folder, &["--out", "new/stages.toml"]).args(other));
        assert!(stderr.contains("new/stages.toml") && stderr.contains("hint: "), "{stderr}");
    }
    assert_eq!(std::fs::read(folder.join("new/stages.toml")).unwrap(), written);
}

#[test]
fn cli_stages_by_every_method_and_schedule() {
    let dir = tempfile::tempdir().unwrap();
    for schedule in ["vp", "sub-vp", "ve", "edm", "ldm", "{ kind = \"edm\", sigma_min = 0.01, sigma_max = 60.0 }"] {
        let found = answer(emoji(dir.path(), &["--schedule", schedule, "--alpha", "0.8", "--out", &format!("{schedule}.toml")]));
        assert_eq!(found["stages"].as_array().unwrap().len(), 3, "{schedule}");
    }
    for (method, stages) in [
        ("algorithm1", "3"),
        ("similarity", "3"),
        ("similarity", "5"),
        ("uniform", "4"),
        ("log-snr", "3"),
        ("uniform-log-snr", "2"),
    ] {
        let found =
            answer(emoji(dir.path(), &["--method", method, "--stages", stages, "--out", &format!("{method}{stages}.toml")]));
        assert_eq!(found["file"]["method"], method);
        assert_eq!(found["stages"].as_array().unwrap().len().to_string(), stages, "{method}");
    }
}

#[test]
fn cli_stages_recommends_decoders_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for budget in ["0.6", "0.9"] {
        let found = answer(emoji(dir.path(), &["--out", "stages.toml", "--budget", budget, "--preset", "emoji-64"]));
        let cost = found["decoders"]["average_cost"].as_f64().unwrap();
        let budget: f64 = budget.parse().unwrap();
        assert!(cost <= budget && cost > 0.7 * budget, "{cost}");
        let widths: Vec<u64> =
            found["decoders"]["stages"].as_array().unwrap().iter().map(|s| s["width"].as_u64().unwrap()).collect();
        assert!(widths[0] > widths[1] && widths[1] >= widths[2] && widths[0] > last, "{widths:?}");
        last = widths[0];
    }
    let text = emoji(dir.path(), &["--out", "stages.toml", "--budget", "0.9", "--preset", "emoji-64"]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("decoder width") && text.contains("--set 'unet.decoders=[{ width = "), "{text}");
    let stderr = refusal(&mut emoji(dir.path(), &["--out", "stages.toml", "--budget", "0.9", "--preset", "none"]));
    assert!(stderr.contains("`none`") && stderr.contains("emoji-64"), "{stderr}");
    let stderr = refusal(&mut emoji(dir.path(), &["--out", "stages.toml", "--budget", "0", "--preset", "emoji-64"]));
    assert!(stderr.contains("budget"), "{stderr}");
}

#[test]
fn cli_stages_explains_settings_without_a_division() {
    let dir = tempfile::tempdir().unwrap();
    for (options, words) in [
        (["--alpha", "1", "--eta", "1e-300"].as_slice(), ["the highest is", "Lower alpha"].as_slice()),
        (&["--alpha", "0.02"], &["nothing is left for stage 2", "Raise alpha"]),
        (&["--alpha", "1.5"], &["`alpha` is 1.5"]),
        (&["--stages", "13"], &["13 stages cannot be cut from a grid of 12 levels"]),
        (&["--stages", "4", "--method", "algorithm1"], &["3 stages, not 4", "similarity"]),
        (&["--stages", "1"], &["at least 2"]),
        (&["--samples", "3"], &["`samples` is 3"]),
        (&["--method", "guess"], &["algorithm1", "gradient-affinity", "`guess`"]),
        (&["--schedule", "cosine"], &["vp", "edm", "ldm", "`cosine`"]),
        (&["--method", "gradient-affinity"], &["gradients of a trained network", "--checkpoint"]),
        (&["--method", "gradient-affinity", "--checkpoint", "run"], &["--latents"]),
        (&["--checkpoint", "run"], &["gradient-affinity"]),
    ] {
        let mut command = strata(dir.path());
        command.args(["stages", "--data", "emoji", "--size", "8", "--quiet", "--out", "s.toml"]).args(options);
        for (option, value) in [("--samples", "120"), ("--levels", "12")] {
            if !options.contains(&option) {
                command.args([option, value]);
            }
        }
        let stderr = refusal(&mut command);
        assert!(words.iter().all(|w| stderr.contains(w)), "{options:?}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is written");
}

#[test]
fn cli_stages_explains_degenerate_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    pictures(&folder.join("one"), 1);
    pictures(&folder.join("mixed"), 6);
    std::fs::create_dir(folder.join("equal")).unwrap();
    for i in 0..3 {
        std::fs::copy(folder.join("one/000.png"), folder.join(format!("equal/{i}.png"))).unwrap();
    }
    std::fs::copy(folder.join("mixed/000.png"), folder.join("mixed/again.png")).unwrap();
    let run = |data: &str| {
        let mut command = strata(folder);
        command.args(["stages", "--data", data, "--size", "8", "--samples", "60", "--out", "stages.toml"]);
        command
    };
    assert!(refusal(&mut run("one")).contains("a single point"));
    assert!(refusal(&mut run("equal")).contains("all 3 points of the data set are equal"));
    let output = run("mixed").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("1 of 7 points are duplicates"), "{stderr}");
}
