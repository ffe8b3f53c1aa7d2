//! `strata sample`: what it writes, what it keeps, how it goes on, and what it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use common::{
    contents, refusal,
    run::{kill_when, ok, train},
    strata,
};

/// A folder with a trained run, made once for all tests of this file; each draws into a folder of its own.
fn root() -> &'static Path {
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    ROOT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        train(dir.path());
        dir
    })
    .path()
}

const SAMPLE: &[&str] = &["sample", "diffusion", "--steps", "4", "--quiet"];

fn pixels(path: PathBuf) -> image::RgbImage {
    image::open(path).unwrap().into_rgb8()
}

/// The files without their folder, and without what a kill leaves of a file that was being written beside its place.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let inside = |(path, hash): (PathBuf, u64)| (path.strip_prefix(folder).unwrap().to_path_buf(), hash);
    contents(folder).into_iter().map(inside).filter(|(path, _)| !path.to_string_lossy().starts_with(".tmp")).collect()
}

#[test]
fn cli_sampling_goes_on_after_a_kill_and_gives_the_same_set() {
    let root = root();
    let args = |out: &'static str| {
        let many = ["--seeds", "0-59", "--batch", "4", "--class", "all", "--sampler", "euler-ancestral", "--out", out];
        [SAMPLE, &many].concat()
    };
    ok(root, &args("straight"), &[]);
    kill_when(root, &args("killed"), &root.join("killed"), 6);
    let left = std::fs::read_dir(root.join("killed")).unwrap().count();
    assert!(left < 60, "it was killed too late: {left}");
    ok(root, &args("killed"), &[]);
    assert_eq!(files(&root.join("straight")), files(&root.join("killed")));
    // What is there stays; what is missing comes back bit for bit.
    std::fs::remove_file(root.join("killed/000013.png")).unwrap();
    let (answer, _) = ok(root, &args("killed"), &["--json"]);
    assert!(answer.contains("\"new\":1,"), "{answer}");
    assert_eq!(files(&root.join("straight")), files(&root.join("killed")));
}

#[test]
fn cli_sampling_writes_what_is_asked_for() {
    let root = root();
    let args = [SAMPLE, &["--seeds", "998-1001", "--class", "all", "--folders", "--zip", "--npz", "--trajectory", "2"]].concat();
    let (text, _) = ok(root, &args, &["--out", "all"]);
    assert!(text.contains("4 images, 4 of them new") && text.contains("8.0 evaluations (stage 1: "), "{text}");
    assert!(text.contains("GFLOPs an image") && text.contains("times as much"), "{text}");
    let out = root.join("all");
    let listing = std::fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = listing.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 4);
    assert_eq!((rows[3]["seed"].as_u64(), rows[3]["file"].as_str()), (Some(1001), Some("001000/001001.png")));
    assert_eq!((rows[3]["label"].as_u64(), rows[3]["class"].as_str()), (Some(1), Some("dogs")));
    let mut zip = zip::ZipArchive::new(std::fs::File::open(out.join("samples.zip")).unwrap()).unwrap();
    let mut bytes = Vec::new();
    zip.by_name("000000/000998.png").unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, std::fs::read(out.join("000000/000998.png")).unwrap());
    let mut npz = zip::ZipArchive::new(std::fs::File::open(out.join("samples.npz")).unwrap()).unwrap();
    assert_eq!(npz.by_name("arr_0.npy").unwrap().size(), 128 + 4 * 32 * 32 * 3);
    assert_eq!(npz.by_name("arr_1.npy").unwrap().size(), 128 + 4 * 8);
    let strip = pixels(out.join("trajectory.png"));
    assert!(strip.width() > 5 * 64 && strip.height() > 2 * 64, "four steps and the end, of two samples");
    assert!(std::fs::read(out.join("trajectory.gif")).unwrap().starts_with(b"GIF89a"));
}

#[test]
fn cli_sampling_keeps_what_a_mask_keeps() {
    let root = root();
    let mask = image::GrayImage::from_fn(32, 32, |x, _| image::Luma([if x < 17 { 0 } else { 255 }]));
    mask.save(root.join("mask.png")).unwrap();
    let init = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([(8 * x) as u8, (8 * y) as u8, 90]));
    init.save(root.join("init.png")).unwrap();
    let args = [SAMPLE, &["--seeds", "0-2", "--init-image", "init.png"]].concat();
    ok(root, &args, &["--mask", "mask.png", "--out", "inpainted"]);
    ok(root, &args, &["--strength", "0.5", "--out", "varied"]);
    for seed in 0..3 {
        let drawn = pixels(root.join(format!("inpainted/00000{seed}.png")));
        let far = |columns: std::ops::Range<u32>| {
            let all = columns.flat_map(|x| (0..32).map(move |y| (x, y)));
            all.map(|(x, y)| (0..3).map(|c| drawn.get_pixel(x, y)[c].abs_diff(init.get_pixel(x, y)[c])).max().unwrap()).max()
        };
        assert!(far(0..17) <= Some(1), "kept pixels: {:?}", far(0..17));
        assert!(far(17..32) > Some(30), "drawn pixels: {:?}", far(17..32));
        assert!(pixels(root.join(format!("varied/00000{seed}.png"))) != init);
    }
    let all = image::GrayImage::from_pixel(32, 32, image::Luma([255]));
    all.save(root.join("white.png")).unwrap();
    let stderr = refusal(strata(root).args(&args).args(["--mask", "white.png", "--out", "nothing"]));
    assert!(stderr.contains("white.png") && stderr.contains("keeps 0 of 1024 pixels"), "{stderr}");
    image::GrayImage::from_pixel(64, 32, image::Luma([255])).save(root.join("wide.png")).unwrap();
    let stderr = refusal(strata(root).args(&args).args(["--mask", "wide.png", "--out", "nothing"]));
    assert!(stderr.contains("wide.png: a mask of 64x32 pixels, but init.png has 32x32"), "{stderr}");
    let stderr = refusal(strata(root).args(&args).args(["--mask", "mask.png", "--strength", "0.5", "--out", "inpainted"]));
    assert!(stderr.contains("another origin"), "{stderr}");
}

#[test]
fn cli_sampling_refuses_what_cannot_be_drawn() {
    let root = root();
    let sample = ["sample", "diffusion", "--quiet", "--out", "refused", "--seeds", "0-1"];
    let refused = |more: &[&str]| refusal(strata(root).args(sample).args(more));
    for (more, parts) in [
        (&["--sampler", "dpmp-2m"][..], &["did you mean `dpmpp-2m`?", "unipc"][..]),
        (&["--sampler", "ddim:etta=1"], &["unknown setting `etta`", "it has eta"]),
        (&["--grid", "karas"], &["expected one of karras", "`karas`"]),
        (&["--grid", "trailing"], &["`trailing` expects a schedule of discrete indices"]),
        (&["--steps", "0"], &["`steps`: expected 1 or more, got 0"]),
        (&["--batch", "0", "--sigma-max=-3"], &["`batch`: expected 1 or more, got 0", "`sigma_min, sigma_max`"]),
        (&["--guidance", "3"], &["guidance 3 needs a condition, but no class, attribute or text is asked for"]),
        (&["--class", "cat"], &["no class `cat`; did you mean `cats`?", "cats, dogs"]),
        (&["--init-image", "stages.toml"], &["stages.toml", "not a picture"]),
    ] {
        let stderr = refused(more);
        assert!(parts.iter().all(|part| stderr.contains(part)), "{more:?}: {stderr}");
    }
    assert!(!root.join("refused").exists(), "nothing is created for what cannot be drawn");
    assert_eq!(strata(root).args(SAMPLE).args(["--out", "x", "--mask", "m.png"]).output().unwrap().status.code(), Some(2));
    // Seeds that lie there already, drawn otherwise.
    let drawn = [SAMPLE, &["--out", "drawn", "--seeds", "0-1", "--class", "cats"]].concat();
    ok(root, &drawn, &[]);
    let before = contents(&root.join("drawn"));
    let stderr = refusal(strata(root).args([SAMPLE, &["--out", "drawn", "--seeds", "1-2", "--class", "dogs"]].concat()));
    assert!(stderr.contains("000001.png") && stderr.contains("was drawn with class 0, but class 1"), "{stderr}");
    let stderr = refusal(strata(root).args(&drawn).args(["--grid", "log-snr"]));
    assert!(stderr.contains("`grid` is \"karras\" there, but \"log-snr\" was asked for"), "{stderr}");
    assert_eq!(contents(&root.join("drawn")), before, "nothing overwritten");
}

#[test]
fn cli_sampling_by_a_worse_model_and_in_an_interval() {
    let root = root();
    let args = [SAMPLE, &["--seeds", "0-1", "--class", "cats", "--json"]].concat();
    let (text, _) = ok(root, &args, &["--out", "auto", "--autoguidance", "diffusion"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["evaluations_per_stage"], answer["worse_evaluations_per_stage"]);
    let (text, _) = ok(root, &args, &["--out", "interval", "--guidance-interval", "0.0001,0.001", "--guidance-rescale", "0.7"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sum = |answer: &serde_json::Value| -> u64 {
        answer["evaluations_per_stage"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum()
    };
    assert_eq!((sum(&answer), answer["passes"].as_u64()), (8, Some(4)), "guidance never acts: one evaluation a step and sample");
    let (text, _) = ok(root, &args, &["--out", "guided", "--guidance", "3"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((sum(&answer), answer["passes"].as_u64()), (16, Some(4)), "both halves of guidance in one pass");
    ok(root, &args, &["--out", "negative", "--negative-class", "dogs", "--guidance", "3"]);
}
