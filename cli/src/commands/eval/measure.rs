//! From what was seen of samples and reference to numbers.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use strata_diffusion::evaluation::{
    Features,
    collect::Collected,
    confidence::{self, Interval},
    extractor::Extractor,
    frechet::{Frechet, Prepared},
    inception_score::{InceptionScore, inception_score, softmax},
    kid::{Kid, KidOptions, kid},
    manifold::{self, Manifold, radii},
    moments::Moments,
};

use super::reference::{self, Reference};
use crate::{args, args::Metric, context::Context};

/// Subsets that the limit for many samples is found from.
const POINTS: usize = 10;

/// The numbers that were asked for.
pub struct Measured {
    /// Which.
    pub metrics: Vec<Metric>,
    /// Whether they may be called by the names of the literature.
    inception: bool,
    frechet: Option<(Frechet, Option<Interval>, Option<f64>)>,
    spatial: Option<Frechet>,
    kid: Option<(Kid, Option<Interval>)>,
    score: Option<InceptionScore>,
    manifold: Option<Manifold>,
}

/// Computes all of `metrics`.
///
/// # Errors
/// If there are too few samples for one of them, with what it needs.
pub fn measure(
    metrics: &[Metric],
    seen: &Collected,
    reference: Option<&Reference>,
    network: &dyn Extractor,
    args: &args::Measure,
    context: &Context,
) -> anyhow::Result<Measured> {
    let seed = context.seed.unwrap_or(0);
    let mut measured = Measured {
        metrics: metrics.to_vec(),
        inception: args.network.which.extractor.is_none(),
        frechet: None,
        spatial: None,
        kid: None,
        score: None,
        manifold: None,
    };
    for metric in metrics {
        match (metric, reference) {
            (Metric::Is, _) => measured.score = Some(score(seen, network, args)?),
            (Metric::Fid, Some(reference)) => measured.frechet = Some(frechet(seen, reference, args, seed)?),
            (Metric::Sfid, Some(reference)) => measured.spatial = Some(spatial(seen, reference)?),
            (Metric::Kid, Some(reference)) => measured.kid = Some(kernel(&seen.features, features(reference)?, args, seed)?),
            (Metric::Prdc, Some(reference)) => measured.manifold = Some(compare(&seen.features, features(reference)?, args)?),
            (_, None) => anyhow::bail!(reference::MISSING),
        }
    }
    Ok(measured)
}

fn features(reference: &Reference) -> anyhow::Result<&Features> {
    reference.features.as_ref().context("the features of the reference were not kept")
}

fn frechet(
    seen: &Collected,
    reference: &Reference,
    args: &args::Measure,
    seed: u64,
) -> anyhow::Result<(Frechet, Option<Interval>, Option<f64>)> {
    let theirs = Prepared::new(&reference.stored.features)?;
    let distance = distance(&seen.moments, &theirs)?;
    let constants = &args.constants;
    let interval = (constants.bootstrap > 0)
        .then(|| confidence::bootstrap(&seen.features, &theirs, distance.distance, constants.bootstrap, seed))
        .transpose()?;
    let limit = constants.extrapolate.then(|| confidence::extrapolate(&seen.features, &theirs, POINTS, seed)).transpose()?;
    Ok((distance, interval, limit))
}

fn spatial(seen: &Collected, reference: &Reference) -> anyhow::Result<Frechet> {
    let pair = seen.spatial.as_ref().zip(reference.stored.spatial.as_ref());
    let (seen, theirs) = pair.context("the spatial features were not kept")?;
    distance(seen, &Prepared::new(theirs)?)
}

/// The Fréchet distance of what was seen.
///
/// # Errors
/// If it has no spread; as the library's.
pub fn distance(seen: &Moments, reference: &Prepared) -> anyhow::Result<Frechet> {
    let statistics = seen.statistics()?;
    ensure!(
        statistics.covariance.iter().any(|v| *v != 0.0),
        "the features of all {} samples are equal: they show the same image, and have no spread to compare",
        seen.count()
    );
    Ok(Prepared::new(&statistics)?.distance(reference)?)
}

fn kernel(samples: &Features, reference: &Features, args: &args::Measure, seed: u64) -> anyhow::Result<(Kid, Option<Interval>)> {
    let (subsets, subset_size) = (args.constants.subsets, args.constants.subset_size);
    let options = KidOptions { subsets, subset_size, seed, ..KidOptions::default() };
    let measured = kid(samples, reference, &options)?;
    let n = samples.len().min(reference.len());
    // Subsets of most of the images are all alike, and their spread says nothing.
    let interval =
        (subsets > 1 && 2 * subset_size <= n).then(|| confidence::subsampled(&measured, subset_size, n)).transpose()?;
    Ok((measured, interval))
}

fn score(seen: &Collected, network: &dyn Extractor, args: &args::Measure) -> anyhow::Result<InceptionScore> {
    let classes = network.classes();
    Ok(inception_score(&softmax(&seen.logits, classes), classes, args.constants.splits)?)
}

fn compare(samples: &Features, reference: &Features, args: &args::Measure) -> anyhow::Result<Manifold> {
    let k = args.constants.nearest_k;
    let of_real = radii(reference, k).context("the reference")?;
    let of_fake = radii(samples, k).context("the samples")?;
    Ok(manifold::compare(reference, samples, [&of_real, &of_fake], k)?)
}

/// The distances of several measurements, by name.
pub fn distances<'a>(all: impl Iterator<Item = &'a Measured> + Clone) -> Vec<(&'static str, Vec<f64>)> {
    let Some(first) = all.clone().next() else { return Vec::new() };
    let frechet: Vec<f64> = all.clone().filter_map(|m| m.frechet.as_ref().map(|f| f.0.distance)).collect();
    let spatial: Vec<f64> = all.clone().filter_map(|m| m.spatial.as_ref().map(|f| f.distance)).collect();
    let kernel: Vec<f64> = all.filter_map(|m| m.kid.as_ref().map(|k| k.0.mean)).collect();
    let named = [(first.frechet_name(), frechet), ("sfid", spatial), (first.kid_name(), kernel)];
    named.into_iter().filter(|(_, values)| !values.is_empty()).collect()
}

impl Measured {
    /// What an extractor of one's own measures has no name of the literature.
    fn frechet_name(&self) -> &'static str {
        if self.inception { "fid" } else { "frechet_distance" }
    }

    fn kid_name(&self) -> &'static str {
        if self.inception { "kid" } else { "kernel_distance" }
    }

    /// For scripts.
    pub fn as_json(&self) -> Value {
        let mut value = json!({});
        if let Some((frechet, interval, limit)) = &self.frechet {
            value[self.frechet_name()] = json!({
                "value": frechet.distance, "mean_term": frechet.mean_term, "covariance_term": frechet.covariance_term,
                "ranks": frechet.ranks, "imaginary": Frechet::IMAGINARY, "interval_95": interval, "infinite_samples": limit,
            });
        }
        if let Some(spatial) = &self.spatial {
            value["sfid"] = json!({
                "value": spatial.distance, "mean_term": spatial.mean_term, "covariance_term": spatial.covariance_term,
                "ranks": spatial.ranks, "imaginary": Frechet::IMAGINARY,
            });
        }
        if let Some((kid, interval)) = &self.kid {
            value[self.kid_name()] = json!({ "value": kid.mean, "std": kid.std, "interval_95": interval });
        }
        if let Some(score) = &self.score {
            value["inception_score"] = json!({ "value": score.mean, "std": score.std, "splits": score.splits });
        }
        if let Some(manifold) = &self.manifold {
            value["prdc"] = json!(manifold);
        }
        value
    }

    /// For a person.
    pub fn print(&self, count: u64) {
        println!("samples           {count}");
        let between = |i: &Option<Interval>| i.map_or(String::new(), |i| format!(" (95 %: {:.5} to {:.5})", i.low, i.high));
        if let Some((frechet, interval, limit)) = &self.frechet {
            let name = if self.inception { "FID" } else { "Fréchet distance" };
            println!("{name:17} {:.5}{}", frechet.distance, between(interval));
            if let Some(limit) = limit {
                println!("  infinitely many {limit:.5}");
            }
        }
        if let Some(spatial) = &self.spatial {
            println!("sFID              {:.5}", spatial.distance);
        }
        if let Some((kid, interval)) = &self.kid {
            let name = if self.inception { "KID" } else { "kernel distance" };
            println!("{name:17} {:.6} ± {:.6}{}", kid.mean, kid.std, between(interval));
        }
        if let Some(score) = &self.score {
            println!("inception score   {:.4} ± {:.4}", score.mean, score.std);
        }
        if let Some(m) = &self.manifold {
            println!("precision         {:.4}\nrecall            {:.4}", m.precision, m.recall);
            println!("density           {:.4}\ncoverage          {:.4}", m.density, m.coverage);
        }
    }
}
