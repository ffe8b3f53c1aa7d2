//! The other processes of a task that a launcher has started several times.

use strata_training::{Peers, Ranks, Result};

/// Meets them; all must have the same `identity`. If one ends while this process computes on for a while, this one ends too.
///
/// # Errors
/// If they do not meet.
pub fn connect(ranks: Ranks, identity: &str) -> Result<Peers> {
    let give_up = |reason: &str| {
        eprintln!("error: the ranks of this run: {reason}");
        std::process::exit(1);
    };
    Peers::connect(ranks, identity, give_up)
}
