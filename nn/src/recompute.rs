//! Activation checkpointing (Chen et al. 2016): a part of a network whose inner activations are not kept for the backward pass
//! but computed once more in it.
//!
//! The part runs without a graph; its result enters the caller's graph through a chain of one-element tokens, one link for each
//! input and parameter. In the backward pass the head of the chain runs the part again, this time with a graph, and lays the
//! gradients down where the links pick them up: `backward` of the caller finds them in its gradient store as always.

use candle_core::{Tensor, Var};

use crate::{
    Error, Result,
    backward::backward,
    graph::{Link, Made, Slot, token, wants_gradient},
    params::{Parameter, graph_is_off, without_graph},
};

/// `f(inputs)`, whose inner activations are computed anew in the backward pass if `recompute`, else kept as always.
///
/// `f` must be a function of its inputs and of parameters: the same arguments give the same result (randomness comes from a
/// [`Key`](crate::random::Key)), and tensors that it captures are constants to it. Gradients reach the inputs and every trainable
/// [`Parameter`] that `f` looks at; where nothing wants one, `f` simply runs.
///
/// # Errors
/// Those of `f`; an error of `f` in the backward pass is one of candle.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use strata_nn::{layers::Linear, params::ParamStore, recompute::checkpoint};
///
/// let store = ParamStore::new(0, &Device::Cpu);
/// let layer = Linear::new(&store.root().pp("layer"), 4, 4)?;
/// let x = Tensor::ones((2, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let y = checkpoint(true, &[&x], move |x| layer.forward(&strata_nn::ops::silu(&x[0])?))?;
/// let gradients = y.sqr()?.sum_all()?.backward()?;
/// assert!(store.trainable().iter().all(|p| gradients.get(p.var()).is_some()));
/// # Ok::<(), strata_nn::Error>(())
/// ```
pub fn checkpoint<E>(
    recompute: bool,
    inputs: &[&Tensor],
    f: impl Fn(&[Tensor]) -> std::result::Result<Tensor, E> + Send + Sync + 'static,
) -> std::result::Result<Tensor, E>
where
    E: std::error::Error + Send + Sync + From<Error> + 'static,
{
    let same: Vec<Tensor> = inputs.iter().map(|&t| t.clone()).collect();
    if !recompute || graph_is_off() {
        return f(&same);
    }
    let inputs: Vec<Tensor> = same.iter().map(Tensor::detach).collect();
    let (y, parameters) = without_graph(|| f(&inputs));
    let f: Part = Box::new(move |x| f(x).map_err(candle_core::Error::wrap));
    Ok(enter(y?, &same, &parameters, f).map_err(Error::from)?)
}

/// A tensor that is `x` but a node of its own. What uses it sums its gradients before they are added to those of `x`: with it, a
/// part that uses an input several times rounds the same whether it is recomputed or not.
///
/// # Errors
/// Those of candle.
pub fn seam(x: &Tensor) -> Result<Tensor> {
    Ok(x.reshape(x.shape())?)
}

type Part = Box<dyn Fn(&[Tensor]) -> candle_core::Result<Tensor> + Send + Sync>;

/// Enters `y`, made without a graph, into the graph of those of `inputs` that are part of one and of `parameters`.
fn enter(y: Tensor, inputs: &[Tensor], parameters: &[Parameter], f: Part) -> candle_core::Result<Tensor> {
    let in_graph: Vec<bool> = inputs.iter().map(wants_gradient).collect();
    if parameters.is_empty() && !in_graph.contains(&true) {
        return Ok(y);
    }
    let mut chain = token(&y)?;
    let input_slots: Vec<Slot> = inputs.iter().map(|_| Slot::default()).collect();
    let parameter_slots: Vec<Slot> = parameters.iter().map(|_| Slot::default()).collect();
    for ((x, slot), _) in inputs.iter().zip(&input_slots).zip(&in_graph).filter(|(_, wanted)| **wanted) {
        chain = chain.apply_op2(x, Link::from_slot(slot.clone()))?;
    }
    for (p, slot) in parameters.iter().zip(&parameter_slots) {
        chain = chain.apply_op2(p.var().as_tensor(), Link::from_slot(slot.clone()))?;
    }
    let inputs = inputs.iter().map(Tensor::detach).collect();
    let head = Head { f, inputs, in_graph, parameters: parameters.to_vec(), input_slots, parameter_slots };
    chain.apply_op1(Made::new(y, move |dy| head.backward(dy)))
}

/// The end of a chain: what it takes to run the part again.
struct Head {
    f: Part,
    inputs: Vec<Tensor>,
    in_graph: Vec<bool>,
    parameters: Vec<Parameter>,
    input_slots: Vec<Slot>,
    parameter_slots: Vec<Slot>,
}

impl Head {
    /// Runs the part with a graph and takes its gradients.
    fn backward(&self, dy: &Tensor) -> candle_core::Result<()> {
        let variables = self.inputs.iter().zip(&self.in_graph).map(|(x, wanted)| wanted.then(|| Var::from_tensor(x)).transpose());
        let variables: Vec<Option<Var>> = variables.collect::<candle_core::Result<_>>()?;
        let pairs = self.inputs.iter().zip(&variables);
        let inputs: Vec<Tensor> = pairs.map(|(x, var)| var.as_ref().map_or(x, Var::as_tensor).clone()).collect();
        let y = (self.f)(&inputs)?;
        // A scalar whose gradient by y is dy, without a product and a sum over y.
        let dy = dy.clone();
        let scalar = token(&y)?.apply_op2(&y, Link::new(move || Ok(Some(dy.clone()))))?;
        let mut gradients = backward(&scalar).map_err(candle_core::Error::wrap)?;
        for ((var, slot), x) in variables.iter().zip(&self.input_slots).zip(&self.inputs) {
            if let Some(var) = var {
                slot.put(gradients.remove(var).map_or_else(|| x.zeros_like(), Ok)?);
            }
        }
        for (p, slot) in self.parameters.iter().zip(&self.parameter_slots) {
            if let Some(gradient) = gradients.remove(p.var()) {
                slot.put(gradient);
            }
        }
        Ok(())
    }
}
