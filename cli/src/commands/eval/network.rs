//! The network that describes images: the Inception of FID, or an extractor trained here.

use strata_diffusion::evaluation::{
    classifier::ClassifierExtractor,
    extractor::{Extractor, InceptionExtractor},
    inception::Resize,
    vision::VisionExtractor,
};

use super::Asked;
use crate::{args, args::ResizeRule, context::Context, hint::hinted};

/// Loads what was asked for.
///
/// # Errors
/// If nothing was, with where the weights come from; if a file is not of the network.
pub fn load(args: &args::Weights, asked: Asked, context: &Context) -> anyhow::Result<Box<dyn Extractor>> {
    match (&args.weights, &args.extractor) {
        (_, Some(folder)) if folder.is_dir() => Ok(Box::new(VisionExtractor::load(folder, &context.device)?)),
        (_, Some(file)) => Ok(Box::new(ClassifierExtractor::load(file, &context.device)?)),
        (Some(_), None) if asked == Asked::Distance => {
            Err(hinted("--weights: `eval fd` measures with an --extractor", "`strata eval fid` takes the Inception weights"))
        }
        (Some(file), None) => Ok(Box::new(InceptionExtractor::load(file, resize(args.resize), &context.device)?)),
        (None, None) if asked == Asked::Distance => {
            Err(hinted("--extractor: name the extractor to measure with", "`strata eval train-extractor` makes one"))
        }
        (None, None) => Err(hinted(
            "--weights: name the weights of the Inception network",
            "they are the file `pt_inception-2015-12-05-6726825d.pth` of the pytorch-fid project's releases, or torch-fidelity's \
             `weights-inception-2015-12-05-6726825d.pth`; without them, `strata eval train-extractor` and `strata eval fd` give a \
             distance of their own",
        )),
    }
}

/// What a Fréchet distance of this network is called: that of an extractor of one's own has no name of the `literature`.
pub fn frechet_name(network: &dyn Extractor, literature: &'static str) -> &'static str {
    if network.spatial() > 0 { literature } else { "frechet_distance" }
}

/// The name of a distance as it is spelled for people.
pub fn spelled(name: &str) -> &str {
    if name == "fid" { "FID" } else { "Fréchet distance" }
}

fn resize(rule: ResizeRule) -> Resize {
    match rule {
        ResizeRule::PytorchFid => Resize::PytorchFid,
        ResizeRule::TorchFidelity => Resize::TorchFidelity,
        ResizeRule::CleanFid => Resize::CleanFid,
    }
}
