//! What a model is shown: `--low-res`, `--map`, or the hole of `--init-image` that `--mask` says.

use std::path::Path;

use anyhow::ensure;
use candle_core::Tensor;
use strata_autoencoder::pictures::to_tensor;
use strata_conditioning::{ImageCondition, ImageInput};
use strata_datasets::Transform;
use strata_diffusion::sampling::ShownImages;

use super::{Painter, start::Beginning};
use crate::{
    args,
    commands::images::{self, Taken},
    context::Context,
    hint::hinted,
};

/// What a model is shown, and what decides it.
pub struct Shown {
    /// For the library.
    pub images: ShownImages,
    /// SHA-256 of the files; none for a hole, whose files are those of the beginning.
    pub sha256: Vec<String>,
}

/// What is asked for; none where the model is shown nothing.
///
/// # Errors
/// If a file is unusable, or an option is given that the model does not know, or is missing.
pub fn load(
    args: &args::Shown,
    beginning: Option<&Beginning>,
    painter: &Painter,
    seeds: &[u64],
    context: &Context,
) -> anyhow::Result<Option<Shown>> {
    let input = painter.model.config().image.as_ref();
    refuse_foreign(args, input)?;
    let Some(input) = input else { return Ok(None) };
    let (given, option) = match input.condition {
        ImageCondition::LowRes { .. } => (args.low_res.as_deref(), "--low-res FILE"),
        ImageCondition::Map { .. } => (args.map.as_deref(), "--map FILE"),
        ImageCondition::Inpaint => {
            if let Some(hole) = beginning.and_then(|b| b.hole.as_ref()) {
                let images = ShownImages { images: hole.clone(), of: vec![0; seeds.len()], noise: 0.0 };
                return Ok(Some(Shown { images, sha256: Vec::new() }));
            }
            (None, "--init-image FILE --mask FILE")
        }
    };
    match given {
        Some(path) => read(path, args.low_res_noise.unwrap_or(0.0), input, (painter, seeds), context).map(Some),
        None if input.dropout > 0.0 => Ok(None),
        None => Err(hinted(format!("the model must be shown {}", input.condition), format!("give it with {option}"))),
    }
}

/// Options of other kinds of models.
fn refuse_foreign(args: &args::Shown, input: Option<&ImageInput>) -> anyhow::Result<()> {
    let condition = input.map(|input| &input.condition);
    let low_res = matches!(condition, Some(ImageCondition::LowRes { .. }));
    let map = matches!(condition, Some(ImageCondition::Map { .. }));
    for (option, given, known) in [("--low-res", args.low_res.is_some(), low_res), ("--map", args.map.is_some(), map)] {
        let shown = condition.map_or("nothing".to_string(), ToString::to_string);
        ensure!(!given || known, "{option}: the model was trained to be shown {shown}");
    }
    Ok(())
}

/// Reads a file, or the files of a folder, which the seeds take in turn.
fn read(
    path: &Path,
    noise: f64,
    input: &ImageInput,
    (painter, seeds): (&Painter, &[u64]),
    context: &Context,
) -> anyhow::Result<Shown> {
    let taken = Taken::new(path, seeds)?;
    let rows = taken.files.iter().map(|file| image(file, input, painter, context)).collect::<anyhow::Result<Vec<_>>>()?;
    let sha256 = taken.sha256()?;
    Ok(Shown { images: ShownImages { images: Tensor::cat(&rows, 0)?, of: taken.of, noise }, sha256 })
}

/// `[1, C, h, w]` of a file.
fn image(file: &Path, input: &ImageInput, painter: &Painter, context: &Context) -> anyhow::Result<Tensor> {
    let [_, side, _] = input.shape;
    let (transform, device) = (Transform::new(side), painter.model.store().device());
    if let ImageCondition::Map { classes, .. } = input.condition {
        let map = images::read_map(file, &transform, classes)?;
        let ids: Vec<f32> = map.pixels.chunks_exact(3).map(|pixel| f32::from(pixel[0])).collect();
        return Ok(Tensor::from_vec(ids, (1, 1, side, side), device)?);
    }
    let picture = images::decode(file)?;
    if (picture.width, picture.height) != (side, side) {
        let (from, to) = (format!("{}x{}", picture.width, picture.height), format!("{side}x{side}"));
        context.say(format!("{}: {from} pixels, cropped and resized to the {to} that the model is shown", file.display()));
    }
    Ok(to_tensor(&transform.apply(&picture)?.pixels, 1, side, device)?)
}
