//! `strata eval fid`, `kid`, `is`, `prdc`, `fd` and what belongs to them: samples against data, by the features of a network.

mod cells;
mod efficiency;
mod measure;
mod nearest;
mod network;
mod pickled;
mod points;
mod reconstruction;
mod reference;
mod samples;
mod source;
mod statistics;
mod stats_file;
mod sweep;
mod two_files;
mod warnings;

use anyhow::ensure;
use serde_json::{Value, json};
use strata_datasets::Dataset;
use strata_diffusion::evaluation::{
    classifier::{self, ExtractorTraining},
    collect::{Collected, Keep},
};

use self::{measure::Measured, reference::Reference, samples::Samples};
use crate::{Outcome, args, args::Metric, context::Context};
pub use efficiency::efficiency;
pub use nearest::nearest;
pub use reconstruction::{reconstruction, size_of};
pub use statistics::statistics;
pub use sweep::sweep;

/// What is said where another network is named.
const SPATIAL_NEEDS: &str = "spatial features are those of the Inception network (--weights)";

/// What a command was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A measure by its name in the literature.
    Metric(Metric),
    /// The Fréchet distance of a trained extractor.
    Distance,
}

/// The commands that measure samples.
///
/// # Errors
/// A network, reference or samples that cannot be used, or that do not go together; see the libraries.
pub fn run(asked: Asked, args: &args::Measure, context: &Context) -> anyhow::Result<Outcome> {
    let metrics = metrics(asked, args);
    if two_files::applies(args) {
        return two_files::compare(asked, &metrics, args);
    }
    check(asked, &metrics, args)?;
    let network = network::load(&args.network.which, asked, context)?;
    if metrics.contains(&Metric::Is) {
        ensure!(
            network.classes() > 0,
            "the inception score needs the classifier of the weights (`fc.weight`), which is not there"
        );
    }
    let keep_features = metrics.iter().any(|m| matches!(m, Metric::Kid | Metric::Prdc));
    let keep = Keep {
        features: keep_features || args.constants.bootstrap > 0 || args.constants.extrapolate,
        logits: metrics.contains(&Metric::Is),
        spatial: metrics.contains(&Metric::Sfid),
    };
    let wants_reference = metrics.iter().any(|m| *m != Metric::Is);
    let reference = match wants_reference {
        true => {
            let wanted = reference::Asked { against: &args.against, network: &args.network, reading: &args.reading };
            let of_each = Keep { features: keep_features, logits: false, spatial: keep.spatial };
            Some(Reference::load(&wanted, network.as_ref(), of_each, context)?)
        }
        false => None,
    };
    let samples = Samples::open(args, context)?;
    let mut runs = Vec::new();
    for repeat in 0..args.constants.repeats.max(1) {
        let seen = samples.collect(repeat, network.as_ref(), keep, args, context)?;
        warnings::tell(&seen, network.identity().features, &metrics, context);
        runs.push((measure::measure(&metrics, &seen, reference.as_ref(), network.as_ref(), args, context)?, seen));
    }
    let answer = answer(&runs, network.identity(), reference.as_ref(), &samples, (args, context))?;
    if let Some(out) = &args.out {
        strata_nn::weights::write_atomic(out, serde_json::to_string_pretty(&answer)?.as_bytes())?;
    }
    match args.json {
        true => println!("{answer}"),
        false => runs.iter().for_each(|(measured, seen)| measured.print(seen.moments.count())),
    }
    if !args.json && runs.len() > 1 {
        print_best(&answer);
    }
    Ok(Outcome::Done)
}

/// What is asked for, each once, in a fixed order.
fn metrics(asked: Asked, args: &args::Measure) -> Vec<Metric> {
    let first = match asked {
        Asked::Metric(metric) => metric,
        Asked::Distance => Metric::Fid,
    };
    let mut all: Vec<Metric> = std::iter::once(first).chain(args.also.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn check(asked: Asked, metrics: &[Metric], args: &args::Measure) -> anyhow::Result<()> {
    let own = args.network.which.extractor.is_some();
    let by_name = asked != Asked::Distance && metrics.contains(&Metric::Fid);
    ensure!(!(own && by_name), "--extractor: what it measures is no FID; `strata eval fd` gives its distance");
    ensure!(!(own && metrics.contains(&Metric::Is)), "--extractor: an inception score needs the Inception network (--weights)");
    ensure!(!(own && metrics.contains(&Metric::Sfid)), "--extractor: {SPATIAL_NEEDS}");
    let wants_reference = metrics.iter().any(|m| *m != Metric::Is);
    ensure!(!wants_reference || args.against.reference.is_some(), reference::MISSING);
    if args.run.is_some() {
        super::sample::check(&args.solver)?;
    }
    ensure!(args.constants.repeats <= 1 || args.run.is_some(), "--repeats: needs --run");
    Ok(())
}

type Runs = [(Measured, Collected)];

/// Everything that a number was made from, and the numbers.
fn answer(
    runs: &Runs,
    identity: &strata_diffusion::evaluation::extractor::Identity,
    reference: Option<&Reference>,
    samples: &Samples,
    (args, context): (&args::Measure, &Context),
) -> anyhow::Result<Value> {
    let one = |(i, (measured, seen)): (usize, &(Measured, Collected))| {
        let mut value = measured.as_json();
        value["samples"] = samples.describe(i, seen, args);
        value["warnings"] = json!(warnings::of(seen, identity.features, &measured.metrics));
        value
    };
    let all: Vec<Value> = runs.iter().enumerate().map(one).collect();
    let mut answer = json!({
        "strata": env!("CARGO_PKG_VERSION"),
        "network": identity,
        "reference": reference.map(Reference::describe),
        "constants": {
            "kid_subsets": args.constants.subsets, "kid_subset_size": args.constants.subset_size,
            "inception_score_splits": args.constants.splits, "nearest_k": args.constants.nearest_k,
            "bootstrap": args.constants.bootstrap, "seed": context.seed.unwrap_or(0),
        },
    });
    if let [only] = all.as_slice() {
        for (key, value) in only.as_object().into_iter().flatten() {
            answer[key] = value.clone();
        }
        return Ok(answer);
    }
    for (name, values) in measure::distances(runs.iter().map(|(measured, _)| measured)) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        answer["over_repeats"][name] = json!({ "min": min, "mean": mean });
    }
    answer["repeats"] = json!(all);
    Ok(answer)
}

fn print_best(answer: &Value) {
    for (name, value) in answer["over_repeats"].as_object().into_iter().flatten() {
        println!(
            "{name}: lowest {:.5}, mean {:.5}",
            value["min"].as_f64().unwrap_or(f64::NAN),
            value["mean"].as_f64().unwrap_or(f64::NAN)
        );
    }
}

/// `strata eval train-extractor`
///
/// # Errors
/// Pictures without labels; settings that cannot be used.
pub fn train_extractor(args: &args::EvalTrainExtractor, context: &Context) -> anyhow::Result<Outcome> {
    let data = Dataset::open(&args.data.data, &args.data.reading.options())?;
    let config = ExtractorTraining {
        size: args.size,
        images: args.images,
        held_out: args.held_out,
        seed: context.seed.unwrap_or(0),
        ..ExtractorTraining::default()
    };
    let watch = (context.progress.as_ref(), &context.interrupt);
    let trained = match classifier::train(&config, &data, &args.out, &context.device, watch) {
        Err(strata_diffusion::Error::Interrupted) => return Ok(Outcome::Interrupted),
        other => other?,
    };
    if args.json {
        let (held_out, seen) = (trained.held_out, trained.seen_images);
        println!(
            "{}",
            json!({ "out": args.out, "accuracy": trained.accuracy, "held_out": held_out, "seen_images": seen, "classes": trained.classes })
        );
    } else {
        let accuracy = 100.0 * trained.accuracy;
        println!(
            "{}: {accuracy:.1} % of {} held-out images in the right one of {} classes",
            args.out.display(),
            trained.held_out,
            trained.classes
        );
    }
    Ok(Outcome::Done)
}
