//! `strata push`: a model's weights and a card, as one commit.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use strata_diffusion::training::{self, MODEL};
use strata_hub::{Error, Kind, Spec, Upload};
use strata_nn::checkpoint::Checkpoint;
use strata_training::run;

use super::{push_card::Card, train_diffusion::AUTOENCODER};
use crate::{
    Outcome, args,
    context::Context,
    fetched::{client, explained},
    hint::hinted,
    origin::{self, Origin},
};

/// The command.
///
/// # Errors
/// If the model cannot be read, the token may not write, or the hub cannot be reached.
pub fn run(args: &args::Push, context: &Context) -> anyhow::Result<Outcome> {
    let spec = Spec::parse(args.repo.strip_prefix("hf:").unwrap_or(&args.repo), Kind::Model)?;
    ensure!(spec.file.is_none() && spec.repo.kind == Kind::Model, "{}: expected a repository of a model", args.repo);
    let made = tempfile::tempdir()?;
    let files = collect(args, &spec.repo.name, made.path())?;
    if let Some(to) = &args.to {
        return place(&files, to);
    }
    let stop = || context.interrupt.is_set();
    let sum: u64 = files.iter().filter_map(|file| Some(std::fs::metadata(&file.file).ok()?.len())).sum();
    context.say(format!("uploading {} files, {}", files.len(), crate::bars::size(sum)));
    match strata_hub::push(&client(context)?, &spec.repo, &files, (&args.message, args.private), &stop) {
        Err(Error::Stopped) => Ok(Outcome::Interrupted),
        Err(error) => Err(explained(error)),
        Ok(pushed) => {
            let address = pushed.address.unwrap_or_else(|| spec.repo.to_string());
            println!("{address}: {} files, {} sent", files.len(), crate::bars::size(pushed.sent));
            Ok(Outcome::Done)
        }
    }
}

/// The files of a model, and its card, which is written into `made`.
fn collect(args: &args::Push, name: &str, made: &Path) -> anyhow::Result<Vec<Upload>> {
    let mut files = parts(&args.run, made)?;
    let main = files.first().context("nothing to upload")?;
    let facts = Checkpoint::open(&main.file)?;
    let metrics = args.metrics.iter().map(|path| origin::read_json(path)).collect::<anyhow::Result<Vec<Value>>>()?;
    let card = Card { name, license: args.license.as_deref(), run: &args.run, weights: &facts, metrics: &metrics }.text()?;
    let path = made.join("README.md");
    std::fs::write(&path, card)?;
    files.push(Upload { file: path, path: "README.md".into() });
    Ok(files)
}

/// What a model consists of, the main weights first.
fn parts(path: &Path, made: &Path) -> anyhow::Result<Vec<Upload>> {
    let upload = |file: PathBuf, path: &str| Upload { file, path: path.to_string() };
    let of_autoencoder = path.join("run.toml").is_file() && run::read_info(path)?.kind.starts_with("autoencoder");
    let weights = if of_autoencoder { strata_autoencoder::weight_file(path)? } else { training::weight_file(path)? };
    match Origin::of(&Checkpoint::open(&weights)?) {
        Origin::StrataDiffusion => {
            let beside = if path.is_dir() { path.join(AUTOENCODER) } else { path.with_file_name(AUTOENCODER) };
            let mut files = vec![upload(weights, MODEL)];
            files.extend(beside.is_file().then(|| upload(beside, AUTOENCODER)));
            // Settings of the training, and the stages that it was trained with.
            files.extend(
                [path.join("config.toml")].into_iter().filter(|file| file.is_file()).map(|file| upload(file, "config.toml")),
            );
            Ok(files)
        }
        Origin::StrataAutoencoder(_) => {
            // Where diffusers can express it, its users can load it as well.
            let autoencoder = strata_autoencoder::load(&weights, &candle_core::Device::Cpu)?;
            let folder = made.join("diffusers");
            if strata_autoencoder::export_diffusers(&autoencoder, &folder, 1.0).is_err() {
                return Ok(vec![upload(weights, AUTOENCODER)]);
            }
            let published = origin::weights_in(&folder).context("the export has no weights")?;
            let name = published.file_name().context("a file without a name")?.to_string_lossy().into_owned();
            Ok(vec![upload(weights, AUTOENCODER), upload(published, &name), upload(folder.join("config.json"), "config.json")])
        }
        other => Err(hinted(
            format!("{}: {}, not a model of Strata", path.display(), other.describe()),
            "name a run, or what `strata convert` wrote",
        )),
    }
}

/// Copies what would be uploaded.
fn place(files: &[Upload], to: &Path) -> anyhow::Result<Outcome> {
    let empty = !to.exists() || std::fs::read_dir(to)?.next().is_none();
    if !empty {
        return Err(hinted(format!("{}: exists already", to.display()), "choose another --to, or remove it"));
    }
    for file in files {
        let there = to.join(&file.path);
        std::fs::create_dir_all(there.parent().unwrap_or(to)).with_context(|| to.display().to_string())?;
        std::fs::copy(&file.file, &there).with_context(|| there.display().to_string())?;
    }
    println!("{}: {} files as they would be uploaded", to.display(), files.len());
    Ok(Outcome::Done)
}
