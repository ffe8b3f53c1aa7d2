//! The run directory: creation, refusal, checkpoints, damage, the log.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use serde_json::json;
use strata_training::{
    CheckpointParts, Error, RunDir,
    checkpoint::{Part, read_part, recorded_sha256},
    run::{Damaged, Keep, read_info, read_stats},
    sha256_file,
};
use toml::Table;

fn config() -> Table {
    "batch = 16\nlr = 1e-4\nimages = 100\n[model]\nchannels = [1, 2]\n".parse().unwrap()
}

fn parts(value: f32) -> CheckpointParts {
    let tensor = |scale: f32| vec![("w".to_string(), Tensor::new(&[value * scale; 100], &Device::Cpu).unwrap())];
    CheckpointParts {
        model: tensor(1.0),
        ema: tensor(2.0),
        optimizer: tensor(3.0),
        state: json!({ "value": value }),
        metadata: [("config".to_string(), "{}".to_string())].into(),
        metric: None,
    }
}

fn open(path: &Path) -> Result<RunDir, Error> {
    RunDir::open(path, "autoencoder", &config())
}

fn first_of(tensors: &[(String, Tensor)]) -> f32 {
    tensors[0].1.to_vec1::<f32>().unwrap()[0]
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file below, with its content.
fn snapshot(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for name in names(path) {
        let entry = path.join(name);
        if entry.is_dir() { all.extend(snapshot(&entry)) } else { all.push((entry.clone(), fs::read(&entry).unwrap())) }
    }
    all
}

#[test]
fn a_fresh_directory_and_its_continuation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/run");
    let mut run = open(&path).unwrap();
    assert!(run.resume(&Device::Cpu, Damaged::Refuse).unwrap().is_none());
    let saved = run.save(64, &parts(1.0)).unwrap();
    assert!(saved.ends_with("checkpoints/000000000064"));
    assert_eq!(names(&saved), ["ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]);
    assert_eq!(names(&path), ["checkpoints", "config.toml", "lock", "run.toml", "samples", "stats.jsonl"]);
    drop(run);

    let mut run = open(&path).unwrap();
    let (seen_images, loaded) = run.resume(&Device::Cpu, Damaged::Refuse).unwrap().unwrap();
    assert_eq!((seen_images, loaded.state, loaded.metadata["config"].as_str()), (64, json!({ "value": 1.0 }), "{}"));
    assert_eq!([&loaded.model, &loaded.ema, &loaded.optimizer].map(|t| first_of(t)), [1.0, 2.0, 3.0]);
    let info = read_info(&path).unwrap();
    assert_eq!((info.kind.as_str(), info.config), ("autoencoder", config()));
    let ema = read_part(&saved, Part::Ema, &Device::Cpu).unwrap();
    assert_eq!(ema.metadata["config"], "{}");
    assert_eq!(recorded_sha256(&saved, Part::Ema).unwrap(), Some(sha256_file(saved.join("ema.safetensors")).unwrap()));
}

#[test]
fn empty_parts_have_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let run = open(dir.path()).unwrap();
    let saved = run.save(1, &CheckpointParts { ema: vec![], optimizer: vec![], ..parts(1.0) }).unwrap();
    assert_eq!(names(&saved), ["model.safetensors", "state.json"]);
    assert!(run.load(&saved, &Device::Cpu).unwrap().ema.is_empty());
    let message = read_part(&saved, Part::Ema, &Device::Cpu).unwrap_err().to_string();
    assert!(message.contains("saved without it"), "{message}");
}

#[test]
fn another_configuration_or_kind_is_refused_and_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let before = snapshot(dir.path());
    let other: Table = "batch = 16\nlr = 2e-4\nimages = 100\n[model]\nchannels = [1, 2, 3]\n".parse().unwrap();
    let message = RunDir::open(dir.path(), "autoencoder", &other).unwrap_err().to_string();
    assert!(message.contains("`lr` is 0.0001 there, but 0.0002 was asked for"), "{message}");
    let longer: Table = "batch = 16\nlr = 1e-4\n[model]\nchannels = [1, 2]\n".parse().unwrap();
    let message = RunDir::open(dir.path(), "autoencoder", &longer).unwrap_err().to_string();
    assert!(message.contains("`images` is 100 there, but nothing was asked for"), "{message}");
    let message = RunDir::open(dir.path(), "diffusion", &config()).unwrap_err().to_string();
    assert!(message.contains("is a run of `autoencoder`, not of `diffusion`"), "{message}");
    let after: Vec<_> = snapshot(dir.path()).into_iter().filter(|(p, _)| !p.ends_with("lock")).collect();
    assert_eq!(before.into_iter().filter(|(p, _)| !p.ends_with("lock")).collect::<Vec<_>>(), after);

    drop(RunDir::open_changing(dir.path(), "autoencoder", &longer, &["images"]).unwrap());
    assert_eq!(read_info(dir.path()).unwrap().config, longer);
}

#[test]
fn foreign_and_unwritable_places_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.txt"), "x").unwrap();
    let message = open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("thesis.txt") && message.contains("not a run directory"), "{message}");
    assert_eq!(names(dir.path()), ["thesis.txt"]);
    let message = open(&dir.path().join("thesis.txt/run")).unwrap_err().to_string();
    assert!(message.contains("thesis.txt") && message.contains("choose another"), "{message}");
    let message = read_info(dir.path()).unwrap_err().to_string();
    assert!(message.contains("not a run directory"), "{message}");
}

#[test]
fn a_creation_that_was_killed_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lock"), "1").unwrap();
    fs::write(dir.path().join(".tmpAb12"), "half").unwrap();
    drop(open(dir.path()).unwrap());
    fs::remove_file(dir.path().join("config.toml")).unwrap();
    drop(open(dir.path()).unwrap());
    assert_eq!(read_info(dir.path()).unwrap().config, config());
    assert!(!dir.path().join(".tmpAb12").exists());
}

#[test]
fn two_processes_cannot_train_in_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let run = open(dir.path()).unwrap();
    let message = open(dir.path()).unwrap_err().to_string();
    assert!(message.contains(&format!("another process (pid {})", std::process::id())), "{message}");
    drop(run);
    open(dir.path()).unwrap();
}

#[test]
fn the_last_checkpoints_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = open(dir.path()).unwrap();
    run.set_keep(Keep { last: 2, every_images: 100, best: false }).unwrap();
    for seen_images in [30, 60, 90, 120, 150, 180, 210, 240] {
        run.save(seen_images, &parts(1.0)).unwrap();
    }
    let kept: Vec<u64> = run.checkpoints().into_iter().map(|c| c.0).collect();
    assert_eq!(kept, [120, 210, 240]);
    assert_eq!(names(&dir.path().join("checkpoints")).len(), 3);
    assert!(run.set_keep(Keep { last: 0, ..Keep::default() }).is_err());
    // The best one stays as well, however old it is.
    run.set_keep(Keep { last: 1, every_images: 0, best: true }).unwrap();
    for (seen, metric) in [(500, 2.0), (600, 1.0), (700, f64::NAN), (800, 3.0)] {
        run.save(seen, &CheckpointParts { metric: Some(metric), ..parts(1.0) }).unwrap();
    }
    let kept: Vec<u64> = run.checkpoints().into_iter().map(|c| c.0).collect();
    assert_eq!(kept, [600, 800]);
}

#[test]
fn saving_again_replaces() {
    let dir = tempfile::tempdir().unwrap();
    let run = open(dir.path()).unwrap();
    run.save(5, &parts(1.0)).unwrap();
    let saved = run.save(5, &parts(4.0)).unwrap();
    assert_eq!(first_of(&run.load(&saved, &Device::Cpu).unwrap().model), 4.0);
    assert_eq!(names(&dir.path().join("checkpoints")).len(), 1);
}

#[test]
fn damage_is_named_and_the_loader_falls_back_only_if_told() {
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 4] = [
        ("got 100", |file| fs::write(file, vec![0; 100]).unwrap()),
        ("sha-256", |file| {
            let mut data = fs::read(file).unwrap();
            *data.last_mut().unwrap() ^= 1;
            fs::write(file, data).unwrap();
        }),
        ("No such file", |file| fs::remove_file(file).unwrap()),
        ("state.json", |file| fs::write(file.with_file_name("state.json"), "{\"format_ver").unwrap()),
    ];
    for (word, spoil) in spoil {
        let dir = tempfile::tempdir().unwrap();
        let mut run = open(dir.path()).unwrap();
        for (seen_images, value) in [(10, 1.0), (20, 2.0)] {
            run.log(json!({ "seen_images": seen_images })).unwrap();
            run.save(seen_images, &parts(value)).unwrap();
        }
        spoil(&dir.path().join("checkpoints/000000000020/optimizer.safetensors"));
        let message = run.resume(&Device::Cpu, Damaged::Refuse).unwrap_err().to_string();
        for part in ["damaged checkpoint", "000000000020", "before it", "000000000010", word] {
            assert!(message.contains(part), "{message}");
        }
        let (seen_images, loaded) = run.resume(&Device::Cpu, Damaged::FallBack).unwrap().unwrap();
        assert_eq!((seen_images, first_of(&loaded.model)), (10, 1.0));
        assert_eq!(run.checkpoints().len(), 1);
        assert_eq!(read_stats(dir.path()).unwrap(), [json!({ "seen_images": 10 })]);
    }
}

#[test]
fn no_whole_checkpoint_is_an_error_even_when_falling_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = open(dir.path()).unwrap();
    let saved = run.save(10, &parts(1.0)).unwrap();
    fs::remove_file(saved.join("model.safetensors")).unwrap();
    let message = run.resume(&Device::Cpu, Damaged::FallBack).unwrap_err().to_string();
    assert!(message.contains("no complete one before it"), "{message}");
}

#[test]
fn leftovers_of_a_kill_during_a_save_are_invisible_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let run = open(dir.path()).unwrap();
    run.save(10, &parts(1.0)).unwrap();
    drop(run);
    let hidden = dir.path().join("checkpoints/.tmp-000000000020");
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("state.json"), "{}").unwrap();
    let run = open(dir.path()).unwrap();
    assert_eq!(run.latest().unwrap().0, 10);
    assert!(!hidden.exists());
}

#[test]
fn a_save_that_fails_says_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let run = open(dir.path()).unwrap();
    run.save(10, &parts(1.0)).unwrap();
    // A type that no weight file holds.
    let unwritable = CheckpointParts {
        model: vec![("w".to_string(), Tensor::zeros(2, candle_core::DType::F8E4M3, &Device::Cpu).unwrap())],
        ..parts(1.0)
    };
    let message = run.save(20, &unwritable).unwrap_err().to_string();
    for part in ["cannot save ", "000000000020", "last complete checkpoint is kept", "000000000010"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(names(&dir.path().join("checkpoints")), ["000000000010"]);

    fs::remove_dir_all(dir.path()).unwrap();
    let message = run.save(30, &parts(1.0)).unwrap_err().to_string();
    assert!(message.contains("was removed") && message.contains("no complete checkpoint"), "{message}");
    fs::create_dir(dir.path()).unwrap();
}

#[test]
fn the_log_ends_where_the_checkpoint_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = open(dir.path()).unwrap();
    for seen_images in [1, 2, 3, 4] {
        run.log(json!({ "seen_images": seen_images, "loss": 0.5 })).unwrap();
        if seen_images == 2 {
            run.save(2, &parts(1.0)).unwrap();
        }
    }
    let message = run.log(json!({ "loss": 1.0 })).unwrap_err().to_string();
    assert!(message.contains("seen_images"), "{message}");
    assert_eq!(read_stats(dir.path()).unwrap().len(), 4);
    drop(run);
    let log = dir.path().join("stats.jsonl");
    fs::write(&log, [fs::read(&log).unwrap(), b"{\"seen_images\": 2, \"lo".to_vec()].concat()).unwrap();
    let mut run = open(dir.path()).unwrap();
    run.log(json!({ "seen_images": 3 })).unwrap();
    let seen: Vec<u64> = read_stats(dir.path()).unwrap().iter().map(|r| r["seen_images"].as_u64().unwrap()).collect();
    assert_eq!(seen, [1, 2, 3]);
}
