//! The weights that a training begins with, from another model: one of fewer stages becomes one of more.

use std::path::Path;

use strata_nn::weights;

use super::{parameters::DECODERS, parameters::decoder_of, weight_file};
use crate::{Error, Result, model::Model};

/// What was taken over, in tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarmStart {
    /// Of what the stages share.
    pub shared: Copied,
    /// Of each decoder.
    pub decoders: Vec<Copied>,
}

/// How many of how many tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Taken over.
    pub copied: usize,
    /// In all.
    pub of: usize,
}

impl std::fmt::Display for WarmStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} shared tensors", self.shared.copied, self.shared.of)?;
        self.decoders.iter().enumerate().try_for_each(|(i, d)| write!(f, ", {} of {} of decoder {}", d.copied, d.of, i + 1))
    }
}

/// Takes over the weights of the model at `path` (a run's newest average, or a weight file): each tensor of the same name and shape.
/// A single decoder gives its tensors to all of them; several give each its own. Where a decoder is narrower or wider than the one it
/// is taken from, the tensors of another shape keep their fresh values. Everything else of the two models may differ.
///
/// # Errors
/// If the file cannot be read, or holds nothing that fits.
pub(super) fn warm_start(model: &Model, path: &Path) -> Result<WarmStart> {
    let file = weight_file(path)?;
    let given = weights::load(&file, model.store().device())?;
    let single = !given.tensors.keys().any(|name| decoder_of(name).is_some_and(|stage| stage > 0));
    let mut report = WarmStart { decoders: vec![Copied::default(); model.stages()], ..WarmStart::default() };
    for p in model.store().parameters() {
        let stage = decoder_of(p.name());
        let source = match stage {
            Some(stage) if single => p.name().replacen(&format!("{DECODERS}{stage}."), &format!("{DECODERS}0."), 1),
            _ => p.name().to_string(),
        };
        let count = match stage {
            Some(stage) => &mut report.decoders[stage],
            None => &mut report.shared,
        };
        count.of += 1;
        if let Some(t) = given.tensors.get(&source).filter(|t| t.dims() == p.var().dims()) {
            p.var().set(&t.to_dtype(p.var().dtype())?)?;
            count.copied += 1;
        }
    }
    match report.shared.copied {
        0 => Err(Error::file(&file, "holds no weights of this network's encoder: is it a model of Strata of the same width?")),
        _ => Ok(report),
    }
}
