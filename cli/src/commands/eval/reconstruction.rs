//! `strata eval reconstruction`

use std::cell::RefCell;

use serde_json::json;
use strata_autoencoder::{
    Error, LoadedAutoencoder, ReconstructOptions, Reconstruction,
    perceptual::{Lpips, LpipsNet},
};
use strata_datasets::{Dataset, RgbImage, Transform, split};
use strata_diffusion::evaluation::{
    collect::{Collector, Keep},
    extractor::Extractor,
    frechet::{Frechet, Prepared},
};

use super::{Asked, measure, network};
use crate::{Outcome, args, args::Metric, context::Context, grid, hint::hinted};

/// Pairs of pictures in the grid, and pairs in a row of it.
const PAIRS: usize = 32;
const COLUMNS: usize = 8;

/// The command.
///
/// # Errors
/// Unusable autoencoder, data, LPIPS weights or network; see the libraries.
pub fn reconstruction(args: &args::EvalReconstruction, context: &Context) -> anyhow::Result<Outcome> {
    let autoencoder = strata_autoencoder::load(&args.autoencoder, &context.device)?;
    let data = Dataset::open(&args.data.data, &args.data.reading.options())?;
    let transform = Transform::new(size_of(args.size, &autoencoder)?);
    let lpips = args.lpips.as_deref().map(|file| Lpips::load(net(args.lpips_net), file, &context.device)).transpose()?;
    if lpips.is_none() {
        context.say("LPIPS is left out: --lpips names no weights");
    }
    let extractor = extractor(args, context)?;
    let indices = indices(args, &data)?;
    let pairs = extractor.as_deref().map(Pairs::new);
    let watch = |originals: &[RgbImage], reconstructions: &[RgbImage]| match &pairs {
        Some(pairs) => pairs.add(originals, reconstructions),
        None => Ok(()),
    };
    let options = ReconstructOptions {
        examples: PAIRS,
        lpips: lpips.as_ref(),
        batch: args.batch,
        tile: args.tile,
        max_bad: Some(args.data.max_bad),
        watch: Some(&watch),
    };
    let (progress, interrupt) = (context.progress.as_ref(), &context.interrupt);
    let measured = strata_autoencoder::reconstruct(&autoencoder, &data, &indices, &transform, options, progress, interrupt)?;
    let distance = pairs.map(Pairs::distance).transpose()?;
    if let Some(path) = &args.grid {
        grid::write_png(&measured.grid(COLUMNS)?, path)?;
    }
    let distance = distance.zip(extractor.as_deref());
    if args.json {
        println!("{}", as_json(&measured, distance, args, transform.size));
    } else {
        print(&measured, distance, args);
    }
    Ok(if interrupt.is_set() { Outcome::Interrupted } else { Outcome::Done })
}

/// The network of the distance between images and reconstructions, if one is named.
fn extractor(args: &args::EvalReconstruction, context: &Context) -> anyhow::Result<Option<Box<dyn Extractor>>> {
    let asked = match (&args.network.weights, &args.network.extractor) {
        (None, None) => {
            context.say("rFID is left out: --weights names no Inception network, --extractor no extractor in its place");
            return Ok(None);
        }
        (_, Some(_)) => Asked::Distance,
        (Some(_), None) => Asked::Metric(Metric::Fid),
    };
    network::load(&args.network, asked, context).map(Some)
}

/// Images and reconstructions, both described as they come.
struct Pairs<'a>(RefCell<[Collector<'a>; 2]>);

impl<'a> Pairs<'a> {
    fn new(extractor: &'a dyn Extractor) -> Self {
        Self(RefCell::new([0, 1].map(|_| Collector::new(extractor, Keep::default()))))
    }

    fn add(&self, originals: &[RgbImage], reconstructions: &[RgbImage]) -> strata_autoencoder::Result<()> {
        let [of_originals, of_reconstructions] = &mut *self.0.borrow_mut();
        let added = of_originals.add(originals).and_then(|()| of_reconstructions.add(reconstructions));
        added.map_err(|e| Error::Watcher(e.to_string()))
    }

    /// Of the reconstructions to the images that they are of.
    fn distance(self) -> anyhow::Result<Frechet> {
        let [originals, reconstructions] = self.0.into_inner().map(|collector| collector.finish().moments);
        measure::distance(&reconstructions, &Prepared::new(&originals.statistics()?)?)
    }
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

type Distance<'a> = Option<(Frechet, &'a dyn Extractor)>;

fn as_json(measured: &Reconstruction, distance: Distance<'_>, args: &args::EvalReconstruction, size: usize) -> serde_json::Value {
    let mut value = json!({
        "strata": env!("CARGO_PKG_VERSION"),
        "autoencoder": args.autoencoder, "data": args.data.data, "images": measured.count, "size": size,
        "psnr": measured.psnr, "ssim": measured.ssim, "mean_squared_error": measured.mean_squared_error,
        "lpips": measured.lpips, "codebook": measured.codebook, "latents": measured.latents,
    });
    if let Some((distance, extractor)) = distance {
        value[network::frechet_name(extractor, "rfid")] = json!(distance);
        value["network"] = json!(extractor.identity());
    }
    value
}

fn print(measured: &Reconstruction, distance: Distance<'_>, args: &args::EvalReconstruction) {
    println!("images       {}", measured.count);
    println!("PSNR         {:.2} dB", measured.psnr);
    println!("SSIM         {:.4}", measured.ssim);
    if let Some(lpips) = measured.lpips {
        println!("LPIPS        {lpips:.4} ({})", net(args.lpips_net).name());
    }
    if let Some((distance, extractor)) = distance {
        match network::frechet_name(extractor, "rFID") {
            "rFID" => println!("rFID         {:.5}", distance.distance),
            _ => println!("Fréchet      {:.5}", distance.distance),
        }
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
