//! What makes a number say less than it seems to.

use strata_diffusion::evaluation::collect::Collected;

use crate::{args::Metric, context::Context};

/// Fewer samples than this make a FID more a measure of their number.
const FEW: u64 = 10_000;

/// In sentences.
pub fn of(seen: &Collected, features: usize, metrics: &[Metric]) -> Vec<String> {
    let (n, mut all) = (seen.moments.count(), Vec::new());
    let frechet = metrics.iter().any(|m| matches!(m, Metric::Fid | Metric::Sfid));
    if frechet && n < FEW && features > 0 {
        all.push(format!(
            "{n} samples: a Fréchet distance is too high with few samples; compare at equal numbers, {FEW} or more"
        ));
    }
    if frechet && n <= features as u64 {
        all.push(format!(
            "{n} samples for {features} features: the covariance has no full rank, {} at most",
            n.saturating_sub(1)
        ));
    }
    if seen.flat > 0 {
        all.push(format!("{} of {n} images are of one colour", seen.flat));
    }
    if seen.sizes.len() > 1 {
        let sizes: Vec<String> = seen.sizes.keys().take(3).map(|(w, h)| format!("{w}x{h}")).collect();
        all.push(format!("images of {} sizes ({}, ...), each is resized by itself", seen.sizes.len(), sizes.join(", ")));
    }
    if let Some((key, why)) = seen.bad.first() {
        all.push(format!("{} images cannot be read and are left out, the first `{key}`: {why}", seen.bad.len()));
    }
    all
}

/// The same on stderr.
pub fn tell(seen: &Collected, features: usize, metrics: &[Metric], context: &Context) {
    of(seen, features, metrics).into_iter().for_each(|warning| context.say(format!("warning: {warning}")));
}
