//! `strata eval statistics`

use anyhow::ensure;
use strata_diffusion::evaluation::{
    collect::{Collected, Keep},
    extractor::Extractor,
    shared,
};
use strata_training::{Peers, Ranks};

use super::{Asked, SPATIAL_NEEDS, network, reference, source::Source, stats_file, warnings};
use crate::{Outcome, args, args::Metric, commands::peers, context::Context};

/// Writes the statistics of a data set; processes that a launcher has started divide its images.
///
/// # Errors
/// As the other commands that measure; if another process ended.
pub fn statistics(args: &args::EvalStatistics, context: &Context) -> anyhow::Result<Outcome> {
    let network = network::load(&args.network.which, Asked::Metric(Metric::Fid), context)?;
    ensure!(!args.spatial || network.spatial() > 0, "--spatial: {SPATIAL_NEEDS}");
    let whole = Source::open(&args.data.data, &args.data.reading.options(), args.num, context)?;
    let identity = format!("{:?} {} {}", network.identity(), whole.describe(), args.spatial);
    let peers = peers::connect(Ranks::from_env()?, &identity)?;
    let result = read(&whole.part(peers.ranks()), network.as_ref(), args, &peers, context);
    match &result {
        Ok(_) => peers.leave(),
        Err(e) => peers.abort(&format!("{e:#}")),
    }
    let Some(seen) = result? else { return Ok(Outcome::Done) };
    warnings::tell(&seen, network.identity().features, &[Metric::Fid], context);
    stats_file::write(&args.out, &reference::stored(&seen)?)?;
    println!("{}: statistics of {} images, {} features", args.out.display(), seen.moments.count(), network.identity().features);
    Ok(Outcome::Done)
}

/// What all processes have seen, at the first.
fn read(
    part: &Source,
    network: &dyn Extractor,
    args: &args::EvalStatistics,
    peers: &Peers,
    context: &Context,
) -> anyhow::Result<Option<Collected>> {
    let keep = Keep { spatial: args.spatial, ..Keep::default() };
    let seen = part.read(network, keep, (args.network.batch, args.data.max_bad), context)?;
    Ok(shared::gather(seen, peers)?)
}
