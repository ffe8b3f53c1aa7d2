//! Adam, averages and norms over many tensors at once, against the formulas in float64.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{device, largest, refuses};
use strata_nn::{
    multi_tensor::{self, AdamTensor, AdamWith},
    random::Key,
};

/// Sizes around those of a block's work, and shapes of parameters.
const SHAPES: [&[usize]; 6] = [&[1], &[7, 5], &[16384], &[16385], &[3, 3, 70, 90], &[255]];

fn random(purpose: &str, i: usize) -> Tensor {
    let n = SHAPES[i].iter().product();
    let data: Vec<f32> = Key::new(5, purpose).index(i as u64).normal(n);
    Tensor::from_vec(data, SHAPES[i], &device()).unwrap()
}

fn all(purpose: &str) -> Vec<Tensor> {
    (0..SHAPES.len()).map(|i| random(purpose, i)).collect()
}

fn wide(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F64).unwrap().to_device(&Device::Cpu).unwrap()
}

fn close(name: &str, got: &Tensor, expected: &Tensor) {
    let error = largest(&(wide(got) - expected).unwrap()) / largest(expected).max(1e-3);
    assert!(error < 1e-5, "{name} is off by {error:e}");
}

const WITH: AdamWith = AdamWith {
    beta1: 0.9,
    one_minus_beta1: 0.1,
    beta2: 0.99,
    one_minus_beta2: 0.01,
    eps: 1e-3,
    clip: 0.5,
    replace: None,
    decay: 0.75,
    weight: 0.25,
};

#[test]
fn a_build_without_kernels_refuses() {
    let t = Tensor::zeros(3, DType::F64, &Device::Cpu).unwrap();
    assert!(!multi_tensor::applies(&t));
    refuses(multi_tensor::squared_sum(&[t], None), &["squared_sum", "float32", "F64"]);
}

#[test]
fn a_step_of_adam_and_its_average() {
    if !multi_tensor::applies(&random("p", 0)) {
        return;
    }
    let (p, g, m, e) = (all("p"), all("g"), all("m"), all("e"));
    let squared = |t: &Tensor| t.sqr().unwrap();
    let v: Vec<Tensor> = all("v").iter().map(squared).collect();
    let peak: Vec<Tensor> = all("peak").iter().map(squared).collect();
    let before = [&p, &g, &m, &v, &e, &peak].map(|list| list.iter().map(wide).collect::<Vec<_>>());
    let tensors: Vec<AdamTensor> = (0..SHAPES.len())
        .map(|i| AdamTensor {
            parameter: &p[i],
            gradient: &g[i],
            mean: &m[i],
            square: &v[i],
            peak: (i % 2 == 1).then_some(&peak[i]),
            average: (i % 3 != 2).then_some(&e[i]),
            step_size: 0.01 * (i + 1) as f32,
            root_correction2: 0.5,
            shrink: 0.999,
            l2: 0.05,
        })
        .collect();
    multi_tensor::adam(&tensors, &WITH).unwrap();
    let [p0, g0, m0, v0, e0, peak0] = before;
    for i in 0..SHAPES.len() {
        let scaled = |t: &Tensor, factor: f64| t.affine(factor, 0.0).unwrap();
        let g = (scaled(&g0[i], 0.5) + scaled(&p0[i], 0.05)).unwrap();
        let mean = (scaled(&m0[i], 0.9) + scaled(&g, 0.1)).unwrap();
        let square = (scaled(&v0[i], 0.99) + scaled(&g.sqr().unwrap(), 0.01)).unwrap();
        let top = if i % 2 == 1 { peak0[i].maximum(&square).unwrap() } else { square.clone() };
        let denominator = top.sqrt().unwrap().affine(2.0, 1e-3).unwrap();
        let change = scaled(&(&mean / denominator).unwrap(), 0.01 * (i + 1) as f64);
        let expected = (scaled(&p0[i], 0.999) - change).unwrap();
        close("mean", &m[i], &mean);
        close("square", &v[i], &square);
        close("parameter", &p[i], &expected);
        close("peak", &peak[i], if i % 2 == 1 { &top } else { &peak0[i] });
        let average = (scaled(&e0[i], 0.75) + scaled(&expected, 0.25)).unwrap();
        close("average", &e[i], if i % 3 != 2 { &average } else { &e0[i] });
    }
}

#[test]
fn averages_and_norms() {
    if !multi_tensor::applies(&random("p", 0)) {
        return;
    }
    let (p, e) = (all("p"), all("e"));
    let before: Vec<Tensor> = e.iter().map(wide).collect();
    let pairs: Vec<_> = e.iter().zip(&p).collect();
    multi_tensor::blend(&pairs, 0.9, 0.1).unwrap();
    for i in 0..SHAPES.len() {
        let expected = (before[i].affine(0.9, 0.0).unwrap() + wide(&p[i]).affine(0.1, 0.0).unwrap()).unwrap();
        close("average", &e[i], &expected);
    }
    let expected: f64 = p.iter().map(|t| wide(t).sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()).sum();
    let got = multi_tensor::squared_sum(&p, None).unwrap();
    assert!((got - expected).abs() < 1e-9 * expected, "{got} {expected}");
    let broken = Tensor::new(&[1f32, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30], &device()).unwrap();
    assert!(!multi_tensor::squared_sum(std::slice::from_ref(&broken), None).unwrap().is_finite());
    let repaired = multi_tensor::squared_sum(&[broken.narrow(0, 0, 4).unwrap()], Some([2.0, 3.0, -4.0])).unwrap();
    assert_eq!(repaired, 1.0 + 4.0 + 9.0 + 16.0);
}
