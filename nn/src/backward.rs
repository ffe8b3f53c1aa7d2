//! The backward pass, in which gradients of parameters are not copied.
//!
//! Candle's own adds every gradient that an operator answers to zeros first. For a parameter, which mostly occurs once, that is four
//! times the traffic of the gradient, on one thread. Here the operators of this crate lay the gradients of variables aside as they
//! are, and they join candle's store at the end.

use std::{cell::RefCell, collections::HashMap};

use candle_core::{Tensor, TensorId, backprop::GradStore};

use crate::Result;

/// Variables and their gradients so far.
type Aside = HashMap<TensorId, (Tensor, Tensor)>;

thread_local! {
    /// Of the backward pass that runs on this thread; none outside of one.
    static ASIDE: RefCell<Option<Aside>> = const { RefCell::new(None) };
}

/// The gradients of a scalar by all that it depends on: what `loss.backward()` answers, in less time.
///
/// # Errors
/// Those of candle.
pub fn backward(loss: &Tensor) -> Result<GradStore> {
    // A pass within an operator's pass has its own.
    let outer = ASIDE.replace(Some(Aside::new()));
    let result = loss.backward();
    let aside = ASIDE.replace(outer).unwrap_or_default();
    let mut gradients = result?;
    for (_, (variable, gradient)) in aside {
        let sum = match gradients.remove(&variable) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        gradients.insert(&variable, sum);
    }
    Ok(gradients)
}

/// Lays the gradient of a variable aside; answers any other, for candle to add up.
pub(crate) fn lay_aside(of: &Tensor, gradient: Option<Tensor>) -> candle_core::Result<Option<Tensor>> {
    let (Some(gradient), true) = (&gradient, of.is_variable()) else { return Ok(gradient) };
    ASIDE.with_borrow_mut(|aside| {
        let Some(aside) = aside else { return Ok(Some(gradient.clone())) };
        let sum = match aside.remove(&of.id()) {
            Some((_, other)) => (other + gradient)?,
            None => gradient.clone(),
        };
        aside.insert(of.id(), (of.clone(), sum));
        Ok(None)
    })
}
