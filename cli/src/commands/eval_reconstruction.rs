//! `strata eval reconstruction`

use serde_json::json;
use strata_autoencoder::{
    LoadedAutoencoder, ReconstructOptions, Reconstruction,
    perceptual::{Lpips, LpipsNet},
};
use strata_datasets::{Dataset, DatasetOptions, Transform, split};

use crate::{Outcome, args, context::Context, grid, hint::hinted};

/// Pairs of pictures in the grid, and pairs in a row of it.
const PAIRS: usize = 32;
const COLUMNS: usize = 8;

/// The command.
///
/// # Errors
/// Unusable autoencoder, data or LPIPS weights; see the libraries.
pub fn run(args: &args::EvalReconstruction, context: &Context) -> anyhow::Result<Outcome> {
    let autoencoder = strata_autoencoder::load(&args.autoencoder, &context.device)?;
    let data = Dataset::open(&args.data.data, &DatasetOptions::default())?;
    let transform = Transform::new(size_of(args.size, &autoencoder)?);
    let lpips = args.lpips.as_deref().map(|file| Lpips::load(net(args.lpips_net), file, &context.device)).transpose()?;
    if lpips.is_none() {
        context.say("LPIPS is left out: --lpips names no weights");
    }
    let indices = indices(args, &data)?;
    let options = ReconstructOptions { examples: PAIRS, lpips: lpips.as_ref(), batch: args.batch, tile: args.tile };
    let (progress, interrupt) = (context.progress.as_ref(), &context.interrupt);
    let measured = strata_autoencoder::reconstruct(&autoencoder, &data, &indices, &transform, options, progress, interrupt)?;
    if let Some(path) = &args.grid {
        grid::write_png(&measured.grid(COLUMNS)?, path)?;
    }
    if args.json {
        println!("{}", as_json(&measured, args, transform.size));
    } else {
        print(&measured, args);
    }
    Ok(if interrupt.is_set() { Outcome::Interrupted } else { Outcome::Done })
}

/// The side that is asked for, or that of the training.
///
/// # Errors
/// If there is neither.
pub fn size_of(asked: Option<usize>, autoencoder: &LoadedAutoencoder) -> anyhow::Result<usize> {
    match asked.unwrap_or(autoencoder.size) {
        0 if asked.is_none() => {
            let message = format!("{}: does not say what size of images it was trained on", autoencoder.file.display());
            Err(hinted(message, "give --size"))
        }
        size => Ok(size),
    }
}

/// The pictures that are measured.
fn indices(args: &args::EvalReconstruction, data: &Dataset) -> anyhow::Result<Vec<usize>> {
    let mut indices: Vec<usize> = match args.held_out {
        Some(share) if share > 0.0 && share < 1.0 => split(data, share).held_out,
        Some(share) => anyhow::bail!("--held-out: expected a share between 0 and 1, got {share}"),
        None => (0..data.len()).collect(),
    };
    indices.truncate(args.limit.unwrap_or(usize::MAX));
    anyhow::ensure!(!indices.is_empty(), "{}: no images to measure", args.data.data);
    Ok(indices)
}

fn net(name: args::LpipsNetwork) -> LpipsNet {
    match name {
        args::LpipsNetwork::Alex => LpipsNet::Alex,
        args::LpipsNetwork::Vgg => LpipsNet::Vgg,
        args::LpipsNetwork::Squeeze => LpipsNet::Squeeze,
    }
}

fn as_json(measured: &Reconstruction, args: &args::EvalReconstruction, size: usize) -> serde_json::Value {
    json!({
        "autoencoder": args.autoencoder, "data": args.data.data, "images": measured.count, "size": size,
        "psnr": measured.psnr, "ssim": measured.ssim, "mean_squared_error": measured.mean_squared_error,
        "lpips": measured.lpips, "codebook": measured.codebook, "latents": measured.latents,
    })
}

fn print(measured: &Reconstruction, args: &args::EvalReconstruction) {
    println!("images       {}", measured.count);
    println!("PSNR         {:.2} dB", measured.psnr);
    println!("SSIM         {:.4}", measured.ssim);
    if let Some(lpips) = measured.lpips {
        println!("LPIPS        {lpips:.4} ({})", net(args.lpips_net).name());
    }
    if let Some(codebook) = measured.codebook {
        println!(
            "codebook     {:.1} % of {} codes used, perplexity {:.1}",
            100.0 * codebook.used,
            codebook.codes,
            codebook.perplexity
        );
    }
    let numbers = |values: &[f64]| values.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>().join("  ");
    println!("latent mean  {}", numbers(&measured.latents.mean));
    println!("latent std   {}", numbers(&measured.latents.std));
    println!("scale factor {:.5}", measured.latents.scale_factor);
}
