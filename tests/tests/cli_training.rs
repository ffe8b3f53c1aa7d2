//! `strata train diffusion`: the three systems go on bit for bit, share their work between processes, and end together.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::path::Path;

use common::{
    contents,
    ranks::{end, free_port, spawn},
    refusal,
    run::{kill_when, ok},
    strata,
};
use serde_json::Value;

/// What makes any network small. Dropout is on.
const SMALL: &[&str] = &[
    "--data",
    "emoji",
    "--size",
    "8",
    "--quiet",
    "--set",
    "conditioning=\"none\"",
    "--set",
    "pictures.flip=false",
    "--set",
    "lr_schedule={ kind = \"constant\" }",
    "--set",
    "unet.width=8",
    "--set",
    "unet.multipliers=[1,2]",
    "--set",
    "unet.blocks=1",
    "--set",
    "unet.attention=[]",
    "--set",
    "unet.heads={ count = 1 }",
    "--set",
    "unet.groups=4",
    "--set",
    "boundaries=[1.0]",
    "--set",
    "unet.decoders=[{ width = 8 }, { width = 8 }]",
    "--set",
    "log_every_images=8",
    "--set",
    "grid.count=0",
];

const LDM: &[&str] = &[
    "--set",
    "unet.family=\"ldm\"",
    "--set",
    "schedule={ kind = \"ldm\" }",
    "--set",
    "parametrization=\"eps\"",
    "--set",
    "noise={ kind = \"uniform-time\" }",
    "--set",
    "weighting=\"network\"",
    "--set",
    "loss=\"l1\"",
    "--set",
    "log_variance=\"per-step\"",
    "--set",
    "variational_weight=0.01",
    "--set",
    "ema={ kind = \"ldm-warmup\", decay = 0.999 }",
];

const EDM: &[&str] = &[
    "--set",
    "unet.family=\"song\"",
    "--set",
    "schedule={ kind = \"edm\", sigma_min = 0.002, sigma_max = 80.0 }",
    "--set",
    "parametrization={ f = { sigma_data = 0.5 } }",
    "--set",
    "noise={ kind = \"log-normal\", mean = -0.6, std = 1.6 }",
    "--set",
    "post_hoc={ widths = [0.05, 0.1], every_images = 24 }",
];

const SCORE_SDE: &[&str] = &[
    "--set",
    "unet.family=\"ncsnpp\"",
    "--set",
    "parametrization=\"eps\"",
    "--set",
    "noise={ kind = \"uniform-time\" }",
    "--set",
    "weighting=\"likelihood\"",
    "--set",
    "ema={ kind = \"constant\", decay = 0.99 }",
];

/// Dropout, augmentation (of which only EDM's networks are told), parts of a batch.
fn everything_on(system: &[&'static str]) -> Vec<&'static str> {
    let mut more = vec!["--set", "unet.dropout=0.1", "--batch", "8", "--set", "micro_batch=3"];
    if system[1].contains("song") {
        more.extend(["--set", "pictures.augment=0.3"]);
    } else {
        more.extend(["--set", "pictures.flip=true"]);
    }
    more
}

/// The log without what depends on the clock.
fn log(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("stats.jsonl")).unwrap();
    let mut records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &mut records {
        for key in ["seconds_per_step", "share_outside_network", "seconds_left", "images_per_second", "memory_bytes"] {
            assert!(record.as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
    }
    records
}

fn losses(run: &Path) -> Vec<f64> {
    log(run).iter().map(|r| r["loss"].as_f64().unwrap()).collect()
}

#[test]
fn cli_the_three_systems_go_on_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    for (name, system) in [("ldm", LDM), ("edm", EDM), ("sde", SCORE_SDE)] {
        let (straight, killed) = (format!("{name}-straight"), format!("{name}-killed"));
        let often = ["--images", "96", "--set", "save_every_images=16", "--set", "keep_best=true"];
        let hold = ["--set", "held_out_share=0.1", "--set", "evaluate_images=9"];
        let hold = if name == "sde" { &hold[..] } else { &[] };
        let args =
            |out| [&["train", "diffusion", "--out", out][..], SMALL, system, &everything_on(system), &often, hold].concat();
        ok(folder, &args(&straight), &[]);
        kill_when(folder, &args(&killed), &folder.join(&killed).join("checkpoints"), 1);
        ok(folder, &args(&killed), &[]);
        let [straight, killed] = [straight, killed].map(|run| folder.join(run));
        for part in ["checkpoints", "averages"] {
            if straight.join(part).exists() {
                let [a, b] =
                    [&straight, &killed].map(|run| contents(&run.join(part)).into_iter().map(|f| f.1).collect::<Vec<_>>());
                assert!(a == b, "{name}: {part} differ");
            }
        }
        assert_eq!(log(&straight), log(&killed), "{name}");
        let record = log(&straight).pop().unwrap();
        assert_eq!(record["seen_per_stage"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 96);
        assert!(record["unexplained_per_sigma"].as_object().unwrap().len() > 2 && record["flops"].as_f64().unwrap() > 1e6);
        let events = std::fs::read_dir(straight.join("events")).unwrap().count();
        assert!(events == 1 && std::fs::read_dir(killed.join("events")).unwrap().count() >= 1);
    }
    // Averages of any width, from those that were stored.
    let make = ["convert", "ema", "edm-straight", "averaged", "--sigma-rel", "0.08"];
    let (text, _) = ok(folder, &make, &[]);
    assert!(text.contains("at 96 images, from 8 stored ones"), "{text}");
    ok(folder, &["sample", "averaged", "--out", "drawn", "--seeds", "0", "--steps", "2", "--quiet"], &[]);
    assert!(refusal(strata(folder).args(make)).contains("exists already"));
    let none = ["convert", "ema", "ldm-straight", "other", "--sigma-rel", "0.08"];
    assert!(refusal(strata(folder).args(none)).contains("post_hoc.widths"));
}

#[test]
fn cli_the_best_on_what_is_held_out_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let hold = ["--set", "held_out_share=0.2", "--set", "evaluate_images=40", "--set", "keep_best=true"];
    // A rate so high that it gets worse in the end.
    let rates = ["--set", "optimizer.lr=3e-2", "--set", "lr_schedule={ kind = \"warmup\", warmup_images = 2000 }"];
    let often = ["--images", "320", "--batch", "8", "--set", "save_every_images=32", "--set", "keep_checkpoints=1"];
    let args =
        |out, more: &[&'static str]| [&["train", "diffusion", "--out", out][..], SMALL, LDM, &rates, &often, more].concat();
    ok(folder, &args("run", &hold), &[]);
    let records = log(&folder.join("run"));
    let rated: Vec<(u64, f64)> =
        records.iter().filter_map(|r| Some((r["seen_images"].as_u64().unwrap(), r["held_out_loss"].as_f64()?))).collect();
    assert!(rated.iter().map(|r| r.0).eq((1..=10).map(|n| 32 * n)), "{rated:?}");
    let best = rated.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    let kept = |run: &str| -> Vec<u64> {
        let folders = std::fs::read_dir(folder.join(run).join("checkpoints")).unwrap();
        let mut kept: Vec<u64> = folders.map(|f| f.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
        kept.sort_unstable();
        kept
    };
    let mut expected = vec![best, 320];
    expected.dedup();
    assert_eq!(kept("run"), expected, "{rated:?}");
    // What is held out is not trained on.
    ok(folder, &args("all", &[]), &[]);
    let first = |run: &str| log(&folder.join(run))[0]["loss"].clone();
    assert_ne!(first("run"), first("all"));
    assert!(log(&folder.join("all")).iter().all(|r| r.get("held_out_loss").is_none()));
    let refused = refusal(strata(folder).args(args("never", &["--set", "held_out_share=1.0"])));
    assert!(refused.contains("`held_out_share`: expected a share from 0 to below 1"), "{refused}");
}

#[test]
fn cli_a_multistage_network_begins_with_a_single_decoder_and_trains_one_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let single = ["--set", "boundaries=[]", "--set", "unet.decoders=[{ width = 8 }]", "--set", "grid.count=4"];
    let grid = ["--set", "grid.every_images=16", "--set", "grid.steps=2"];
    let short = ["--batch", "8", "--images", "32"];
    ok(folder, &[&["train", "diffusion", "--out", "single"][..], SMALL, EDM, &single, &grid, &short].concat(), &[]);
    for picture in ["loss.png", "samples/000000000016.png", "samples/000000000032.png"] {
        assert!(folder.join("single").join(picture).is_file(), "{picture}");
    }
    let warm = ["--warm-start", "single", "--stages", "2", "--freeze", "encoder"];
    let args = |out, more: &[&'static str]| [&["train", "diffusion", "--out", out][..], SMALL, EDM, &short, more].concat();
    let mut noisy = args("stage2", &warm);
    noisy.retain(|a| *a != "--quiet");
    let (_, stderr) = ok(folder, &noisy, &[]);
    assert!(stderr.contains("begins with") && stderr.contains("of decoder 2"), "{stderr}");
    let record = log(&folder.join("stage2")).pop().unwrap();
    assert_eq!(record["seen_per_stage"], serde_json::json!([0, 32]));
    let weights = |run: &str, file: &str| {
        let path = folder.join(run).join("checkpoints/000000000032").join(file);
        strata_nn::weights::load(&path, &candle_core::Device::Cpu).unwrap().tensors
    };
    let (before, after) = (weights("single", "ema.safetensors"), weights("stage2", "model.safetensors"));
    let value = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (name, t) in &after {
        let source = before.get(&name.replace("decoders.1.", "decoders.0.")).unwrap_or_else(|| panic!("{name}"));
        let trained = name.starts_with("unet.decoders.1.");
        assert_eq!(value(t) != value(source), trained, "{name}");
    }
    let wrong = ["--stages", "3"];
    assert!(refusal(strata(folder).args(args("wrong", &wrong))).contains("`train_stages`"));
    let wrong = ["--freeze", "encoders"];
    assert!(refusal(strata(folder).args(args("wrong-part", &wrong))).contains("`freeze`"));
}

#[test]
fn cli_two_processes_learn_as_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let steps = ["--batch", "8", "--images", "400", "--set", "save_every_images=200"];
    for (system, name) in [(EDM, "edm"), (LDM, "ldm")] {
        let (alone, shared) = (format!("{name}-alone"), format!("{name}-shared"));
        let args = |out| [&["train", "diffusion", "--out", out][..], SMALL, system, &steps].concat();
        ok(folder, &args(&alone), &[]);
        let port = free_port();
        for (ok, text) in [0, 1].map(|rank| spawn(folder, &args(&shared), rank, port)).map(end) {
            assert!(ok, "{text}");
        }
        let (one, two) = (losses(&folder.join(&alone)), losses(&folder.join(&shared)));
        assert_eq!(one.len(), 50);
        for (step, (a, b)) in one.iter().zip(&two).enumerate() {
            assert!((a - b).abs() < 1e-5 * a.abs().max(1.0), "{name}, step {step}: {a} and {b}");
        }
    }
    // Processes that were started differently do not begin.
    let port = free_port();
    let args = |more| [&["train", "diffusion", "--out", "never"][..], SMALL, EDM, &steps, more].concat();
    let ends = [spawn(folder, &args(&[]), 0, port), spawn(folder, &args(&["--seed", "5"]), 1, port)].map(end);
    assert!(ends.iter().all(|(ok, text)| !ok && text.contains("rank 1 was started with other settings")), "{ends:?}");
    assert!(!folder.join("never").exists());
    let odd = [&["train", "diffusion", "--out", "odd"][..], SMALL, EDM, &["--batch", "7", "--images", "14"]].concat();
    let port = free_port();
    let ends = [0, 1].map(|rank| spawn(folder, &odd, rank, port)).map(end);
    assert!(ends.iter().all(|(ok, text)| !ok && text.contains("multiple of the 2 processes")), "{ends:?}");
}

#[test]
fn cli_the_end_of_one_process_ends_the_other_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let endless = ["--batch", "8", "--images", "100000000", "--set", "save_every_images=64"];
    for dead in [0, 1] {
        let out = format!("run{dead}");
        let args = [&["train", "diffusion", "--out", &out][..], SMALL, EDM, &endless].concat();
        let port = free_port();
        let [mut first, mut second] = [0, 1].map(|rank| spawn(folder, &args, rank, port));
        let checkpoints = folder.join(&out).join("checkpoints");
        while std::fs::read_dir(&checkpoints).map_or(0, Iterator::count) == 0 {
            assert!(first.try_wait().unwrap().is_none() && second.try_wait().unwrap().is_none());
            std::thread::yield_now();
        }
        let (mut killed, left) = if dead == 0 { (first, second) } else { (second, first) };
        killed.kill().unwrap();
        killed.wait().unwrap();
        let (success, text) = end(left);
        assert!(!success && text.contains(&format!("rank {dead} of 2 ended")), "{text}");
    }
}
