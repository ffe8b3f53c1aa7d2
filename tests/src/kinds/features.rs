//! Kinds of the area `features`: feature network and image resizing cases.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, Var};
use strata_autoencoder::perceptual::{Lpips, LpipsNet};
use strata_datasets::resize::{Filter, Interpolation, Pixels, resize, resize_float};
use strata_datasets::rules;
use strata_datasets::{Resampling, RgbImage};
use strata_diffusion::evaluation::inception::{self, Inception, Resize};
use strata_nn::weights;

use crate::golden::{Answer, Case, Config};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "image_resize" => image_resize(case),
        "inception_v3_fid" => inception(case),
        "lpips" => lpips(case),
        other => bail!("`{other}` is no kind of the area features"),
    }
}

fn lpips(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let net = config.get::<LpipsNet>("net")?;
    let version = config.get::<String>("version")?;
    ensure!(version == "0.1", "version {version}, expected 0.1");
    let (normalize, spatial) = (config.or("normalize", false)?, config.or("spatial", false)?);
    let heads = case.file(&config.get::<String>("heads")?)?;
    config.finish()?;
    let network = Lpips::new(net, &Device::Cpu)?;
    let mut tensors = case.weights()?;
    let prefix = format!("{}.", net.name());
    let of_net = |(name, t): (String, Tensor)| Some((name.strip_prefix(&prefix)?.to_string(), t));
    tensors.extend(weights::load(&heads, &Device::Cpu)?.tensors.into_iter().filter_map(of_net));
    network.import(&tensors, &case.name)?;
    let x0 = Var::from_tensor(&case.input("x0")?)?;
    let range = |x: &Tensor| if normalize { x.affine(2.0, -1.0) } else { Ok(x.clone()) };
    let compared = network.compare(&range(x0.as_tensor())?, &range(&case.input("x1")?)?)?;
    let mut answer = Answer::new();
    let distance = if spatial {
        let (_, _, height, width) = x0.as_tensor().dims4()?;
        compared.spatial(height, width)?
    } else {
        for (k, mean) in compared.means()?.into_iter().enumerate() {
            answer.insert(format!("out.layer{k}"), mean);
        }
        compared.distance()?
    };
    // Of the sum over the batch; spatial: of the mean over the map.
    let scalar = if spatial { distance.mean_all()? } else { distance.sum_all()? };
    let grad = scalar.backward()?.get(&x0).cloned().context("no gradient reaches the picture")?;
    answer.insert("grad.x0", grad);
    answer.insert("out.distance", distance);
    Ok(answer)
}

fn inception(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let blocks = config.get::<Vec<usize>>("output_blocks")?;
    let (resize, normalize) = (config.get::<bool>("resize_input")?, config.get::<bool>("normalize_input")?);
    ensure!(config.get::<bool>("use_fid_inception")?, "`use_fid_inception` is false, expected the network of FID");
    let eps = config.get::<f64>("bn_eps")?;
    let samples = config.section("sample")?;
    let network = Inception::new(&case.weights()?, eps, &case.name)?;
    let maps = network.blocks(&inception_input(case, resize, normalize)?)?;
    let mut answer = Answer::new();
    for block in blocks {
        ensure!(block < 4, "`output_blocks`: {block}, expected 0 to 3");
        if block == 3 {
            answer.insert("out.pool3", maps[3].flatten(1, 2)?.mean(1)?);
            continue;
        }
        let map = maps[block].permute((0, 3, 1, 2))?;
        answer.insert(format!("out.block{block}_mean"), map.flatten_from(2)?.mean(2)?);
        let [channels, pixels] = samples.get::<[usize; 2]>(&format!("block{block}"))?;
        let sample = every(&every(&every(&map, 1, channels)?, 2, pixels)?, 3, pixels)?;
        answer.insert(format!("out.block{block}_sample"), sample);
    }
    samples.finish()?;
    config.finish()?;
    Ok(answer)
}

/// The pictures as `[B, H, W, 3]` on the network's scale.
fn inception_input(case: &Case, resized: bool, normalize: bool) -> Result<Tensor> {
    let images = case.input("images")?;
    let (n, height, width, _) = images.dims4()?;
    let x = match resized {
        false => images.to_dtype(DType::F32)?.affine(2.0 / 255.0, -1.0)?,
        true => {
            let one = |i: usize| -> Result<Vec<f32>> {
                let image = RgbImage { width, height, pixels: images.get(i)?.flatten_all()?.to_vec1()? };
                Ok(inception::resize(&image, Resize::PytorchFid)?)
            };
            let values = (0..n).map(one).collect::<Result<Vec<_>>>()?.concat();
            Tensor::from_vec(values, (n, inception::SIDE, inception::SIDE, 3), &Device::Cpu)?
        }
    };
    Ok(if normalize { x } else { x.affine(0.5, 0.5)? })
}

/// Every `step`-th entry of a dimension, from the first on.
fn every(x: &Tensor, dim: usize, step: usize) -> Result<Tensor> {
    let indices: Vec<u32> = (0..x.dim(dim)? as u32).step_by(step).collect();
    let indices = Tensor::from_vec(indices.clone(), indices.len(), x.device())?;
    Ok(x.contiguous()?.index_select(&indices, dim)?)
}

fn image_resize(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let mut answer = Answer::new();
    for op in config.sections("ops")? {
        let name = op.opt::<String>("out")?;
        let skipped = op.opt::<String>("expect")?;
        ensure!(skipped.is_some() == name.is_none(), "an op gives a tensor or expects \"skipped\"");
        ensure!(skipped.is_none_or(|s| s == "skipped"), "`expect` is not \"skipped\"");
        let image = pixels(case, &op.get::<String>("in")?)?;
        match (name, resized(&image, &op)?) {
            (None, Resized::Skipped) => {}
            (Some(name), Resized::Bytes(out)) => {
                let shape = shape(&image, out.height, out.width, out.channels);
                answer.insert_values(name, out.data, shape)?;
            }
            (Some(name), Resized::Floats(values, height, width)) => {
                answer.insert_values(name, values, shape(&image, height, width, image.channels))?;
            }
            (name, _) => bail!("{name:?}: expected a picture or none, got the other"),
        }
        op.finish()?;
    }
    config.finish()?;
    Ok(answer)
}

/// What an op gives.
enum Resized {
    Bytes(Pixels),
    Floats(Vec<f32>, usize, usize),
    Skipped,
}

fn resized(image: &Pixels, op: &Config<'_>) -> Result<Resized> {
    let size = |key: &str| op.get::<usize>(key);
    Ok(Resized::Bytes(match op.get::<String>("op")?.as_str() {
        "pil_resize" => resize(image, size("width")?, size("height")?, filter(op, "filter")?, op.opt("box")?)?,
        "pil_resize_float" => {
            let (width, height) = (size("width")?, size("height")?);
            let values = resize_float(image, width, height, filter(op, "filter")?, op.get("clip")?)?;
            return Ok(Resized::Floats(values, height, width));
        }
        "edm_center_crop" => rules::edm_center_crop(image, size("width")?, size("height")?)?,
        "edm_center_crop_wide" => match rules::edm_center_crop_wide(image, size("width")?, size("height")?)? {
            Some(out) => out,
            None => return Ok(Resized::Skipped),
        },
        "edm_scale" => rules::edm_scale(image, size("width")?, size("height")?)?,
        "ldm_lsun" => rules::ldm_lsun(image, size("size")?, filter(op, "interpolation")?)?,
        "smallest_max_size_center_crop" => rules::smallest_max_size_center_crop(image, size("size")?, interpolation(op)?)?,
        "center_crop_frac_area" => rules::center_crop_frac_area(image, size("crop")?, size("size")?, interpolation(op)?)?,
        other => bail!("unknown op `{other}`"),
    }))
}

fn filter(op: &Config<'_>, key: &str) -> Result<Filter> {
    match op.get::<Resampling>(key)? {
        Resampling::Pillow(filter) => Ok(filter),
        other => bail!("`{key}` is {other}, expected a filter of Pillow"),
    }
}

fn interpolation(op: &Config<'_>) -> Result<Interpolation> {
    match op.get::<Resampling>("interpolation")? {
        Resampling::OpenCv(interpolation) => Ok(interpolation),
        other => bail!("`interpolation` is {other}, expected one of OpenCV"),
    }
}

/// The input `name`, [H, W] or [H, W, C] of bytes.
fn pixels(case: &Case, name: &str) -> Result<Pixels> {
    let tensor = case.input(name)?;
    let (height, width, channels) = match *tensor.dims() {
        [h, w] => (h, w, 1),
        [h, w, c] => (h, w, c),
        ref other => bail!("`in.{name}`: expected [H, W] or [H, W, C], got {other:?}"),
    };
    Ok(Pixels { width, height, channels, data: tensor.flatten_all()?.to_vec1::<u8>()? })
}

/// Grey pictures stay without a channel axis, unless a rule gave them three.
fn shape(input: &Pixels, height: usize, width: usize, channels: usize) -> Vec<usize> {
    if input.channels == 1 && channels == 1 { vec![height, width] } else { vec![height, width, channels] }
}
