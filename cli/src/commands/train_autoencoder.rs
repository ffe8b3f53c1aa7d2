//! `strata train autoencoder`

use std::path::Path;

use strata_autoencoder::{AutoencoderTraining, TrainSummary};
use strata_datasets::Dataset;
use strata_training::{RunDir, sha256_file};
use toml::Table;

use super::settings;
use crate::{Outcome, args, context::Context};

/// The command.
///
/// # Errors
/// Unusable settings, data or output; see the libraries.
pub fn run(args: &args::TrainAutoencoder, context: &Context) -> anyhow::Result<Outcome> {
    let data = Dataset::open(&args.data.data, &args.data.reading.options())?;
    let mut flags = Table::new();
    if let Some(size) = args.size {
        flags.insert("size".into(), toml::Value::Integer(size as i64));
    }
    if args.data.max_bad != 0.01 {
        flags.insert("max_bad".into(), toml::Value::Float(args.data.max_bad));
    }
    let (config, table): (AutoencoderTraining, Table) =
        settings::load(&args.settings, AutoencoderTraining::PRESETS, None, context, flags)?;
    config.validate()?;
    if args.settings.dry_run {
        settings::print(&table)?;
        println!("# {}", strata_autoencoder::describe(&config)?.replace('\n', "\n# "));
        return Ok(Outcome::Done);
    }
    let summary = train(&config, &table, &data, &args.out, context)?;
    let psnr = summary.held_out_psnr.map_or(String::new(), |v| format!(", held-out PSNR {v:.2} dB"));
    println!("{}: {} images seen, {:.3} s a step{psnr}", args.out.display(), summary.seen_images, summary.seconds_per_step);
    Ok(if summary.interrupted { Outcome::Interrupted } else { Outcome::Done })
}

/// Trains in the run directory `out`, from where it stands.
///
/// # Errors
/// As the library's.
pub fn train(
    config: &AutoencoderTraining,
    table: &Table,
    data: &Dataset,
    out: &Path,
    context: &Context,
) -> anyhow::Result<TrainSummary> {
    let mut identity = table.clone();
    identity.insert("data".into(), toml::Value::Table(data_identity(data)?));
    if config.perceptual.weight > 0.0 {
        identity.insert("perceptual_network".into(), toml::Value::String(perceptual_identity(config)?));
    }
    let mut run = RunDir::open_changing(out, "autoencoder", &identity, AutoencoderTraining::FREE_KEYS)?;
    Ok(strata_autoencoder::train(config, data, &mut run, &context.device, context.progress.as_ref(), &context.interrupt)?)
}

/// The weights of the perceptual network, wherever they lie, or what takes their place.
fn perceptual_identity(config: &AutoencoderTraining) -> anyhow::Result<String> {
    let file = Path::new(&config.perceptual.file);
    Ok(if file.is_file() { format!("sha256 {}", sha256_file(file)?) } else { "none: Laplacian pyramids".to_string() })
}

/// What a run remembers of its data.
fn data_identity(data: &Dataset) -> anyhow::Result<Table> {
    Ok(Table::from_iter([
        ("items".to_string(), toml::Value::Integer(data.len() as i64)),
        ("fingerprint".to_string(), toml::Value::String(data.fingerprint()?)),
    ]))
}
