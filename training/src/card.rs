//! The optimizer's arithmetic on a card: all float32 tensors there in one launch each for the norm, the step with its average, and
//! the averages of what made no step.

use candle_core::{Device, Tensor, Var};
use strata_nn::multi_tensor::{self, AdamTensor, AdamWith, applies};

use crate::{
    Result,
    adam::{Rates, State},
    ema::Average,
    gradients::Sanitize,
    sweep::{Blend, Coefficients, Replace},
};

/// What one tensor's step takes; the gradient is contiguous.
pub(crate) struct Work<'a, 'e> {
    pub var: &'a Var,
    pub state: &'a mut State,
    pub grad: &'a Tensor,
    pub rates: Rates,
    pub average: Option<&'a mut Average<'e>>,
}

impl Work<'_, '_> {
    /// The step of this tensor alone.
    pub fn step(self) -> Result<()> {
        self.state.step(self.var, self.grad, &self.rates, self.average)
    }

    fn lies_on(&self, device: &Device) -> bool {
        let State::Device { mean, square, .. } = &*self.state else { return false };
        let average = self.average.as_ref().map(|a| &*a.tensor);
        [Some(self.var.as_tensor()), Some(self.grad), Some(mean), Some(square), average]
            .into_iter()
            .flatten()
            .all(|t| lies_on(t, device))
    }

    fn entry(&self) -> Option<AdamTensor<'_>> {
        let State::Device { mean, square, peak } = &*self.state else { return None };
        let Coefficients { step_size, root_correction2, shrink, l2, .. } = self.rates.coefficients::<f32>();
        let (parameter, gradient, peak) = (self.var.as_tensor(), self.grad, peak.as_ref());
        let average = self.average.as_ref().map(|a| &*a.tensor);
        Some(AdamTensor { parameter, gradient, mean, square, peak, average, step_size, root_correction2, shrink, l2 })
    }

    /// What all tensors of one decay share in a step.
    fn shared(&self) -> AdamWith {
        let Coefficients { beta1, one_minus_beta1, beta2, one_minus_beta2, eps, clip, .. } = self.rates.coefficients::<f32>();
        let blend = self.average.as_ref().map(|a| a.blend::<f32>());
        let Blend { decay, weight } = blend.unwrap_or(Blend { decay: 0.0, weight: 1.0 });
        AdamWith {
            beta1,
            one_minus_beta1,
            beta2,
            one_minus_beta2,
            eps,
            clip,
            replace: replaced(self.rates.sanitize),
            decay,
            weight,
        }
    }

    fn decay(&self) -> Option<u32> {
        self.average.as_ref().map(|a| a.blend::<f32>().decay.to_bits())
    }
}

fn lies_on(t: &Tensor, device: &Device) -> bool {
    applies(t) && t.device().same_device(device)
}

fn replaced(sanitize: Option<Sanitize>) -> Option<[f32; 3]> {
    sanitize.map(|s| {
        let Replace { nan, posinf, neginf } = s.replace::<f32>();
        [nan, posinf, neginf]
    })
}

/// The Euclidean norm of all gradients (of what `sanitize` leaves), if all of them lie on one card.
pub(crate) fn norm(gradients: &[Tensor], sanitize: Option<Sanitize>) -> Result<Option<f64>> {
    match gradients.first() {
        Some(first) if gradients.iter().all(|g| lies_on(g, first.device())) => {
            Ok(Some(multi_tensor::squared_sum(gradients, replaced(sanitize))?.sqrt()))
        }
        _ => Ok(None),
    }
}

/// Does the steps of all tensors on the first card, those of one decay at once; answers the others.
pub(crate) fn step<'a, 'e>(work: Vec<Work<'a, 'e>>) -> Result<Vec<Work<'a, 'e>>> {
    let Some(device) = work.iter().find(|w| applies(w.var)).map(|w| w.var.device().clone()) else { return Ok(work) };
    let (mut here, others): (Vec<_>, Vec<_>) = work.into_iter().partition(|w| w.lies_on(&device));
    here.sort_by_key(Work::decay);
    for equal in here.chunk_by(|a, b| a.decay() == b.decay()) {
        multi_tensor::adam(&equal.iter().filter_map(Work::entry).collect::<Vec<_>>(), &equal[0].shared())?;
    }
    Ok(others)
}

/// A parameter and its average.
pub(crate) type Pair<'e> = (Var, Average<'e>);

/// Averages all pairs on the first card, those of one decay at once; answers the others.
pub(crate) fn blend<'a, 'e>(pairs: Vec<&'a mut Pair<'e>>) -> Result<Vec<&'a mut Pair<'e>>> {
    let Some(device) = pairs.iter().find(|p| applies(&p.0)).map(|p| p.0.device().clone()) else { return Ok(pairs) };
    let (mut here, others): (Vec<_>, Vec<_>) =
        pairs.into_iter().partition(|(var, average)| lies_on(var, &device) && lies_on(average.tensor, &device));
    let decay = |pair: &Pair<'_>| pair.1.blend::<f32>().decay.to_bits();
    here.sort_by_key(|pair| decay(pair));
    for equal in here.chunk_by(|a, b| decay(a) == decay(b)) {
        let tensors: Vec<(&Tensor, &Tensor)> = equal.iter().map(|(var, average)| (&*average.tensor, var.as_tensor())).collect();
        let Blend { decay, weight } = equal[0].1.blend::<f32>();
        multi_tensor::blend(&tensors, decay, weight)?;
    }
    Ok(others)
}
