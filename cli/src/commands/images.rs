//! Images that models are shown, made from pictures once and stored beside latents.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use candle_core::Tensor;
use strata_autoencoder::{LoadedAutoencoder, pictures::to_tensor};
use strata_conditioning::{random_mask, smaller, with_hole};
use strata_datasets::{
    Ahead, Dataset, Decode, ImageKind, ImageSource, LatentImagesWriter, LatentSet, PreparedItem, Resampling, RgbImage, Transform,
    resize::Filter,
};
use strata_nn::random::Key;
use strata_training::sha256_file;

use crate::{args, context::Context, hint::hinted};

/// What the images are made from.
pub struct Pictures<'a> {
    /// Of the latents.
    pub autoencoder: &'a LoadedAutoencoder,
    /// The pictures.
    pub data: &'a Dataset,
    /// How they were prepared.
    pub transform: &'a Transform,
    /// Pictures at a time.
    pub batch: usize,
    /// Side of the tiles that the autoencoder works by.
    pub tile: Option<usize>,
}

/// Stores what is asked for beside the finished latents in `dir`; images that are there already stay.
///
/// # Errors
/// If a size does not fit, a map is missing or no map, or there are other images.
pub fn store(dir: &Path, args: &args::Images, pictures: &Pictures<'_>, context: &Context) -> anyhow::Result<()> {
    let Some(source) = source(args, pictures)? else { return Ok(()) };
    let latents = LatentSet::open(dir)?;
    if let Some(there) = latents.images() {
        return match there.source() == &source {
            true => Ok(()),
            false => {
                let message = format!("{}: holds {} already, not {}", dir.display(), there.source().image, source.image);
                Err(hinted(message, "choose another --out, or delete images.safetensors to make them anew"))
            }
        };
    }
    let maker = Maker { source: &source, maps: args.maps.as_deref(), pictures };
    let mut writer = LatentImagesWriter::new(dir, &latents, &source)?;
    context.progress.start("making images", latents.len() as u64, "images");
    let mut read = read_ahead(&latents, pictures)?;
    let mut done = 0;
    while let Some(batch) = read.next() {
        let batch = batch?;
        for image in maker.images(&batch, done)? {
            writer.push(&image)?;
        }
        done += batch.len();
        context.progress.advance(done as u64, "");
    }
    context.progress.finish();
    writer.finish()?;
    println!("{}: {} for {} latents, {} for each", dir.display(), source.image, latents.len(), source.variants);
    Ok(())
}

/// What is asked for.
fn source(args: &args::Images, pictures: &Pictures<'_>) -> anyhow::Result<Option<ImageSource>> {
    let size = pictures.transform.size;
    Ok(Some(match (args.low_res, args.inpaint_masks, args.map_classes) {
        (Some(factor), ..) => {
            ensure!(factor > 1 && size.is_multiple_of(factor), "--low-res: expected 2 or more that divides {size}, got {factor}");
            ImageSource { image: ImageKind::LowRes { factor }, variants: 1, shape: [3, size / factor, size / factor] }
        }
        (_, Some(variants), _) => {
            ensure!(variants > 0, "--inpaint-masks: expected 1 or more, got 0");
            let side = size / pictures.autoencoder.config.factor();
            let channels = pictures.autoencoder.config.latent_channels() + 1;
            ImageSource { image: ImageKind::Inpaint, variants, shape: [channels, side, side] }
        }
        (_, _, Some(classes)) => {
            ensure!((2..=256).contains(&classes), "--map-classes: expected 2 to 256, got {classes}");
            ImageSource { image: ImageKind::Map { classes }, variants: 1, shape: [1, size, size] }
        }
        (None, None, None) => return Ok(None),
    }))
}

/// A latent's picture, mirrored as the latent is, and its key.
pub struct Read {
    key: String,
    mirrored: bool,
    /// The picture.
    pub picture: RgbImage,
}

/// The pictures of the latents in their order, in batches.
///
/// # Errors
/// If a latent's picture is not among the data.
pub fn read_ahead(latents: &LatentSet, pictures: &Pictures<'_>) -> anyhow::Result<Ahead<anyhow::Result<Vec<Read>>>> {
    let data = pictures.data.clone();
    let places: HashMap<String, usize> =
        (0..data.len()).map(|i| Ok((data.key(i)?, i))).collect::<strata_datasets::Result<_>>()?;
    let mut rows: Vec<(String, usize, bool)> = Vec::new();
    for i in 0..latents.len() {
        let key = latents.key(i).unwrap_or_default();
        let place = *places.get(key).with_context(|| format!("`{key}` is among the latents, but not in {}", data.spec()))?;
        let after_its_original = rows.last().is_some_and(|(last, _, mirrored)| last == key && !mirrored);
        rows.push((key.to_string(), place, latents.manifest().flipped && after_its_original));
    }
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (each, transform) = (pictures.batch.max(1), *pictures.transform);
    Ok(Ahead::new(workers, 2 * workers, rows.len().div_ceil(each) as u64, move |number| {
        let read = |(key, place, mirrored): &(String, usize, bool)| {
            let picture = PreparedItem::read(&data, *place, &transform)?.picture;
            let picture = picture.map_err(|why| anyhow::anyhow!("{key}: {why}"))?;
            Ok(Read { key: key.clone(), mirrored: *mirrored, picture: if *mirrored { picture.flipped() } else { picture } })
        };
        rows.iter().skip(number as usize * each).take(each).map(read).collect()
    }))
}

/// Makes images from pictures.
struct Maker<'a> {
    source: &'a ImageSource,
    maps: Option<&'a Path>,
    pictures: &'a Pictures<'a>,
}

impl Maker<'_> {
    /// Those of the latents from `first` on, each with all its variants.
    fn images(&self, batch: &[Read], first: usize) -> anyhow::Result<Vec<Vec<f32>>> {
        let size = self.pictures.transform.size;
        let pixels: Vec<u8> = batch.iter().flat_map(|read| &read.picture.pixels).copied().collect();
        let x = to_tensor(&pixels, batch.len(), size, self.pictures.autoencoder.store.device())?;
        match self.source.image {
            ImageKind::LowRes { factor } => {
                let bytes = smaller(&x, factor)?.affine(127.5, 127.5)?;
                Ok(bytes.flatten_from(1)?.to_vec2()?)
            }
            ImageKind::Map { classes } => batch.iter().map(|read| self.map(read, classes)).collect(),
            ImageKind::Inpaint => {
                let mut variants = Vec::new();
                for variant in 0..self.source.variants {
                    let key = |row: usize| Key::new(0, "holes").index(((first + row) * self.source.variants + variant) as u64);
                    let drawn: Vec<bool> = (0..batch.len()).flat_map(|row| random_mask(key(row), size)).collect();
                    let holes = holes(self.pictures.autoencoder, &x, &drawn, self.pictures.tile)?;
                    variants.push(holes.flatten_from(1)?.to_vec2::<f32>()?);
                }
                Ok((0..batch.len()).flat_map(|row| variants.iter().map(move |rows| rows[row].clone())).collect())
            }
        }
    }

    fn map(&self, read: &Read, classes: usize) -> anyhow::Result<Vec<f32>> {
        let folder = self.maps.context("--map-classes: expected --maps, too")?;
        let file = folder.join(&read.key).with_extension("png");
        let map = read_map(&file, self.pictures.transform, classes)?;
        let map = if read.mirrored { map.flipped() } else { map };
        Ok(map.pixels.chunks_exact(3).map(|pixel| f32::from(pixel[0])).collect())
    }
}

/// A picture of one file, cropped and resized.
///
/// # Errors
/// If it is no picture.
pub fn read_picture(file: &Path, transform: &Transform) -> anyhow::Result<RgbImage> {
    let image = decode(file)?;
    transform.apply(&image).with_context(|| file.display().to_string())
}

/// A picture of one file as it is.
///
/// # Errors
/// If it is no picture.
pub fn decode(file: &Path) -> anyhow::Result<RgbImage> {
    let context = || file.display().to_string();
    let bytes = std::fs::read(file).with_context(context)?;
    Decode::default().rgb(&bytes).map_err(anyhow::Error::msg).with_context(context)
}

/// `transform` without blending.
pub fn unblended(transform: &Transform) -> Transform {
    Transform { filter: Resampling::Pillow(Filter::Nearest), ..*transform }
}

/// A map: a grey picture whose values are classes, cropped as the pictures are, without blending.
///
/// # Errors
/// If it is not grey, or has a class that is not below `classes`.
pub fn read_map(file: &Path, transform: &Transform, classes: usize) -> anyhow::Result<RgbImage> {
    let map = read_picture(file, &unblended(transform))?;
    let grey = map.pixels.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]);
    ensure!(grey, "{}: expected a grey picture whose values are numbers of classes, got colours", file.display());
    let largest = map.pixels.iter().max().copied().unwrap_or(0);
    ensure!(usize::from(largest) < classes, "{}: expected classes below {classes}, got {largest}", file.display());
    Ok(map)
}

/// `[B, Z + 1, h, w]` of pictures `[B, 3, S, S]` with holes, `drawn` pixel after pixel: their latents as the autoencoder gives them
/// (the pictures themselves without one), and the mask.
///
/// # Errors
/// As the autoencoder's.
pub fn holes<'a>(
    autoencoder: impl Into<Option<&'a LoadedAutoencoder>>,
    x: &Tensor,
    drawn: &[bool],
    tile: Option<usize>,
) -> anyhow::Result<Tensor> {
    let (rows, _, size, _) = x.dims4()?;
    let sign = |drawn: &bool| if *drawn { 1f32 } else { -1.0 };
    let mask = Tensor::from_vec(drawn.iter().map(sign).collect::<Vec<_>>(), (rows, 1, size, size), x.device())?;
    let x = with_hole(x, &mask)?;
    let Some(autoencoder) = autoencoder.into() else { return Ok(Tensor::cat(&[&x, &mask], 1)?) };
    let z = autoencoder.model.encode_by(&x.contiguous()?, tile)?;
    let factor = autoencoder.config.factor();
    let cells: Vec<f32> = drawn.chunks_exact(size * size).flat_map(|mask| cells(mask, size, factor)).map(|d| sign(&d)).collect();
    let mask = Tensor::from_vec(cells, (rows, 1, size / factor, size / factor), x.device())?;
    Ok(Tensor::cat(&[&z, &mask], 1)?)
}

/// Which cells of `factor`² pixels have a pixel that is to be drawn, of a square of `size` pixels.
pub fn cells(drawn: &[bool], size: usize, factor: usize) -> Vec<bool> {
    let side = size / factor;
    let cell = |i: usize| {
        let (top, left) = (i / side * factor, i % side * factor);
        (0..factor * factor).any(|j| drawn[(top + j / factor) * size + left + j % factor])
    };
    (0..side * side).map(cell).collect()
}

/// The picture files that `path` is or holds, by name.
///
/// # Errors
/// If there is none.
pub fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let context = || path.display().to_string();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(context)? {
        let file = entry.with_context(context)?.path();
        let known = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "ppm", "pgm"];
        if file.extension().and_then(|e| e.to_str()).is_some_and(|e| known.contains(&e.to_lowercase().as_str())) {
            files.push(file);
        }
    }
    files.sort();
    ensure!(!files.is_empty(), "{}: expected pictures, there are none", path.display());
    Ok(files)
}

/// Picture files that the seeds of samples take in turn.
#[derive(Debug, Default)]
pub struct Taken {
    all: Vec<PathBuf>,
    /// Those up to the last that is taken.
    pub files: Vec<PathBuf>,
    /// Which of them each seed takes.
    pub of: Vec<u32>,
}

impl Taken {
    /// Of a file, or of the files of a folder, by name.
    ///
    /// # Errors
    /// If there is none.
    pub fn new(path: &Path, seeds: &[u64]) -> anyhow::Result<Self> {
        let all = files(path)?;
        let n = all.len() as u64;
        // Only what is taken is read.
        let last = seeds.iter().max().map_or(0, |last| *last.min(&(n - 1)) as usize);
        Ok(Self { files: all[..=last].to_vec(), of: seeds.iter().map(|seed| (seed % n) as u32).collect(), all })
    }

    /// Of what is in all the files, so that it does not depend on the seeds: more of them may follow into the same folder.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn sha256(&self) -> anyhow::Result<Vec<String>> {
        self.all.iter().map(|file| Ok(sha256_file(file)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_drawn_where_one_of_its_pixels_is() {
        let mut drawn = vec![false; 16];
        drawn[6] = true;
        assert_eq!(cells(&drawn, 4, 2), [false, true, false, false]);
        assert_eq!(cells(&drawn, 4, 4), [true]);
        assert_eq!(cells(&drawn, 4, 1), drawn);
    }
}
