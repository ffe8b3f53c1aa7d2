//! `strata convert ema`

use anyhow::ensure;
use strata_diffusion::training::MODEL;
use strata_nn::weights;
use strata_training::post_hoc;

use super::train_diffusion::{AUTOENCODER, keep_autoencoder};
use crate::{Outcome, args, hint::hinted};

/// The command.
///
/// # Errors
/// If the run has stored no averages, or the output is there already.
pub fn run(args: &args::ConvertEma) -> anyhow::Result<Outcome> {
    if args.out.exists() {
        return Err(hinted(format!("{}: exists already", args.out.display()), "choose another OUT, or remove it"));
    }
    ensure!(args.run.is_dir(), "{}: expected a run directory", args.run.display());
    let found = post_hoc::average(&args.run, args.sigma_rel, args.at_images)?;
    let is_file = args.out.extension().is_some_and(|e| e == "safetensors");
    let file = if is_file { args.out.clone() } else { args.out.join(MODEL) };
    if !is_file {
        std::fs::create_dir_all(&args.out)?;
        let autoencoder = args.run.join(AUTOENCODER);
        if autoencoder.is_file() {
            keep_autoencoder(&autoencoder, &args.out)?;
        }
    }
    weights::save(&file, &found.tensors, &found.metadata)?;
    println!(
        "{}: the average of relative width {} at {} images, from {} stored ones",
        args.out.display(),
        args.sigma_rel,
        found.seen_images,
        found.shares.len()
    );
    Ok(Outcome::Done)
}
