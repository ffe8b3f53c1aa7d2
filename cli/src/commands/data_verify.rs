//! `strata data verify`

use strata_datasets::LatentSet;

use crate::{Outcome, args, context::Context};

/// The command.
///
/// # Errors
/// If a shard differs from its checksum; all are named.
pub fn run(args: &args::DataVerify, _context: &Context) -> anyhow::Result<Outcome> {
    let latents = LatentSet::open(&args.latents)?;
    latents.verify()?;
    println!("{}: {} shards with {} latents are whole", args.latents.display(), latents.manifest().shards.len(), latents.len());
    Ok(Outcome::Done)
}
