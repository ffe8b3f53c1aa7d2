//! The distance between two files of statistics, without a network or an image.

use std::path::Path;

use anyhow::ensure;
use serde_json::{Value, json};
use strata_diffusion::evaluation::{
    frechet::{self, Frechet},
    moments::Statistics,
};
use strata_training::sha256_file;

use super::{
    Asked, reference,
    stats_file::{self, Stored},
};
use crate::{Outcome, args, args::Metric};

/// Whether the samples are given as statistics.
pub fn applies(args: &args::Measure) -> bool {
    args.samples.as_deref().is_some_and(|samples| stats_file::is_statistics(Path::new(samples)))
}

/// Compares them.
///
/// # Errors
/// If a measure looks at more than statistics; a side that is no such file, or of another width.
pub fn compare(asked: Asked, metrics: &[Metric], args: &args::Measure) -> anyhow::Result<Outcome> {
    let (samples, theirs) = (args.samples.as_deref().unwrap_or_default(), args.against.reference.as_deref());
    let few = metrics.iter().all(|m| matches!(m, Metric::Fid | Metric::Sfid));
    ensure!(few, "{samples}: holds a mean and a covariance, and KID, inception score, precision and recall look at every image");
    let Some(theirs) = theirs else { anyhow::bail!(reference::MISSING) };
    let is_file = stats_file::is_statistics(Path::new(theirs));
    ensure!(is_file, "--samples are statistics: expected statistics as --reference as well, got {theirs}");
    let sides = [samples, theirs].map(|name| stats_file::read(Path::new(name)));
    let [ours, other] = sides;
    let (ours, other) = (ours?, other?);
    let mut answer = json!({ "strata": env!("CARGO_PKG_VERSION") });
    for (key, name, stored) in [("samples", samples, &ours), ("reference", theirs, &other)] {
        answer[key] = json!({ "source": name, "sha256": sha256_file(name)?, "count": stored.features.count });
    }
    for metric in metrics {
        let (key, label, distance) = match metric {
            Metric::Sfid => ("sfid", "sFID", between([&ours, &other].map(|s| s.spatial.as_ref()))?),
            _ => {
                let distance = between([&ours, &other].map(|s: &Stored| Some(&s.features)))?;
                if asked == Asked::Distance {
                    ("frechet_distance", "Fréchet distance", distance)
                } else {
                    ("fid", "FID", distance)
                }
            }
        };
        answer[key] = distance;
        if !args.json {
            println!("{label:17} {:.5}", answer[key]["value"].as_f64().unwrap_or(f64::NAN));
        }
    }
    if let Some(out) = &args.out {
        strata_nn::weights::write_atomic(out, serde_json::to_string_pretty(&answer)?.as_bytes())?;
    }
    if args.json {
        println!("{answer}");
    }
    Ok(Outcome::Done)
}

fn between(sides: [Option<&Statistics>; 2]) -> anyhow::Result<Value> {
    let [Some(a), Some(b)] = sides else { anyhow::bail!("sFID: expected `mu_s` and `sigma_s` in both files") };
    let distance = frechet::distance(a, b)?;
    Ok(json!({
        "value": distance.distance, "mean_term": distance.mean_term, "covariance_term": distance.covariance_term,
        "ranks": distance.ranks, "imaginary": Frechet::IMAGINARY,
    }))
}
