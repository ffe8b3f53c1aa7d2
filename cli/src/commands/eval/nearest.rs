//! `strata eval nearest`

use anyhow::ensure;
use serde_json::json;
use strata_datasets::{Dataset, RgbImage};
use strata_diffusion::evaluation::{Features, collect::Keep, extractor::Extractor, manifold};

use super::{
    Asked, network,
    source::{self, Source},
};
use crate::{Outcome, args, args::Metric, context::Context, grid};

/// Samples in the picture.
const SHOWN: usize = 24;

/// A data set that was described.
struct Described {
    data: Dataset,
    features: Features,
}

/// The command.
///
/// # Errors
/// A network, samples or data that cannot be used; unreadable images, whose places would be unknown.
pub fn nearest(args: &args::EvalNearest, context: &Context) -> anyhow::Result<Outcome> {
    let network = network::load(&args.network.which, Asked::Metric(Metric::Prdc), context)?;
    let options = args.data.reading.options();
    let samples = describe(Dataset::open(&args.samples, &options)?, args.num, network.as_ref(), args, context)?;
    let among = describe(Dataset::open(&args.data.data, &options)?, None, network.as_ref(), args, context)?;
    let found = manifold::nearest(&samples.features, &among.features, args.nearest_k)?;
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|a, b| found[*a][0].1.total_cmp(&found[*b][0].1));
    if let Some(path) = &args.grid {
        grid::write_rows(&rows(&order, &found, &samples.data, &among.data)?, path)?;
    }
    for i in order {
        let sample = samples.data.key(i)?;
        let near =
            found[i].iter().map(|(j, distance)| Ok((among.data.key(*j)?, *distance))).collect::<anyhow::Result<Vec<_>>>()?;
        if args.json {
            let near: Vec<_> = near.iter().map(|(key, distance)| json!({ "image": key, "distance": distance })).collect();
            println!("{}", json!({ "sample": sample, "nearest": near }));
        } else {
            let near: Vec<String> = near.iter().map(|(key, distance)| format!("{key} ({distance:.4})")).collect();
            println!("{sample}: {}", near.join(", "));
        }
    }
    Ok(Outcome::Done)
}

fn describe(
    data: Dataset,
    num: Option<usize>,
    network: &dyn Extractor,
    args: &args::EvalNearest,
    context: &Context,
) -> anyhow::Result<Described> {
    let num = source::first(data.spec(), data.len(), num)?;
    let source = Source::Files(data.clone(), (0..num).collect());
    let keep = Keep { features: true, ..Keep::default() };
    let seen = source.read(network, keep, (args.network.batch, args.data.max_bad), context)?;
    ensure!(seen.bad.is_empty(), "{}: images that cannot be read: {:?}", data.spec(), seen.bad);
    Ok(Described { features: seen.features, data })
}

fn rows(order: &[usize], found: &[Vec<(usize, f64)>], samples: &Dataset, among: &Dataset) -> anyhow::Result<Vec<grid::Row>> {
    let row = |i: &usize| {
        let near = found[*i].iter().map(|(j, _)| among.load(*j));
        let images: Vec<RgbImage> = std::iter::once(samples.load(*i)).chain(near).collect::<strata_datasets::Result<_>>()?;
        Ok(grid::Row { caption: format!("{:.3}", found[*i][0].1), images })
    };
    order.iter().take(SHOWN).map(row).collect()
}
