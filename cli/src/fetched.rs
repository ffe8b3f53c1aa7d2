//! `hf:owner/name[@rev][/file]` wherever a path to weights or data is taken: fetched first, then a path like any other.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::Value;
use strata_hub::{Client, Error, Kind, Repository, Settings, Spec, Wanted, pull, pull_file};

use crate::{
    args::{Command, Compared, Convert, ConvertCommand, DataCommand, EvalCommand, TrainCommand, Weights},
    bars::Downloads,
    context::Context,
    hint::hinted,
};

/// What such a path begins with.
const PREFIX: &str = "hf:";

/// Fetches what the arguments of a command name on a hub, and puts the paths in the cache in their place.
///
/// # Errors
/// If something cannot be had.
pub fn resolve(command: &mut Command, context: &Context) -> anyhow::Result<()> {
    let model = |path: &mut PathBuf| of_path(path, Kind::Model, context);
    let data = |text: &mut String| of_text(text, Kind::Dataset, context);
    let sets = |sets: &mut Vec<String>| sets.iter_mut().try_for_each(|set| of_setting(set, context));
    match command {
        Command::Demo(_) | Command::Pull(_) | Command::Convert(ConvertCommand { weights: None, .. }) => Ok(()),
        Command::Data(DataCommand::Inspect(args)) => data(&mut args.data),
        Command::Data(DataCommand::Convert(args)) => data(&mut args.data),
        Command::Data(DataCommand::Verify(args)) => of_path(&mut args.latents, Kind::Dataset, context),
        Command::Train(TrainCommand::Autoencoder(args)) => {
            data(&mut args.data.data)?;
            sets(&mut args.settings.set)
        }
        Command::Train(TrainCommand::Diffusion(args)) => {
            args.data.iter_mut().try_for_each(data)?;
            args.latents.iter_mut().try_for_each(|path| of_path(path, Kind::Dataset, context))?;
            args.autoencoder.iter_mut().chain(&mut args.warm_start).try_for_each(model)?;
            sets(&mut args.settings.set)
        }
        Command::Encode(args) => {
            model(&mut args.autoencoder)?;
            args.texts.text_encoder.iter_mut().try_for_each(model)?;
            data(&mut args.data.data)
        }
        Command::Stages(args) => {
            args.data.iter_mut().try_for_each(data)?;
            args.latents.iter_mut().try_for_each(|path| of_path(path, Kind::Dataset, context))?;
            args.checkpoint.iter_mut().try_for_each(model)
        }
        Command::Sample(args) => {
            model(&mut args.model)?;
            let more = [&mut args.autoencoder, &mut args.wish.told.text_encoder, &mut args.wish.told.autoguidance];
            more.into_iter().flatten().try_for_each(model)
        }
        Command::Decode(args) => {
            of_path(&mut args.latents, Kind::Dataset, context)?;
            args.autoencoder.iter_mut().try_for_each(model)
        }
        Command::Eval(command) => eval(command, context),
        Command::Convert(ConvertCommand { weights: Some(Convert { input, autoencoder, text_encoder, .. }), .. }) => {
            model(input)?;
            [autoencoder, text_encoder].into_iter().flatten().try_for_each(model)
        }
        Command::Inspect(args) => args.target.iter_mut().try_for_each(|text| of_text(text, Kind::Model, context)),
        Command::Push(args) => model(&mut args.run),
    }
}

fn eval(command: &mut EvalCommand, context: &Context) -> anyhow::Result<()> {
    let model = |path: &mut PathBuf| of_path(path, Kind::Model, context);
    let data = |text: &mut String| of_text(text, Kind::Dataset, context);
    let network = |args: &mut Weights| [&mut args.weights, &mut args.extractor].into_iter().flatten().try_for_each(model);
    let compared = |args: &mut Compared| -> anyhow::Result<()> {
        network(&mut args.network.which)?;
        args.runs.iter_mut().try_for_each(model)?;
        [&mut args.told.text_encoder, &mut args.told.autoguidance].into_iter().flatten().try_for_each(model)?;
        args.against.reference.iter_mut().try_for_each(data)
    };
    match command {
        EvalCommand::Reconstruction(args) => {
            model(&mut args.autoencoder)?;
            args.lpips.iter_mut().try_for_each(model)?;
            network(&mut args.network)?;
            data(&mut args.data.data)
        }
        EvalCommand::Fid(args)
        | EvalCommand::Sfid(args)
        | EvalCommand::Kid(args)
        | EvalCommand::Is(args)
        | EvalCommand::Prdc(args)
        | EvalCommand::Fd(args) => {
            network(&mut args.network.which)?;
            [&mut args.run, &mut args.wish.told.text_encoder, &mut args.wish.told.autoguidance]
                .into_iter()
                .flatten()
                .try_for_each(model)?;
            [&mut args.samples, &mut args.against.reference].into_iter().flatten().try_for_each(data)
        }
        EvalCommand::Statistics(args) => {
            network(&mut args.network.which)?;
            data(&mut args.data.data)
        }
        EvalCommand::Sweep(args) => compared(&mut args.compared),
        EvalCommand::Efficiency(args) => compared(&mut args.compared),
        EvalCommand::TrainExtractor(args) => data(&mut args.data.data),
        EvalCommand::Nearest(args) => {
            network(&mut args.network.which)?;
            [&mut args.samples, &mut args.data.data].into_iter().try_for_each(data)
        }
    }
}

fn of_path(path: &mut PathBuf, usual: Kind, context: &Context) -> anyhow::Result<()> {
    if let Some(spec) = path.to_str().and_then(|text| text.strip_prefix(PREFIX)) {
        *path = fetch(spec, usual, context)?;
    }
    Ok(())
}

fn of_text(text: &mut String, usual: Kind, context: &Context) -> anyhow::Result<()> {
    if let Some(spec) = text.strip_prefix(PREFIX) {
        *text = fetch(spec, usual, context)?.display().to_string();
    }
    Ok(())
}

/// The value of `key=hf:owner/name/file`.
fn of_setting(set: &mut String, context: &Context) -> anyhow::Result<()> {
    let Some((key, spec)) = set.split_once('=').and_then(|(key, value)| Some((key, value.trim().strip_prefix(PREFIX)?))) else {
        return Ok(());
    };
    *set = format!("{key}={}", fetch(spec, Kind::Model, context)?.display());
    Ok(())
}

/// The path in the cache of what `spec` names: a file, a folder, or all that a model or data set needs.
fn fetch(spec: &str, usual: Kind, context: &Context) -> anyhow::Result<PathBuf> {
    let (client, spec) = (client(context)?, Spec::parse(spec, usual)?);
    let progress = Downloads::new(context);
    let fetched = match &spec.file {
        None => {
            let wanted = if spec.repo.kind == Kind::Model { Wanted::Weights } else { Wanted::All };
            pull(&client, &spec.repo, &wanted, &progress).map(|pulled| pulled.folder)
        }
        // A name without an ending is a folder's, if there is one.
        Some(path) if !path.rsplit('/').next().unwrap_or(path).contains('.') => {
            let below = Wanted::Matching(vec![format!("{path}/")]);
            pull(&client, &spec.repo, &below, &progress)
                .map(|pulled| pulled.folder.join(path))
                .or_else(|_| pull_file(&client, &spec.repo, path, &progress))
        }
        Some(path) => with_companions(&client, &spec.repo, path, &progress),
    };
    progress.finish();
    fetched.map_err(explained)
}

/// A weight file, with the parts that it is the list of, and the configuration beside it, if there is one.
fn with_companions(client: &Client, repo: &Repository, path: &str, progress: &Downloads<'_>) -> strata_hub::Result<PathBuf> {
    let file = pull_file(client, repo, path, progress)?;
    let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    if path.ends_with(".index.json") {
        for shard in shards(&file) {
            pull_file(client, repo, &format!("{folder}{shard}"), progress)?;
        }
    }
    if repo.kind == Kind::Model && [".safetensors", ".bin", ".index.json"].iter().any(|end| path.ends_with(end)) {
        match pull_file(client, repo, &format!("{folder}config.json"), progress) {
            // Not every file has one.
            Ok(_) | Err(Error::Refused { .. } | Error::Offline(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(file)
}

/// The names of the files that an index lists; the reader of weights says what is wrong with one that cannot be read.
fn shards(index: &Path) -> Vec<String> {
    let json: Option<Value> = std::fs::read(index).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let Some(map) = json.as_ref().and_then(|json| json["weight_map"].as_object()) else { return Vec::new() };
    let mut names: Vec<String> = map.values().filter_map(|name| Some(name.as_str()?.to_string())).collect();
    names.retain(|name| !name.contains(['/', '\\']) && !name.starts_with('.'));
    names.sort();
    names.dedup();
    names
}

/// The hub, as the environment says.
///
/// # Errors
/// If it says what cannot be.
pub fn client(context: &Context) -> anyhow::Result<Client> {
    Client::new(Settings::from_env(context.offline)).context("the hub")
}

/// With the remedy as a hint.
pub fn explained(error: Error) -> anyhow::Error {
    match error.remedy().map(ToString::to_string) {
        Some(remedy) => hinted(error.to_string(), remedy),
        None => error.into(),
    }
}
