//! The networks of a batch as one denoiser: the conditional one alone, guided by another condition, or by a worse network.

use std::ops::Range;

use candle_core::{DType, Tensor};
use strata_conditioning::{Condition, Shown};
use strata_nn::random::Key;

use super::{
    Sampling,
    cost::{Counts, Evaluations, network_costs},
};
use crate::{
    Result,
    denoiser::{Denoiser, Estimate},
    guidance::{Guided, Pair, Sequential},
    model::Model,
    training::noised,
};

/// Activations up to which the condition and its absence are evaluated in one batch of twice the size, in bytes.
const AT_ONCE_BYTES: u64 = 2 << 30;

/// What the options make of the networks for some of their samples.
pub(super) fn denoiser<'a>(job: &Sampling<'a>, rows: Range<usize>, counts: &'a Counts) -> Result<Box<dyn Denoiser + 'a>> {
    let at_once = fits_twice(job.model, rows.len())?;
    denoiser_at_once(job, rows, counts, at_once)
}

/// The same, with the condition and its absence in one batch of twice the size or one after the other.
pub(super) fn denoiser_at_once<'a>(
    job: &Sampling<'a>,
    rows: Range<usize>,
    counts: &'a Counts,
    at_once: bool,
) -> Result<Box<dyn Denoiser + 'a>> {
    let guidance = job.options.guidance;
    let wish = wishes(job, rows.clone());
    let under = |model: &'a Model, wishes: &[&Wishes], counts: &'a Evaluations| -> Result<Network<'a>> {
        Ok(Network { model, condition: condition(job, model, rows.clone(), wishes)?, counts })
    };
    let conditional = under(job.model, &[&wish], &counts.model)?;
    if guidance.scale == 1.0 {
        return Ok(Box::new(conditional));
    }
    let negative = unwanted(job, wish.labels.len());
    let pair: Box<dyn Pair + 'a> = match job.worse {
        Some(worse) => Box::new(Sequential { conditional, unconditional: under(worse, &[&wish], &counts.worse)? }),
        None if at_once => {
            let both = under(job.model, &[&wish, &negative], &counts.model)?;
            Box::new(AtOnce { conditional, both })
        }
        None => Box::new(Sequential { conditional, unconditional: under(job.model, &[&negative], &counts.model)? }),
    };
    let (interval, rescale) = (guidance.interval, guidance.rescale);
    Ok(Box::new(Guided { interval, rescale, ..Guided::new(pair, guidance.scale) }))
}

/// What samples are told.
struct Wishes {
    labels: Vec<Option<u32>>,
    attributes: Vec<Vec<i8>>,
    /// Rows of the options' embedded texts.
    prompts: Vec<u32>,
    /// Whether they are shown their images.
    shown: bool,
}

fn wishes(job: &Sampling<'_>, rows: Range<usize>) -> Wishes {
    let options = job.options;
    Wishes {
        labels: options.labels[rows.clone()].to_vec(),
        attributes: vec![options.attributes.clone(); rows.len()],
        prompts: options.prompts.as_ref().map_or(Vec::new(), |prompts| prompts.of[rows].to_vec()),
        shown: true,
    }
}

/// What guidance moves away from; of attributes nothing is said, and images stay where anything else is asked for.
fn unwanted(job: &Sampling<'_>, n: usize) -> Wishes {
    Wishes {
        labels: vec![job.options.guidance.negative; n],
        attributes: vec![Vec::new(); n],
        prompts: job.options.prompts.as_ref().map_or(Vec::new(), |prompts| vec![prompts.negative; n]),
        shown: !job.options.images_alone(),
    }
}

/// The condition of one batch of the samples `rows` after the other.
fn condition(job: &Sampling<'_>, model: &Model, rows: Range<usize>, wishes: &[&Wishes]) -> Result<Condition> {
    let shown = shown(job, rows.clone(), wishes)?;
    model.with_images(told(job, model, wishes)?, shown.as_ref(), wishes.len() * rows.len())
}

/// The images of the samples `rows`, noised by their seeds, for one batch after the other.
fn shown(job: &Sampling<'_>, rows: Range<usize>, wishes: &[&Wishes]) -> Result<Option<Shown>> {
    let Some(given) = &job.options.images else { return Ok(None) };
    let which = Tensor::from_slice(&given.of[rows.clone()], rows.len(), given.images.device())?;
    let noise = vec![given.noise as f32; rows.len()];
    let (key, seeds) = (Key::new(0, "images shown"), &job.options.seeds[rows]);
    let images = noised(given.images.index_select(&which, 0)?, &noise, key, seeds)?;
    Ok(Some(Shown {
        images: Tensor::cat(&vec![&images; wishes.len()], 0)?,
        noise: noise.repeat(wishes.len()),
        shown: wishes.iter().flat_map(|wish| vec![wish.shown; seeds.len()]).collect(),
    }))
}

/// What one batch after the other is told.
fn told(job: &Sampling<'_>, model: &Model, wishes: &[&Wishes]) -> Result<Condition> {
    if let Some(prompts) = &job.options.prompts {
        let rows: Vec<u32> = wishes.iter().flat_map(|w| &w.prompts).copied().collect();
        let rows = Tensor::from_vec(rows, wishes.iter().map(|w| w.prompts.len()).sum::<usize>(), prompts.contexts.device())?;
        return model.text_condition(&prompts.contexts.index_select(&rows, 0)?);
    }
    let labels: Vec<Option<u32>> = wishes.iter().flat_map(|w| &w.labels).copied().collect();
    let attributes: Vec<Vec<i8>> = wishes.iter().flat_map(|w| &w.attributes).cloned().collect();
    model.condition(&labels, &attributes)
}

fn fits_twice(model: &Model, rows: usize) -> Result<bool> {
    let floats = network_costs(model)?.active().iter().map(|c| c.activation_floats).max().unwrap_or(0);
    Ok(2 * rows as u64 * floats * 4 <= AT_ONCE_BYTES)
}

/// A model under the conditions of a batch; it counts its evaluations.
struct Network<'a> {
    model: &'a Model,
    condition: Condition,
    counts: &'a Evaluations,
}

impl Denoiser for Network<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.x0)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let rows = x.dim(0)?;
        self.counts.add(self.model.stage(sigma), rows);
        let estimate = self.model.estimate(&x.to_dtype(DType::F32)?, &vec![sigma; rows], &self.condition)?;
        Ok(Estimate { x0: estimate.x0.to_dtype(x.dtype())?, ..estimate })
    }
}

/// Both conditions in one batch of twice the size.
struct AtOnce<'a> {
    conditional: Network<'a>,
    both: Network<'a>,
}

impl Pair for AtOnce<'_> {
    fn conditional(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        self.conditional.estimate(x, sigma)
    }

    fn both(&self, x: &Tensor, sigma: f64) -> Result<(Estimate, Tensor)> {
        let rows = x.dim(0)?;
        let both = self.both.estimate(&Tensor::cat(&[x, x], 0)?, sigma)?;
        let half = |t: &Tensor, from: usize| t.narrow(0, from, rows);
        let variance_share = both.variance_share.map(|share| half(&share, 0)).transpose()?;
        Ok((Estimate { x0: half(&both.x0, 0)?, variance_share }, half(&both.x0, rows)?))
    }
}
