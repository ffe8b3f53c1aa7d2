//! How fast pictures and latents are read. `tests/bench/loading.sh` runs it beside PyTorch's loader.
//!
//!     bench_loading make DIR N              writes N pictures in CelebA's layout: DIR/folder and DIR/zip
//!     bench_loading load DATA WORKERS       one epoch of 178-crops resized to 64: images per second
//!     bench_loading single DATA             the same on one thread, without a loader: microseconds of each step
//!     bench_loading latents LATENTS SECONDS reads in training's order: latents per second
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use image::codecs::jpeg::JpegEncoder;
use strata_datasets::{
    Crop, Dataset, DatasetOptions, ImageLoader, LatentSet, LoaderOptions, Order, Resampling, RgbImage, Transform,
    resize::{Filter, Pixels, resize},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const BATCH: usize = 64;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["make", dir, n] => make(Path::new(dir), n.parse()?),
        ["load", data, workers] => load(data, workers.parse()?),
        ["single", data] => single(data),
        ["latents", dir, seconds] => latents(Path::new(dir), seconds.parse()?),
        _ => Err("expected make, load, single or latents; see the source".into()),
    }
}

fn transform() -> Transform {
    // Torchvision's Resize is bilinear where nothing is said.
    Transform { crop: Crop::Celeba, filter: Resampling::Pillow(Filter::Bilinear), ..Transform::new(64) }
}

/// Emoji, enlarged onto grounds of 178 x 218: files of CelebA's size and about its weight.
fn make(dir: &Path, n: usize) -> Outcome<()> {
    let emoji = Dataset::open("emoji", &DatasetOptions::default())?;
    let folder = dir.join("folder/img_align_celeba");
    std::fs::create_dir_all(&folder)?;
    // The archive of the same pictures is made by the script.
    std::fs::create_dir_all(dir.join("zip"))?;
    let mut list = format!("{n}\nBald Male \n");
    for i in 0..n {
        let (name, bytes) = (format!("{:06}.jpg", i + 1), jpeg(&emoji.load(i * 7 % emoji.len())?, i)?);
        std::fs::write(folder.join(&name), &bytes)?;
        list.push_str(&format!("{name} {:>2} {:>2}\n", if i % 2 == 0 { 1 } else { -1 }, -1));
    }
    ["folder", "zip"].iter().try_for_each(|kind| std::fs::write(dir.join(kind).join("list_attr_celeba.txt"), &list))?;
    Ok(())
}

fn jpeg(emoji: &RgbImage, i: usize) -> Outcome<Vec<u8>> {
    let small = Pixels { width: emoji.width, height: emoji.height, channels: 3, data: emoji.pixels.clone() };
    let large = resize(&small, 160, 160, Filter::Bicubic, None)?;
    let ground = |x: usize, y: usize, c: usize| ((i * (31 + 20 * c) + x * (c + 1) / 2 + y / (c + 1)) % 256) as u8;
    let (left, top) = (i % 18, 20 + i % 38);
    let mut pixels = Vec::with_capacity(178 * 218 * 3);
    for y in 0..218 {
        for x in 0..178 {
            let inside = (left..left + 160).contains(&x) && (top..top + 160).contains(&y);
            let at = if inside { ((y - top) * 160 + x - left) * 3 } else { 0 };
            let white = !inside || large.data[at..at + 3].iter().all(|&v| v > 250);
            pixels.extend((0..3).map(|c| if white { ground(x, y, c) } else { large.data[at + c] }));
        }
    }
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90).encode(&pixels, 178, 218, image::ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

fn load(data: &str, workers: usize) -> Outcome<()> {
    let data = Dataset::open(data, &DatasetOptions::default())?;
    let options = LoaderOptions { batch: BATCH, workers, prefetch: 2 * workers, ..LoaderOptions::default() };
    let mut loader = ImageLoader::new(&data, (0..data.len()).collect(), transform(), options)?;
    let batches = data.len() / BATCH;
    let began = Instant::now();
    let mut sum = 0u64;
    for _ in 0..batches {
        sum += loader.next()?.pixels.iter().step_by(97).map(|&v| u64::from(v)).sum::<u64>();
    }
    let rate = (batches * BATCH) as f64 / began.elapsed().as_secs_f64();
    println!("{rate:.0} images/s (mean {:.1})", sum as f64 / (batches * (BATCH * 64 * 64 * 3).div_ceil(97)) as f64);
    Ok(())
}

fn single(data: &str) -> Outcome<()> {
    let data = Dataset::open(data, &DatasetOptions::default())?;
    let n = data.len().min(2000);
    let began = Instant::now();
    let pictures = (0..n).map(|i| data.load(i)).collect::<Result<Vec<_>, _>>()?;
    let decoded = began.elapsed();
    let began = Instant::now();
    let squares = pictures.iter().map(|p| transform().apply(p)).collect::<Result<Vec<_>, _>>()?;
    let micros = |d: std::time::Duration| d.as_secs_f64() * 1e6 / n as f64;
    println!(
        "read and decode {:.0} us, crop and resize {:.0} us, {} pictures",
        micros(decoded),
        micros(began.elapsed()),
        squares.len()
    );
    Ok(())
}

fn latents(dir: &Path, seconds: f64) -> Outcome<()> {
    let set = LatentSet::open(dir)?;
    let order = Order::new(set.len(), 0);
    let (began, mut position, mut sum) = (Instant::now(), 0u64, 0.0);
    while began.elapsed().as_secs_f64() < seconds {
        for _ in 0..BATCH {
            sum += set.moments(order.at(position))?[0];
            position += 1;
        }
    }
    println!("{:.0} latents/s (sum {sum:.1})", position as f64 / began.elapsed().as_secs_f64());
    Ok(())
}
