//! `strata eval` of models: samples drawn on the way, sweeps, efficiency, reconstructions, latents.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::Write,
    path::Path,
    sync::{Arc, OnceLock},
};

use common::{
    refusal,
    run::{SMALL_AUTOENCODER, kill_once, ok},
    strata,
    tiles::tiles,
};
use serde_json::Value;

/// Tiles, an extractor, and a run `run` on their pixels: three stages, checkpoints at 24, 48 and 60 images, averages from which others
/// can be made.
fn root() -> Arc<tempfile::TempDir> {
    static ROOT: OnceLock<Arc<tempfile::TempDir>> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        tiles(dir.path());
        let train = ["train", "diffusion", "--data", "data", "--out", "run", "--preset", "emoji-32-edm-multistage"];
        let small = [
            ["--size", "16"],
            ["--batch", "4"],
            ["--images", "60"],
            ["--set", "unet.width=8"],
            ["--set", "unet.multipliers=[1,2]"],
            ["--set", "unet.groups=4"],
            ["--set", "unet.decoders=[{ width = 16, attention = [1] }, { width = 8 }, { width = 8 }]"],
            ["--set", "boundaries=[0.3,3.0]"],
            ["--set", "save_every_images=24"],
            ["--set", "keep_checkpoints=3"],
            ["--set", "log_every_images=20"],
            ["--set", "post_hoc={ widths = [0.05, 0.1], every_images = 12 }"],
        ];
        ok(dir.path(), &train, &[&small.concat()[..], &["--quiet"]].concat());
        Arc::new(dir)
    };
    ROOT.get_or_init(make).clone()
}

const NETWORK: [&str; 2] = ["--extractor", "e.safetensors"];
const REFERENCE: [&str; 2] = ["--reference", "data"];

fn json(folder: &Path, args: &[&str]) -> (Value, String) {
    let (stdout, stderr) = ok(folder, &[&["eval"], args, &NETWORK, &["--json"]].concat(), &[]);
    (serde_json::from_str(&stdout).unwrap(), stderr)
}

fn cells(answer: &Value) -> Vec<(String, u64, f64)> {
    let cell = |c: &Value| {
        let name = format!("{} {}", c["ema"].as_str().unwrap(), c["sampler"].as_str().unwrap_or_default());
        (name, c["steps"].as_u64().unwrap(), c["frechet_distance"].as_f64().unwrap())
    };
    answer["cells"].as_array().unwrap().iter().map(cell).collect()
}

#[test]
fn cli_eval_sweep_goes_on_where_it_was_killed() {
    let root = root();
    let folder = root.path();
    let grid = [
        "sweep",
        "--run",
        "run",
        "--num",
        "8",
        "--steps",
        "2,3",
        "--sampler",
        "euler,heun",
        "--guidance",
        "1,2",
        "--ema",
        "kept,none,0.2",
    ];
    let args = |out| [&grid[..], &REFERENCE, &["--class", "all", "--out", out]].concat();
    let (whole, stderr) = json(folder, &args("whole"));
    assert_eq!(cells(&whole).len(), 24);
    assert_eq!(stderr.lines().filter(|line| line.starts_with("sampling: 8 images")).count(), 24, "{stderr}");
    // Killed in the middle, with half a line at the end.
    let killed: Vec<&str> = [&["eval"], &args("killed")[..], &NETWORK, &["--quiet"]].concat();
    let log = folder.join("killed/cells.jsonl");
    let whole_lines = || std::fs::read_to_string(&log).map_or(0, |text| text.matches('\n').count());
    kill_once(folder, &killed, || whole_lines() > 2);
    let kept = whole_lines();
    let mut file = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(b"{\"key\":{\"sam").unwrap();
    let (resumed, stderr) = json(folder, &args("killed"));
    assert_eq!(cells(&resumed), cells(&whole));
    assert_eq!(stderr.lines().filter(|line| line.starts_with("sampling: 8 images")).count(), 24 - kept, "{stderr}");
    // All is there: nothing is drawn, and a larger sweep draws what it adds.
    let more = args("killed").iter().map(|a| if *a == "2,3" { "2,3,4" } else { a }).collect::<Vec<_>>();
    let (_, stderr) = json(folder, &more);
    assert_eq!(stderr.lines().filter(|line| line.starts_with("sampling: 8 images")).count(), 12, "{stderr}");
    let csv = std::fs::read_to_string(folder.join("killed/sweep.csv")).unwrap();
    assert!(csv.starts_with("run,images,ema,sampler,guidance,steps,evaluations,gflops,frechet_distance\n"), "{csv}");
    assert_eq!(csv.lines().count(), 37);
    assert!(image::open(folder.join("killed/sweep.png")).unwrap().width() > 500);
    // Weights and averages of other lengths are other models; guidance evaluates twice.
    let distances: Vec<f64> = cells(&whole).iter().map(|c| c.2).collect();
    assert!(distances[0] != distances[8] && distances[0] != distances[16] && distances[8] != distances[16], "{distances:?}");
    let evaluations = |i: usize| whole["cells"][i]["evaluations_per_image"].as_f64().unwrap();
    assert_eq!([evaluations(0), evaluations(1), evaluations(2)], [2.0, 3.0, 4.0]);
    assert_eq!(whole["network"]["network"], "strata-extractor-1");
}

#[test]
fn cli_eval_sweep_explains_what_cannot_be() {
    let root = root();
    let folder = root.path();
    let refused = |more: &[&str]| {
        let base = ["eval", "sweep", "--run", "run", "--num", "4", "--out", "none"];
        refusal(strata(folder).args(base).args(NETWORK).args(more))
    };
    assert!(refused(&[&REFERENCE[..], &["--sampler", "eular"]].concat()).contains("did you mean `euler`"));
    assert!(refused(&[&REFERENCE[..], &["--checkpoint", "7"]].concat()).contains("it has 24, 48, 60"));
    assert!(refused(&[&REFERENCE[..], &["--ema", "0.5"]].concat()).contains("at most 0.3002"));
    assert!(refused(&[]).contains("--reference"));
    let foreign = [&REFERENCE[..], &["--out", "data"]].concat();
    let base = ["eval", "sweep", "--run", "run", "--num", "4"];
    assert!(refusal(strata(folder).args(base).args(NETWORK).args(foreign)).contains("holds no measurements"));
}

#[test]
fn cli_eval_efficiency_counts_training_and_sampling() {
    let root = root();
    let folder = root.path();
    let args = ["efficiency", "--run", "run", "--num", "6", "--steps", "2,4", "--sampler", "euler", "--out", "efficiency"];
    let (answer, _) = json(folder, &[&args[..], &REFERENCE].concat());
    let points = answer["points"].as_array().unwrap();
    // Two earlier checkpoints at 4 steps, the last at 2 and 4.
    let steps: Vec<(u64, u64)> =
        points.iter().map(|p| (p["seen_images"].as_u64().unwrap(), p["steps"].as_u64().unwrap())).collect();
    assert_eq!(steps, [(24, 4), (48, 4), (60, 2), (60, 4)]);
    let (shown, _) = ok(folder, &["inspect", "run", "--json"], &[]);
    let _: Value = serde_json::from_str(&shown).unwrap();
    let mut before = vec![0; 3];
    for point in points {
        let training = &point["training"];
        let stages: Vec<u64> = training["images_per_stage"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let seen = point["seen_images"].as_u64().unwrap();
        assert_eq!(stages.iter().sum::<u64>(), seen);
        assert_eq!(training["steps"].as_u64().unwrap() * 4, seen);
        assert!(stages.iter().zip(&before).all(|(now, before)| now >= before));
        before = stages;
        // Forward and twice as much backward, two operations to a multiply-accumulate.
        let (pflops, macs) = (point["training_pflops"].as_f64().unwrap(), training["forward_macs"].as_f64().unwrap());
        assert!((pflops * 1e15 / (6.0 * macs) - 1.0).abs() < 1e-9);
    }
    let gflops = |i: usize| points[i]["gflops_per_image"].as_f64().unwrap();
    assert_eq!(points[3]["evaluations_per_image"].as_f64(), Some(4.0));
    assert!(gflops(3) > 1.5 * gflops(2) && gflops(0) == gflops(3));
    let csv = std::fs::read_to_string(folder.join("efficiency/efficiency.csv")).unwrap();
    assert!(
        csv.starts_with("run,iterations,images,training_pflops,steps,evaluations,gflops,frechet_distance\nrun,6,24,"),
        "{csv}"
    );
    for plot in ["training.png", "sampling.png"] {
        assert!(image::open(folder.join("efficiency").join(plot)).unwrap().width() > 500);
    }
    // A log that lacks a line does not count what was trained.
    let copy = folder.join("torn");
    for entry in common::contents(&folder.join("run")) {
        let to = copy.join(entry.0.strip_prefix(folder.join("run")).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(&entry.0, to).unwrap();
    }
    let log = std::fs::read_to_string(copy.join("stats.jsonl")).unwrap();
    std::fs::write(copy.join("stats.jsonl"), log.lines().skip(1).map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    let torn = ["eval", "efficiency", "--run", "torn", "--num", "4", "--out", "none"];
    let message = refusal(strata(folder).args(torn).args(NETWORK).args(REFERENCE));
    assert!(message.contains("of the 24 samples seen"), "{message}");
}

#[test]
fn cli_eval_draws_what_it_measures() {
    let root = root();
    let folder = root.path();
    let args = ["fd", "--run", "run", "--num", "12", "--steps", "3", "--repeats", "3", "--batch", "5"];
    let (answer, stderr) = json(folder, &[&args[..], &REFERENCE, &["--seed", "5"]].concat());
    let repeats = answer["repeats"].as_array().unwrap();
    let values: Vec<f64> = repeats.iter().map(|r| r["frechet_distance"]["value"].as_f64().unwrap()).collect();
    let seeds: Vec<&Value> = repeats.iter().map(|r| &r["samples"]["seeds"]).collect();
    assert_eq!(seeds, [&serde_json::json!([0, 12]), &serde_json::json!([12, 24]), &serde_json::json!([24, 36])]);
    let over = &answer["over_repeats"]["frechet_distance"];
    let (min, mean) = (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().sum::<f64>() / 3.0);
    assert!(over["min"].as_f64() == Some(min) && (over["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert!(values[0] != values[1] && stderr.contains("12 samples: a Fréchet distance is too high"));
    assert_eq!((&answer["constants"]["seed"], &repeats[0]["samples"]["steps"]), (&5.into(), &3.into()));
    // The same pictures from files: the third block of seeds.
    ok(folder, &["sample", "run", "--out", "drawn", "--seeds", "24-35", "--steps", "3", "--batch", "4", "--npz", "--quiet"], &[]);
    let (files, _) = json(folder, &[&["fd", "--samples", "drawn/samples.npz"], &REFERENCE[..]].concat());
    let distance = files["frechet_distance"]["value"].as_f64().unwrap();
    assert!((distance / values[2] - 1.0).abs() < 1e-6, "{distance} {values:?}");
}

#[test]
fn cli_eval_reconstruction_has_a_distance() {
    let root = root();
    let folder = root.path();
    let train = ["train", "autoencoder", "--data", "data", "--out", "autoencoder", "--size", "16"];
    ok(folder, &train, &[SMALL_AUTOENCODER, &["--images", "64", "--quiet"]].concat());
    let args = ["eval", "reconstruction", "--autoencoder", "autoencoder", "--data", "data", "--json"];
    let (stdout, stderr) = ok(folder, &args, &[]);
    assert!(stderr.contains("rFID is left out") && !stdout.contains("frechet"), "{stderr} {stdout}");
    let measured = |more: &[&str]| -> Value {
        let (stdout, _) = ok(folder, &[&args[..], &NETWORK, more].concat(), &[]);
        serde_json::from_str(&stdout).unwrap()
    };
    let all = measured(&[]);
    let distance = all["frechet_distance"]["distance"].as_f64().unwrap();
    assert!(distance > 0.0 && all.get("rfid").is_none() && all["images"] == 80, "{all}");
    // It is the distance between the files: the pictures themselves, and what the decoder makes of their latents.
    ok(folder, &["encode", "--autoencoder", "autoencoder", "--data", "data", "--out", "latents", "--quiet"], &[]);
    ok(folder, &["decode", "latents", "--out", "decoded", "--quiet"], &[]);
    let (files, _) = json(folder, &[&["fd", "--samples", "decoded"], &REFERENCE[..]].concat());
    let of_files = files["frechet_distance"]["value"].as_f64().unwrap();
    assert!((distance / of_files - 1.0).abs() < 1e-6, "{distance} {of_files}");
    // Latents are decoded on the way, on either side.
    let (latents, _) = json(folder, &[&["fd", "--samples", "latents"], &REFERENCE[..]].concat());
    let of_latents = latents["frechet_distance"]["value"].as_f64().unwrap();
    assert!((of_latents / of_files - 1.0).abs() < 1e-4, "{of_latents} {of_files}");
    let (same, _) = json(folder, &["fd", "--samples", "latents", "--reference", "latents"]);
    assert!(same["frechet_distance"]["value"].as_f64().unwrap().abs() < 1e-6 * of_files.max(1.0), "{same}");
    // Only one split, where that is asked for; a batch does not change the number.
    let again = measured(&["--batch", "7"])["frechet_distance"]["distance"].as_f64().unwrap();
    assert!((again / distance - 1.0).abs() < 1e-4, "{again} {distance}");
}
