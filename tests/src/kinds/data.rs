//! Kinds of the area `data`: what a reader must list.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use strata_datasets::{Alpha, Dataset, DatasetOptions, Decode, ItemInfo, Layout, RgbImage};

use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the listing is not the expected one.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "dataset_listing" => dataset_listing(case),
        other => bail!("`{other}` is no kind of the area data"),
    }
}

fn dataset_listing(case: &Case) -> Result<Answer> {
    let (spec, options) = request(case)?;
    let expect = case.expect()?;
    let set = Dataset::open(&spec, &options);
    match expect["outcome"].as_str() {
        Some("ok") => check_listing(&set?, &options.decode, expect)?,
        Some("error") => {
            let failed = set.and_then(|set| (0..set.len()).try_for_each(|i| set.info(i).and(set.load(i)).map(drop)));
            ensure!(failed.is_err(), "expected an error ({}), but every item was read", expect["why"]);
            if let Some(path) = expect["must_not_exist"].as_str() {
                ensure!(!case.dir.join(path).exists() && !Path::new(path).exists(), "`{path}` was written");
            }
        }
        _ => bail!("`expect.outcome` is {}, expected ok or error", expect["outcome"]),
    }
    Ok(Answer::checked())
}

/// What to open, by the reference loaders' rules: orientation ignored, alpha dropped.
fn request(case: &Case) -> Result<(String, DatasetOptions)> {
    let config = case.config()?;
    let layout: String = config.get("layout")?;
    let mut path = case.dir.join(config.get::<String>("path")?);
    let known = match layout.as_str() {
        "celeba" => {
            let images: String = config.get("images")?;
            ensure!(["folder", "zip"].contains(&images.as_str()), "`images` is {images}, expected folder or zip");
            let there = path.join("img_align_celeba").is_dir();
            ensure!(there == (images == "folder"), "`images` is {images}, but that is not what lies there");
            Layout::Celeba
        }
        "cifar10" => {
            let variant: String = config.get("variant")?;
            ensure!(["binary", "python", "python tar.gz"].contains(&variant.as_str()), "unknown variant `{variant}`");
            Layout::Cifar10
        }
        "webdataset" => {
            path = path.join(config.get::<String>("shards")?);
            Layout::Webdataset
        }
        other => other.parse()?,
    };
    let column = |name| -> Result<Option<String>> { config.opt::<String>(name) };
    let mut options = DatasetOptions {
        layout: Some(known),
        decode: Decode { upright: false, alpha: Alpha::Drop, ..Decode::default() },
        ..DatasetOptions::default()
    };
    if layout == "hf_parquet" {
        options.image_column = column("image_column")?;
    }
    if layout.starts_with("hf_") {
        options.label_column = column("label_column")?;
        options.caption_column = column("caption_column")?;
    }
    config.finish()?;
    Ok((path.to_str().context("the path is not UTF-8")?.to_string(), options))
}

fn check_listing(set: &Dataset, decode: &Decode, expect: &Value) -> Result<()> {
    let summary = set.summary();
    for (key, want) in expect.as_object().context("`expect` is no table")? {
        let got = match key.as_str() {
            "outcome" | "items" => continue,
            "count" => set.len().into(),
            "classes" => summary.class_names.clone().into(),
            "attribute_names" => summary.attribute_names.clone().into(),
            "label_kind" => summary.label_kind.clone().into(),
            "resolution" => summary.resolution.into(),
            "splits" => serde_json::to_value(&summary.splits)?,
            other => bail!("unknown key `expect.{other}`"),
        };
        ensure!(&got == want, "{key}: expected {want}, got {got}");
    }
    let items = expect["items"].as_array().context("`expect.items` is missing")?;
    ensure!(items.len() == set.len(), "expected {} items, got {}", items.len(), set.len());
    for (i, item) in items.iter().enumerate() {
        check_item(set, i, decode, item).with_context(|| format!("item {i}, {}", item["key"]))?;
    }
    Ok(())
}

fn check_item(set: &Dataset, i: usize, decode: &Decode, item: &Value) -> Result<()> {
    let info = set.info(i)?;
    let fails = item["outcome"].as_str() == Some("error");
    ensure!(fails || item["outcome"].is_null(), "unknown outcome {}", item["outcome"]);
    for (key, want) in item.as_object().context("no table")? {
        if let Some(got) = listed(&info, key, set)? {
            ensure!(&got == want, "{key}: expected {want}, got {got}");
        }
    }
    if fails {
        ensure!(set.load(i).is_err(), "expected an error ({}), but a picture was read", item["why"]);
        return Ok(());
    }
    let stored = set.stored(i)?;
    for (key, got) in [("channels", stored.channels), ("exif_orientation", usize::from(stored.orientation))] {
        ensure!(item[key].is_null() || item[key] == got, "{key}: expected {}, got {got}", item[key]);
    }
    if let Some(want) = item["rgba_sha256"].as_str() {
        ensure!(sha256(&stored.rgba()) == want, "rgba_sha256 differs");
    }
    check_picture(&set.load(i)?, item)?;
    if item["upright"].is_object() {
        let upright = Decode { upright: true, ..decode.clone() }.finish(stored);
        check_picture(&upright, &item["upright"]).context("upright")?;
    }
    Ok(())
}

/// What the listing says under `key`; nothing for keys that are about the picture.
fn listed(info: &ItemInfo, key: &str, set: &Dataset) -> Result<Option<Value>> {
    Ok(Some(match key {
        "key" => info.key.clone().into(),
        "label" => info.label.map_or_else(|| info.metadata.get("label_vector").cloned().unwrap_or_default(), Value::from),
        "class" => info.class.clone().into(),
        "caption" => info.caption.clone().into(),
        "attributes" | "identity" | "split" | "filename" | "orig_idx" | "orig_file" | "shard" | "json" | "path" => {
            info.metadata.get(key).cloned().unwrap_or_default()
        }
        "width" | "height" | "rgb_sha256" | "rgba_sha256" | "rgb_mean" | "mean_tolerance" | "quadrant_mean" | "pixels"
        | "pixel_tolerance" | "channels" | "about" | "why" | "outcome" | "exif_orientation" | "upright" => return Ok(None),
        other => bail!("unknown key `{other}` in a listing of {}", set.layout()),
    }))
}

fn check_picture(image: &RgbImage, want: &Value) -> Result<()> {
    for (key, got) in [("width", image.width), ("height", image.height)] {
        ensure!(want[key] == got, "{key}: expected {}, got {got}", want[key]);
    }
    if let Some(hash) = want["rgb_sha256"].as_str() {
        ensure!(sha256(&image.pixels) == hash, "rgb_sha256 differs");
        return Ok(());
    }
    let (w, h) = (image.width, image.height);
    let tolerance = want["mean_tolerance"].as_f64().context("neither rgb_sha256 nor mean_tolerance")?;
    near(&mean(image, 0..w, 0..h), &want["rgb_mean"], tolerance).context("rgb_mean")?;
    let quadrants = [(0..w / 2, 0..h / 2), (w / 2..w, 0..h / 2), (0..w / 2, h / 2..h), (w / 2..w, h / 2..h)];
    for (q, (columns, rows)) in quadrants.into_iter().enumerate() {
        near(&mean(image, columns, rows), &want["quadrant_mean"][q], 2.0 * tolerance).with_context(|| format!("quadrant {q}"))?;
    }
    let pixels = want["pixels"].as_array().context("`pixels` is missing")?;
    for pixel in pixels {
        let place = |n: usize| pixel[n].as_u64().context("a pixel without a place");
        let (x, y) = (place(0)? as usize, place(1)? as usize);
        let tolerance = want["pixel_tolerance"].as_f64().context("`pixel_tolerance` is missing")?;
        near(&mean(image, x..x + 1, y..y + 1), &pixel[2], tolerance).with_context(|| format!("pixel {x},{y}"))?;
    }
    Ok(())
}

fn mean(image: &RgbImage, columns: std::ops::Range<usize>, rows: std::ops::Range<usize>) -> [f64; 3] {
    let n = (columns.len() * rows.len()) as f64;
    let mut sums = [0.0; 3];
    for y in rows {
        for x in columns.clone() {
            let pixel = &image.pixels[(y * image.width + x) * 3..][..3];
            sums.iter_mut().zip(pixel).for_each(|(sum, &v)| *sum += f64::from(v));
        }
    }
    sums.map(|s| s / n)
}

fn near(got: &[f64; 3], want: &Value, tolerance: f64) -> Result<()> {
    let want = want.as_array().context("a colour is missing")?;
    let close = want.len() == 3 && got.iter().zip(want).all(|(g, w)| w.as_f64().is_some_and(|w| (g - w).abs() <= tolerance));
    ensure!(close, "expected {want:?}, got {got:?}, tolerance {tolerance}");
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
