//! The configurations of the published systems, and the names in their checkpoints.

pub(super) mod diffusers;
pub(super) mod edm;
mod edm_precond;
pub(super) mod ldm;
pub(super) mod score_sde;

pub use diffusers::{DiffusersUNet, diffusers_config_json, diffusers_keys, modern_name};
pub use edm::EdmUNetConfig;
pub use edm_precond::EdmPrecond;
pub use ldm::LdmUNetConfig;
pub use score_sde::ScoreSdeConfig;

use crate::{Error, Result};

/// Intervals (lo, hi] of each stage; no upper end is infinity.
type Intervals = Vec<Vec<(f64, Option<f64>)>>;

/// The stage of `level` by intervals (lo, hi] per stage: the last one that has it.
pub(crate) fn stage_by_intervals(intervals: &[Vec<(f64, Option<f64>)>], level: f64) -> Result<usize> {
    let holds = |one: &Vec<(f64, Option<f64>)>| one.iter().any(|&(lo, hi)| level > lo && hi.is_none_or(|hi| level <= hi));
    let found = intervals.iter().rposition(holds);
    found.ok_or_else(|| Error::Config(format!("no stage has {level}: `stage_interval` is {intervals:?}")))
}

/// Sigmas or times between stages, if each stage is one interval and they follow each other; `None` if a stage has several.
pub(crate) fn ascending_boundaries(intervals: &[Vec<(f64, Option<f64>)>]) -> Option<Vec<f64>> {
    let single: Vec<(f64, Option<f64>)> = intervals
        .iter()
        .map(|one| if let [interval] = one.as_slice() { Some(*interval) } else { None })
        .collect::<Option<_>>()?;
    let bounds: Vec<f64> = single.iter().take(single.len().saturating_sub(1)).map(|(_, hi)| *hi).collect::<Option<_>>()?;
    let joined = bounds.iter().zip(single.iter().skip(1)).all(|(hi, (lo, _))| hi == lo);
    joined.then_some(bounds)
}

/// The levels whose sizes are among `sizes`, the first level having `size`.
fn levels_of_sizes(size: usize, levels: usize, sizes: &[usize]) -> Vec<usize> {
    (0..levels).filter(|level| sizes.contains(&(size >> level))).collect()
}

/// One width per stage.
fn decoder_widths(stages: usize, widths: &[usize], intervals: usize, name: &str) -> Result<Vec<usize>> {
    if stages == widths.len() && stages == intervals && stages > 0 {
        return Ok(widths.to_vec());
    }
    let got = format!("`stage_num` {stages}, {} widths in `{name}` and {intervals} in `stage_interval`", widths.len());
    Err(Error::Config(format!("expected as many stages as widths and intervals, 1 or more, got {got}")))
}
