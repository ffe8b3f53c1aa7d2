//! `strata eval`: distances of samples to data, on the command line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use common::{
    pictures,
    ranks::{end, free_port, spawn},
    refusal, strata,
    tiles::{hash, tile, tiles},
};
use serde_json::Value;
use strata_tests::golden::{Case, Golden};

/// The folder of [`tiles`].
fn root() -> &'static Path {
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    ROOT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        tiles(dir.path());
        dir
    })
    .path()
}

/// `strata eval args`, with a cache of its own.
fn eval(folder: &Path, args: &[&str]) -> assert_cmd::Command {
    let mut command = strata(folder);
    command.arg("eval").args(args);
    command
}

fn measured(folder: &Path, args: &[&str]) -> (Value, String) {
    let output = eval(folder, args).arg("--json").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "strata eval {args:?}\n{stderr}");
    (serde_json::from_slice(&output.stdout).unwrap(), stderr)
}

#[test]
fn cli_eval_extractor_orders_sets() {
    let root = root();
    let of = |samples: &str| {
        let args = ["fd", "--samples", samples, "--reference", "data", "--extractor", "e.safetensors", "--also", "kid,prdc"];
        measured(root, &[&args[..], &["--out", &format!("{samples}.json")]].concat()).0
    };
    let (more, noise) = (of("more"), of("noise"));
    let distance = |of: &Value| of["frechet_distance"]["value"].as_f64().unwrap();
    assert!(distance(&more) * 4.0 < distance(&noise), "{more} {noise}");
    assert!(more["kernel_distance"]["value"].as_f64().unwrap() < noise["kernel_distance"]["value"].as_f64().unwrap());
    assert!(more["prdc"]["recall"].as_f64().unwrap() > 0.5 && noise["prdc"]["precision"].as_f64().unwrap() < 0.5);
    assert!(more.get("fid").is_none() && more.get("kid").is_none(), "no name of the literature: {more}");
    assert_eq!((more["network"]["network"].as_str(), more["samples"]["count"].as_u64()), (Some("strata-extractor-1"), Some(80)));
    let file: Value = serde_json::from_slice(&std::fs::read(root.join("more.json")).unwrap()).unwrap();
    assert_eq!(file, more);
    // An interval is about the value.
    let args = ["fd", "--samples", "more", "--reference", "data", "--extractor", "e.safetensors", "--bootstrap", "20"];
    let interval = &measured(root, &args).0["frechet_distance"]["interval_95"];
    assert!(interval["low"].as_f64().unwrap() < distance(&more) && interval["high"].as_f64().unwrap() > distance(&more));
}

#[test]
fn cli_eval_statistics_are_kept_and_exchanged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("e.safetensors"), dir.path().join("e.safetensors")).unwrap();
    let samples = root().join("more").display().to_string();
    let data = root().join("data").display().to_string();
    let fd = |reference: &str| {
        let args = ["fd", "--samples", &samples, "--reference", reference, "--extractor", "e.safetensors"];
        let (value, stderr) = measured(dir.path(), &args);
        (value["frechet_distance"]["value"].as_f64().unwrap(), stderr)
    };
    let (first, described) = fd(&data);
    let (second, from_cache) = fd(&data);
    assert_eq!(first, second);
    let passes = |stderr: &str| stderr.lines().filter(|line| line.starts_with("describing: 80 images")).count();
    assert_eq!((passes(&described), passes(&from_cache)), (2, 1));
    let statistics = ["statistics", "--data", &data, "--extractor", "e.safetensors", "--out", "data.npz"];
    eval(dir.path(), &statistics).assert().success();
    assert_eq!(fd("data.npz").0, first);
    // The formats of EDM2 and torch-fidelity hold the same; and two files are compared without a network.
    for file in ["data.pkl", "data.pt"] {
        eval(dir.path(), &[&statistics[..6], &[file]].concat()).assert().success();
        assert_eq!(fd(file).0, first, "{file}");
        let (both, _) = measured(dir.path(), &["fd", "--samples", file, "--reference", "data.npz"]);
        assert!(both["frechet_distance"]["value"].as_f64().unwrap().abs() < 1e-9, "{both}");
    }
    let kid = ["kid", "--samples", "data.pkl", "--reference", "data.npz"];
    assert!(refusal(&mut eval(dir.path(), &kid)).contains("look at every image"));
    // Statistics alone do not tell how each image is.
    let kid = ["kid", "--samples", &samples, "--reference", "data.npz", "--extractor", "e.safetensors"];
    assert!(refusal(&mut eval(dir.path(), &kid)).contains("KID, precision and recall look at every image"));
    // Other content under the same names is another reference.
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for i in 0..20 {
        tile(&copy, i, |x, y, i| (hash(x, y, i) >> 13) as u8);
    }
    let before = fd("copy").0;
    (0..20).for_each(|i| tile(&copy, i, |x, _, _| (x * 16) as u8));
    assert_ne!(fd("copy").0, before);
}

#[test]
fn cli_eval_statistics_of_two_processes_are_those_of_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("e.safetensors"), dir.path().join("e.safetensors")).unwrap();
    let data = root().join("data").display().to_string();
    let few = |out, num| ["eval", "statistics", "--data", &data, "--num", num, "--extractor", "e.safetensors", "--out", out];
    let of = |out| few(out, "77");
    let port = free_port();
    for (ok, text) in [0, 1].map(|rank| spawn(dir.path(), &of("two.npz"), rank, port)).map(end) {
        assert!(ok, "{text}");
    }
    strata(dir.path()).args(of("one.npz")).assert().success();
    let distance = measured(dir.path(), &["fd", "--samples", "two.npz", "--reference", "one.npz"]).0;
    assert!(distance["frechet_distance"]["value"].as_f64().unwrap().abs() < 1e-9, "{distance}");
    // A process that was asked for something else does not begin.
    let port = free_port();
    let ends = [(0, "77"), (1, "76")].map(|(rank, num)| spawn(dir.path(), &few("never.npz", num), rank, port)).map(end);
    assert!(ends.iter().all(|(ok, text)| !ok && text.contains("rank 1 was started with other settings")), "{ends:?}");
    assert!(!dir.path().join("never.npz").exists());
}

#[test]
fn cli_eval_reads_arrays_of_images() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("e.safetensors"), dir.path().join("e.safetensors")).unwrap();
    let folder = root().join("noise");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let pixels: Vec<u8> = files.iter().flat_map(|file| image::open(file).unwrap().into_rgb8().into_raw()).collect();
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (80, 16, 16, 3), }\n";
    for (name, method) in [("stored", zip::CompressionMethod::Stored), ("cut", zip::CompressionMethod::Stored)] {
        let mut archive = zip::ZipWriter::new(std::fs::File::create(dir.path().join(format!("{name}.npz"))).unwrap());
        archive.start_file("arr_0.npy", zip::write::SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
        archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        archive.write_all(&pixels[..pixels.len() - if name == "cut" { 5 } else { 0 }]).unwrap();
        archive.finish().unwrap();
    }
    let data = root().join("data").display().to_string();
    let fd = |samples: &str| {
        let args = ["fd", "--samples", samples, "--reference", &data, "--extractor", "e.safetensors"];
        measured(dir.path(), &args).0["frechet_distance"]["value"].as_f64().unwrap()
    };
    assert_eq!(fd("stored.npz"), fd(&folder.display().to_string()));
    let cut = ["fd", "--samples", "cut.npz", "--reference", &data, "--extractor", "e.safetensors"];
    assert!(refusal(&mut eval(dir.path(), &cut)).contains("cut.npz"));
}

#[test]
fn cli_eval_explains_what_cannot_be_measured() {
    let dir = tempfile::tempdir().unwrap();
    let extractor = root().join("e.safetensors").display().to_string();
    let data = root().join("data").display().to_string();
    let refused = |metric: &str, samples: &str, more: &[&str]| {
        refusal(eval(dir.path(), &[metric, "--samples", samples, "--reference", &data]).args(more))
    };
    let own: &[&str] = &["--extractor", &extractor];
    std::fs::create_dir(dir.path().join("flat")).unwrap();
    for (i, name) in ["flat/0.png", "flat/1.png", "flat/2.png"].iter().enumerate() {
        image::RgbImage::from_pixel(9, 9, image::Rgb([7; 3])).save(dir.path().join(name)).unwrap();
        if i == 0 {
            let one = refused("fd", "flat", own);
            assert!(one.contains("at least 2 pictures, got 1") && one.contains("1 images are of one colour"), "{one}");
        }
    }
    assert!(refused("fd", "flat", own).contains("all 3 samples are equal"));
    assert!(refused("prdc", "flat", own).contains("expected more pictures than neighbours (k = 3, at least 1), got 3"));
    assert!(refused("fd", "nowhere", own).contains("nowhere"));
    assert!(refused("fid", "flat", own).contains("what it measures is no FID"));
    assert!(refused("is", "flat", own).contains("needs the Inception network"));
    let without = refused("fid", "flat", &[]);
    assert!(without.contains("hint:") && without.contains("pt_inception-2015-12-05"), "{without}");
    assert!(refused("fid", "flat", &["--weights", &extractor]).contains("missing `Conv2d_1a_3x3.conv.weight`"));
    pictures(&dir.path().join("mixed"), 9);
    let args = ["fd", "--samples", "mixed", "--reference", &data, "--extractor", &extractor];
    let (value, stderr) = measured(dir.path(), &args);
    for part in ["9 samples: a Fréchet distance is too high with few", "9 samples for 128 features", "images of 9 sizes"] {
        assert!(stderr.contains(part) && value["warnings"].to_string().contains(part), "{part}: {stderr} {value}");
    }
    let unlabelled = ["train-extractor", "--data", "mixed", "--out", "x.safetensors"];
    assert!(refusal(&mut eval(dir.path(), &unlabelled)).contains("trained on labels"));
}

#[test]
fn cli_eval_nearest_finds_copies() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("drawn")).unwrap();
    let data = root().join("data");
    std::fs::copy(data.join("checks/0007.png"), dir.path().join("drawn/copy.png")).unwrap();
    std::fs::copy(root().join("noise/0003.png"), dir.path().join("drawn/own.png")).unwrap();
    let (data, extractor) = (data.display().to_string(), root().join("e.safetensors").display().to_string());
    let args = ["nearest", "--samples", "drawn", "--data", &data, "--extractor", &extractor, "--json", "--grid", "near.png"];
    let output = eval(dir.path(), &args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), lines[0]["sample"].as_str().unwrap()), (2, "copy.png"), "{text}");
    assert!(lines[0]["nearest"][0]["image"].as_str().unwrap().contains("checks/0007"), "{text}");
    assert!(lines[0]["nearest"][0]["distance"].as_f64().unwrap() < 1e-3);
    assert!(image::open(dir.path().join("near.png")).unwrap().width() > 64);
}

/// The weights of the golden case, as a file.
fn inception(folder: &Path) {
    let golden = Golden::own();
    let case = Case::read(&golden.root().join("features/inception_v3_fid_64x48"), golden.root()).unwrap();
    let tensors: Vec<_> = case.weights().unwrap().into_iter().collect();
    strata_nn::weights::save(&folder.join("inception.safetensors"), &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn cli_eval_fid_of_inception() {
    let dir = tempfile::tempdir().unwrap();
    inception(dir.path());
    pictures(&dir.path().join("samples"), 5);
    let network = ["--weights", "inception.safetensors"];
    let args = [&["fid", "--samples", "samples", "--reference", "samples"][..], &network].concat();
    let (same, _) = measured(dir.path(), &args);
    let fid = &same["fid"];
    assert!(fid["value"].as_f64().unwrap().abs() < 1e-6 && fid["ranks"] == serde_json::json!([4, 4]), "{same}");
    assert_eq!(same["network"]["resize"], "pytorch-fid");
    let other = measured(dir.path(), &[&args[..], &["--resize", "torch-fidelity"]].concat()).0;
    assert_ne!(other["network"], same["network"]);
    // Spatial features have statistics of their own, in the same file.
    let statistics = [&["statistics", "--data", "samples", "--spatial", "--out", "both.npz"][..], &network].concat();
    eval(dir.path(), &statistics).assert().success();
    let args = [&["sfid", "--samples", "samples", "--reference", "both.npz", "--also", "fid"][..], &network].concat();
    let (both, _) = measured(dir.path(), &args);
    let value = |name: &str| both[name]["value"].as_f64().unwrap();
    assert!(value("sfid").abs() < 1e-6 && value("fid").abs() < 1e-6, "{both}");
    assert!(both["sfid"]["ranks"] == serde_json::json!([4, 4]), "{both}");
    pictures(&dir.path().join("others"), 3);
    let args = [&["sfid", "--samples", "others", "--reference", "both.npz"][..], &network].concat();
    assert!(measured(dir.path(), &args).0["sfid"]["value"].as_f64().unwrap() > 1e-3);
    let plain = [&["statistics", "--data", "samples", "--out", "plain.npz"][..], &network].concat();
    eval(dir.path(), &plain).assert().success();
    let args = [&["sfid", "--samples", "samples", "--reference", "plain.npz"][..], &network].concat();
    assert!(refusal(&mut eval(dir.path(), &args)).contains("`mu_s` and `sigma_s`"));
    // These weights have no classifier.
    let score = [&["is", "--samples", "samples"][..], &network].concat();
    assert!(refusal(&mut eval(dir.path(), &score)).contains("`fc.weight`"));
}
