//! `strata convert`

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use strata_nn::checkpoint::Checkpoint;

use super::{convert_diffusers, convert_published};
use crate::{Outcome, args, context::Context, hint::hinted, origin::Origin};

/// The command.
///
/// # Errors
/// If the input cannot be read, or the output is there already or has no place for a part.
pub fn run(args: &args::Convert, context: &Context) -> anyhow::Result<Outcome> {
    let empty = args.out.is_dir() && std::fs::read_dir(&args.out)?.next().is_none();
    if args.out.exists() && !empty {
        return Err(hinted(format!("{}: exists already", args.out.display()), "choose another OUT, or remove it"));
    }
    if let Some(preset) = &args.preset {
        return convert_published::run(args, preset, context);
    }
    if !args.plain && convert_diffusers::class(&args.input).is_some() {
        return convert_diffusers::import(args, context);
    }
    ensure!(
        args.autoencoder.is_none() && args.text_encoder.is_none(),
        "--autoencoder and --text-encoder: only for diffusion models of other programs"
    );
    if !args.plain && convert_diffusers::is_ours(&args.input) {
        return convert_diffusers::export(args, context);
    }
    if args.input.is_dir() {
        ensure!(!args.plain, "--plain: expected a weight file, got the folder {}", args.input.display());
        return autoencoder(args, context);
    }
    let file = Checkpoint::open(&args.input)?;
    if args.yaml.is_some() && !args.plain {
        return convert_published::ldm(args, &file, context);
    }
    match Origin::of(&file) {
        _ if args.plain => plain(&file, args),
        Origin::StrataAutoencoder(_) => autoencoder(args, context),
        Origin::Diffusers(class) if ["AutoencoderKL", "VQModel", "AutoencoderTiny"].contains(&class.as_str()) => {
            autoencoder(args, context)
        }
        Origin::CompvisAutoencoder if is_file_name(&args.input) => autoencoder(args, context),
        Origin::Edm => convert_published::edm(args, &file, context),
        Origin::LatentDiffusion => convert_published::ldm(args, &file, context),
        Origin::Unknown => plain(&file, args),
        other => Err(hinted(
            format!("{}: {} cannot be converted into a model of Strata", args.input.display(), other.describe()),
            "a diffusion model needs --preset, or diffusers' config.json beside it; --plain only changes the container, into a safetensors file with the same names",
        )),
    }
}

fn is_file_name(out: &Path) -> bool {
    out.extension().is_some_and(|e| e == "safetensors")
}

/// Into Strata's own layout, or into that of diffusers.
fn autoencoder(args: &args::Convert, context: &Context) -> anyhow::Result<Outcome> {
    let autoencoder = strata_autoencoder::load(&args.input, &context.device)?;
    let layout = if is_file_name(&args.out) {
        strata_autoencoder::save(&autoencoder, &args.out)?;
        "Strata"
    } else {
        let factor = args.scaling_factor.unwrap_or(1.0);
        ensure!(factor.is_finite() && factor > 0.0, "--scaling-factor: expected a number above 0, got {factor}");
        strata_autoencoder::export_diffusers(&autoencoder, &args.out, factor)?;
        "diffusers"
    };
    let count = autoencoder.store.element_count();
    println!("{}: an autoencoder of {count} parameters, in the layout of {layout}", args.out.display());
    Ok(Outcome::Done)
}

/// The same tensors in a safetensors file.
fn plain(file: &Checkpoint, args: &args::Convert) -> anyhow::Result<Outcome> {
    if !is_file_name(&args.out) {
        return Err(hinted(
            format!("{}: expected a name that ends in .safetensors", args.out.display()),
            "weights of an unknown network keep their names and go into one safetensors file",
        ));
    }
    let mut metadata = texts(file);
    metadata.extend(provenance(file)?);
    file.write_safetensors(&args.out, &metadata)?;
    println!("{}: {} tensors under their own names", args.out.display(), file.tensors().len());
    Ok(Outcome::Done)
}

/// The text metadata of a safetensors file, which a change of container keeps.
fn texts(file: &Checkpoint) -> BTreeMap<String, String> {
    let text = |(key, value): (&String, &Value)| {
        Some((key.strip_prefix("__metadata__.")?.to_string(), value.as_str().map(ToString::to_string)?))
    };
    file.metadata().iter().filter_map(text).collect()
}

fn provenance(file: &Checkpoint) -> anyhow::Result<BTreeMap<String, String>> {
    let name = file.path().file_name().context("a file without a name")?.to_string_lossy().into_owned();
    let mut facts = vec![("source", name), ("source_format", file.format().describe().to_string())];
    for (key, fact) in [("global_step", "source_step"), ("step", "source_step")] {
        if let Some(step) = file.metadata().get(key).filter(|step| step.is_number()) {
            facts.push((fact, step.to_string()));
        }
    }
    Ok(facts.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
}
