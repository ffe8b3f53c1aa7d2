//! Guard tests of activation checkpointing: the same bits as without, for inputs, parameters and nested parts.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use strata_nn::{
    Result, backward,
    layers::{Conv2d, GroupNorm},
    ops,
    params::ParamStore,
    random::Key,
    recompute::{checkpoint, seam},
};

#[derive(Clone)]
struct Block {
    norm: GroupNorm,
    conv: Conv2d,
    again: Conv2d,
}

impl Block {
    fn new(store: &ParamStore) -> Self {
        let scope = store.root().pp("block");
        Self {
            norm: GroupNorm::new(&scope.pp("norm"), 8, 2, 1e-5).unwrap(),
            conv: Conv2d::new(&scope.pp("conv"), 8, 8, 3).unwrap(),
            again: Conv2d::new(&scope.pp("again"), 8, 8, 3).unwrap(),
        }
    }

    /// Uses x and a layer twice, and dropout.
    fn forward(&self, x: &Tensor, e: &Tensor) -> Result<Tensor> {
        let h = self.conv.forward(&self.norm.forward_silu(x)?.broadcast_add(e)?)?;
        let h = ops::dropout(&h, 0.3, Key::new(5, "dropout"))?;
        Ok((x + self.again.forward(&self.again.forward(&h)?)?)?)
    }
}

fn tensor(name: &str, dims: &[usize]) -> Tensor {
    Key::new(2, name).normal_tensor(dims, &Device::Cpu).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// The crate's backward pass answers what candle's does.
fn agrees(ours: &GradStore, candles: &GradStore, inputs: &[&Tensor], store: &ParamStore) {
    let parameters: Vec<_> = store.parameters().iter().map(|p| p.var().clone()).collect();
    for of in inputs.iter().copied().chain(parameters.iter().map(Var::as_tensor)) {
        let values = |g: &GradStore| g.get(of).map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let (ours, candles) = (values(ours), values(candles));
        assert_eq!(ours.is_some(), candles.is_some());
        for (a, b) in ours.iter().flatten().zip(candles.iter().flatten()) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{a} is not {b}");
        }
    }
}

#[test]
fn a_parameter_of_several_operators_and_of_candles_own() {
    let store = ParamStore::new(1, &Device::Cpu);
    let w = store.root().param("w", (8, 8), strata_nn::params::Init::Uniform { bound: 0.5 }).unwrap();
    let x = Var::from_tensor(&tensor("x", &[4, 8])).unwrap();
    let linear = |x: &Tensor| ops::linear(x, &w.get(), None).unwrap();
    let y = linear(&ops::silu(&linear(x.as_tensor())).unwrap()).matmul(&w.get()).unwrap();
    let loss = (y.sqr().unwrap().sum_all().unwrap() + ops::silu(x.as_tensor()).unwrap().sum_all().unwrap()).unwrap();
    agrees(&backward(&loss).unwrap(), &loss.backward().unwrap(), &[x.as_tensor()], &store);
}

/// Result, then the gradients of x, e and all trainable parameters.
fn run(store: &ParamStore, f: impl Fn(&Tensor, &Tensor) -> Tensor) -> Vec<Option<Vec<u32>>> {
    let (x, e) = (Var::from_tensor(&tensor("x", &[2, 5, 7, 8])).unwrap(), Var::from_tensor(&tensor("e", &[8])).unwrap());
    let y = f(x.as_tensor(), e.as_tensor());
    let weighted = (&y * tensor("weights", y.dims())).unwrap();
    // x also outside the part.
    let loss = (weighted.sum_all().unwrap() + x.as_tensor().sqr().unwrap().sum_all().unwrap()).unwrap();
    let gradients = loss.backward().unwrap();
    agrees(&backward(&loss).unwrap(), &gradients, &[x.as_tensor(), e.as_tensor()], store);
    let mut all = vec![Some(bits(&y)), gradients.get(&x).map(bits), gradients.get(&e).map(bits)];
    all.extend(store.parameters().iter().map(|p| gradients.get(p.var()).map(bits)));
    all
}

fn part(recompute: bool, block: &Block, x: &Tensor, e: &Tensor) -> Tensor {
    let block = block.clone();
    checkpoint(recompute, &[&seam(x).unwrap(), e], move |a| block.forward(&a[0], &a[1])).unwrap()
}

#[test]
fn gradients_are_the_same_bits() {
    let store = ParamStore::new(1, &Device::Cpu);
    let block = Block::new(&store);
    let plain = run(&store, |x, e| part(false, &block, x, e));
    assert!(plain.iter().all(Option::is_some));
    assert_eq!(plain, run(&store, |x, e| part(true, &block, x, e)));
}

#[test]
fn parts_nest_and_follow_each_other() {
    let store = ParamStore::new(1, &Device::Cpu);
    let block = Block::new(&store);
    let twice = |recompute: bool| {
        let block = block.clone();
        move |a: &[Tensor]| -> Result<Tensor> {
            let y = part(recompute, &block, &a[0], &a[1]);
            Ok(part(recompute, &block, &y, &a[1]))
        }
    };
    let results = [(false, false), (false, true), (true, false), (true, true)].map(|(outer, inner)| {
        run(&store, |x, e| checkpoint(outer, &[&seam(x).unwrap(), &seam(e).unwrap()], twice(inner)).unwrap())
    });
    // A parameter that several parts use rounds differently; the result does not.
    assert!(results.iter().all(|r| r[0] == results[0][0] && r[1] == results[0][1] && r.iter().all(Option::is_some)));
}

#[test]
fn frozen_parameters_and_constants_get_no_gradient() {
    let store = ParamStore::new(1, &Device::Cpu);
    let block = Block::new(&store);
    store.set_trainable(|name| name.contains("again"));
    let with = run(&store, |x, e| part(true, &block, x, e));
    assert_eq!(with, run(&store, |x, e| part(false, &block, x, e)));
    let reached: Vec<bool> = with[3..].iter().map(Option::is_some).collect();
    assert_eq!(reached, [false, false, false, false, true, true]);
    store.freeze();
    let y = part(true, &block, &tensor("x", &[1, 4, 4, 8]), &tensor("e", &[8]));
    assert!(!y.track_op(), "a frozen part of constants is part of no graph");
}

#[test]
fn inner_activations_are_not_kept() {
    let store = ParamStore::new(1, &Device::Cpu);
    let block = Block::new(&store);
    let nodes = |recompute: bool| {
        let x = Var::from_tensor(&tensor("x", &[1, 4, 4, 8])).unwrap();
        let y = part(recompute, &block, x.as_tensor(), &tensor("e", &[8]));
        y.sorted_nodes().iter().filter(|t| t.elem_count() >= 128 && !t.is_variable()).count()
    };
    // The seam and the result.
    assert_eq!(nodes(true), 2);
    assert!(nodes(false) > 6);
}

#[test]
fn an_input_without_influence_and_errors() {
    let x = Var::from_tensor(&tensor("x", &[2, 3])).unwrap();
    let unused = (x.as_tensor() * 2.0).unwrap();
    let y = checkpoint(true, &[x.as_tensor(), &unused], |a| -> Result<Tensor> { Ok(a[0].sqr()?) }).unwrap();
    let gradients = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(bits(gradients.get(&x).unwrap()), bits(&(x.as_tensor() * 2.0).unwrap()));
    let zeros = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let refused = checkpoint(true, &[&zeros], |a| ops::upsample_nearest2x(&a[0]));
    assert!(refused.unwrap_err().to_string().contains("[2, 3]"));
}
