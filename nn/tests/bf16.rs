//! Activations in bfloat16 with float32 parameters: results and gradients are those of float32, rounded; parameters and their
//! gradients stay float32.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{Operator, device, evaluate, largest, normal};
use half::bf16;
use strata_nn::{
    layers::{Conv2d, GroupNorm, LayerNorm, Linear},
    ops::{self, Activation, Conv2dConfig, Padding},
    params::ParamStore,
    random::Key,
};

/// Which arguments are activations; the others are parameters.
type Activations<'a> = &'a [usize];

/// Values that bfloat16 holds, so that rounding the arguments changes nothing.
fn held(args: &[Tensor]) -> Vec<Tensor> {
    args.iter().map(|t| t.to_dtype(DType::BF16).unwrap().to_dtype(DType::F64).unwrap()).collect()
}

/// The operator in float64, and with bfloat16 activations: 1 part in 100 of the largest element apart at most, and of the right types.
fn agrees(name: &str, f: Operator, args: &[Tensor], activations: Activations) {
    let args = held(args);
    let reference = evaluate(f, &args, DType::F64);
    let dtype = |i: usize| if activations.contains(&i) { DType::BF16 } else { DType::F32 };
    let var = |(i, t): (usize, &Tensor)| Var::from_tensor(&t.to_dtype(dtype(i)).unwrap().to_device(&device()).unwrap()).unwrap();
    let vars: Vec<Var> = args.iter().enumerate().map(var).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let grads = common::scalar(f, &tensors).backward().unwrap();
    let mut got = vec![y.detach()];
    got.extend(vars.iter().map(|v| grads.get(v).unwrap().clone()));
    for (i, (g, r)) in got.iter().zip(&reference).enumerate() {
        if i > 0 {
            assert_eq!(g.dtype(), dtype(i - 1), "{name}: type of gradient {i}");
        }
        let g = g.to_dtype(DType::F64).unwrap().to_device(&Device::Cpu).unwrap();
        let error = largest(&(&g - r).unwrap()) / largest(r).max(1e-3);
        assert!(error < 2e-2, "{name}: result {i} (0 is the output, then gradients) is off by {error:e}");
    }
}

#[test]
fn every_operator() {
    let conv = |config: Conv2dConfig| move |a: &[Tensor]| ops::conv2d(&a[0], &a[1], Some(&a[2]), config);
    let shapes: [&[usize]; 3] = [&[2, 7, 6, 8], &[10, 8, 3, 3], &[10]];
    agrees("conv2d", &conv(Conv2dConfig::same(3)), &normal(&shapes, 0.5), &[0]);
    let down = Conv2dConfig { stride: 2, padding: Padding::BOTTOM_RIGHT };
    agrees("conv2d, stride 2", &conv(down), &normal(&shapes, 0.5), &[0]);
    let linear = |a: &[Tensor]| ops::linear(&a[0], &a[1], Some(&a[2]));
    agrees("linear", &linear, &normal(&[&[3, 5, 24], &[9, 24], &[9]], 0.5), &[0]);
    let norm = |a: &[Tensor]| ops::group_norm(&a[0], &a[1], &a[2], 3, 1e-5, None, Activation::Silu);
    agrees("group_norm", &norm, &normal(&[&[2, 5, 7, 12], &[12], &[12]], 1.0), &[0]);
    let norm = |a: &[Tensor]| ops::group_norm(&a[0], &a[1], &a[2], 3, 1e-5, Some((&a[3], &a[4])), Activation::Silu);
    agrees("adaptive group_norm", &norm, &normal(&[&[2, 5, 7, 12], &[12], &[12], &[2, 12], &[2, 12]], 0.7), &[0, 3, 4]);
    let norm = |a: &[Tensor]| ops::layer_norm(&a[0], &a[1], &a[2], 1e-5);
    agrees("layer_norm", &norm, &normal(&[&[4, 6, 20], &[20], &[20]], 1.0), &[0]);
    let shapes: [&[usize]; 3] = [&[2, 9, 2, 8], &[2, 11, 2, 8], &[2, 11, 2, 8]];
    agrees("attention", &|a| ops::attention(&a[0], &a[1], &a[2], 0.35, None), &normal(&shapes, 0.7), &[0, 1, 2]);
    agrees("mse_loss", &|a| ops::mse_loss(&a[0], &a[1]), &normal(&[&[2, 30], &[2, 30]], 1.0), &[0, 1]);
}

#[test]
fn operators_without_parameters() {
    type Unary = fn(&Tensor) -> strata_nn::Result<Tensor>;
    let all: [(&str, Unary); 8] = [
        ("silu", ops::silu),
        ("gelu", ops::gelu),
        ("gelu_tanh", ops::gelu_tanh),
        ("geglu", ops::geglu),
        ("relu", ops::relu),
        ("leaky_relu", ops::leaky_relu),
        ("upsample_nearest2x", ops::upsample_nearest2x),
        ("average_pool2x", ops::average_pool2x),
    ];
    for (name, f) in all {
        agrees(name, &|a| f(&a[0]), &normal(&[&[2, 4, 6, 10]], 1.5), &[0]);
    }
    agrees("concat_channels", &|a| ops::concat_channels(&a[0], &a[1]), &normal(&[&[2, 3, 4], &[2, 3, 5]], 1.0), &[0, 1]);
    let half = ops::FirConfig { up: 1, down: 2, before: 1, after: 1 };
    let fir = |a: &[Tensor]| ops::fir_resample(&a[0], &[0.125, 0.375, 0.375, 0.125], half);
    agrees("fir_resample", &fir, &normal(&[&[2, 6, 5, 4]], 1.0), &[0]);
    agrees("dropout", &|a| ops::dropout(&a[0], 0.3, Key::new(1, "d")), &normal(&[&[3, 50]], 1.0), &[0]);
}

#[test]
fn a_result_is_the_float32_one_rounded() {
    let args = held(&normal(&[&[5, 16], &[6, 16]], 1.0));
    let [x, w] = [&args[0], &args[1]].map(|t| t.to_dtype(DType::F32).unwrap().to_device(&device()).unwrap());
    let exact = ops::linear(&x, &w, None).unwrap().to_dtype(DType::BF16).unwrap();
    let narrow = ops::linear(&x.to_dtype(DType::BF16).unwrap(), &w, None).unwrap();
    let floats = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (a, b) in floats(&exact).into_iter().zip(floats(&narrow)) {
        // The order of a sum may turn a tie: one unit in the last of eight places.
        assert!((a - b).abs() <= a.abs() * 2f32.powi(-7), "{a} {b}");
        assert_eq!(bf16::from_f32(b).to_f32(), b);
    }
}

#[test]
fn layers_keep_float32_masters() {
    let store = ParamStore::new(0, &device());
    let scope = store.root();
    let conv = Conv2d::new(&scope.pp("conv"), 3, 8, 3).unwrap();
    let group = GroupNorm::new(&scope.pp("group"), 8, 4, 1e-5).unwrap();
    let layer = LayerNorm::new(&scope.pp("layer"), 8, 1e-5).unwrap();
    let linear = Linear::new(&scope.pp("linear"), 8, 2).unwrap();
    let x = normal(&[&[2, 6, 5, 3]], 1.0)[0].to_dtype(DType::BF16).unwrap().to_device(&device()).unwrap();
    let h = group.forward_silu(&conv.forward(&x).unwrap()).unwrap();
    let y = linear.forward(&layer.forward(&h).unwrap()).unwrap();
    assert_eq!(y.dtype(), DType::BF16);
    let grads = y.to_dtype(DType::F32).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    for p in store.trainable() {
        assert_eq!(p.var().dtype(), DType::F32, "{}", p.name());
        let gradient = grads.get(p.var()).unwrap_or_else(|| panic!("no gradient of {}", p.name()));
        assert_eq!(gradient.dtype(), DType::F32, "{}", p.name());
        let size = largest(&gradient.to_dtype(DType::F64).unwrap().to_device(&Device::Cpu).unwrap());
        assert!(size > 0.0 && size.is_finite(), "{}: {size}", p.name());
    }
}
