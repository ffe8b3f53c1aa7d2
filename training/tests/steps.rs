//! Optimizer, gradients, averages and learning rates.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use strata_nn::params::{Init, ParamStore};
use strata_training::{
    AdamWConfig, Ema, EmaSchedule, Group, LrSchedule, Optimizer, StepOptions,
    ema::EmaCounters,
    gradients::{NormType, Sanitize, clip, total_norm},
    lr_schedule::Cycle,
};

/// One parameter of several chunks of the parallel sweep, and a small one.
fn store() -> ParamStore {
    let store = ParamStore::new(1, &Device::Cpu);
    store.root().param("big", (3, 40_001), Init::Normal { std: 1.0 }).unwrap();
    store.root().param("small", 5, Init::ONES).unwrap();
    store
}

fn squared(store: &ParamStore) -> GradStore {
    let terms: Vec<Tensor> = store.parameters().iter().map(|p| p.get().sqr().unwrap().sum_all().unwrap()).collect();
    Tensor::stack(&terms, 0).unwrap().sum_all().unwrap().backward().unwrap()
}

fn values(store: &ParamStore) -> Vec<f32> {
    store.parameters().iter().flat_map(|p| p.get().flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

fn map(tensors: Vec<(String, Tensor)>) -> HashMap<String, Tensor> {
    tensors.into_iter().collect()
}

/// Gradients that are exactly `g` for a variable.
fn gradient(var: &Var, g: &Tensor) -> GradStore {
    (var.as_tensor() * g).unwrap().sum_all().unwrap().backward().unwrap()
}

#[test]
fn saved_and_loaded_steps_equal_uninterrupted_ones() {
    for amsgrad in [false, true] {
        let config = AdamWConfig { lr: 0.01, amsgrad, ..AdamWConfig::default() };
        let options = StepOptions { lr_multiplier: 0.5, max_grad_norm: Some(1.0) };
        let (through, halved) = (store(), store());
        let mut optimizer = Optimizer::new(through.trainable(), config).unwrap();
        for _ in 0..6 {
            optimizer.step(&squared(&through), options).unwrap();
        }

        let mut first = Optimizer::new(halved.trainable(), config).unwrap();
        for _ in 0..3 {
            first.step(&squared(&halved), options).unwrap();
        }
        let mut second = Optimizer::new(halved.trainable(), config).unwrap();
        second.load(&map(first.tensors().unwrap())).unwrap();
        assert_eq!(second.steps(), 3);
        for _ in 0..3 {
            second.step(&squared(&halved), options).unwrap();
        }
        assert_eq!(values(&through), values(&halved));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let store = store();
            let mut optimizer = Optimizer::new(store.trainable(), AdamWConfig::default()).unwrap();
            let mut ema = Ema::new(&store, EmaSchedule::Constant { decay: 0.9 }).unwrap();
            let options = StepOptions { lr_multiplier: 1.0, max_grad_norm: Some(0.1) };
            let norms: Vec<f64> = (0..3).map(|_| optimizer.step(&squared(&store), options).unwrap().grad_norm).collect();
            ema.update(1).unwrap();
            (norms, values(&store), ema.tensors()[0].1.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn one_sweep_gives_the_bits_of_step_and_average_apart() {
    let run = |together: bool| {
        let store = store();
        let mut optimizer = Optimizer::new(store.trainable(), AdamWConfig { amsgrad: true, ..AdamWConfig::default() }).unwrap();
        let mut ema = Ema::new(&store, EmaSchedule::LdmWarmup { decay: 0.99 }).unwrap();
        let options = StepOptions { lr_multiplier: 1.0, max_grad_norm: Some(0.1) };
        for step in 0..4 {
            let mut grads = squared(&store);
            let first = store.parameters()[0].clone();
            match step {
                // A parameter without a gradient, then a step that is skipped.
                1 => drop(grads.remove(first.var())),
                2 => drop(grads.insert(first.var(), (first.var().as_tensor() * f64::NAN).unwrap())),
                _ => {}
            }
            if together {
                optimizer.step_and_average(&grads, options, &mut ema, 1).unwrap();
            } else {
                optimizer.step(&grads, options).unwrap();
                ema.update(1).unwrap();
            }
        }
        assert_eq!((optimizer.steps(), optimizer.skipped(), ema.counters().updates), (3, 1, 4));
        let bits = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
        let averages: Vec<Vec<u32>> = ema.tensors().iter().map(|(_, t)| bits(t)).collect();
        (values(&store), averages)
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_step_that_is_not_finite_is_skipped_and_counted() {
    for bad in [f32::NAN, f32::INFINITY] {
        let store = store();
        let mut optimizer = Optimizer::new(store.trainable(), AdamWConfig::default()).unwrap();
        optimizer.step(&squared(&store), StepOptions::default()).unwrap();
        let (before, state) = (values(&store), optimizer.tensors().unwrap());
        let mut grads = squared(&store);
        let small = store.parameters()[1].clone();
        grads.insert(small.var(), Tensor::new(&[0f32, 1., bad, 3., 4.], &Device::Cpu).unwrap());
        for k in 1..=2 {
            let report = optimizer.step(&grads, StepOptions::default()).unwrap();
            assert!(report.skipped && !report.grad_norm.is_finite());
            assert_eq!((optimizer.steps(), optimizer.skipped(), optimizer.skipped_in_a_row()), (1, k, k));
        }
        assert_eq!(before, values(&store));
        for ((name, a), (_, b)) in state.iter().zip(&optimizer.tensors().unwrap()).skip(3) {
            let all = |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            assert_eq!(all(a), all(b), "{name}");
        }
        assert!(!optimizer.step(&squared(&store), StepOptions::default()).unwrap().skipped);
        assert_eq!((optimizer.skipped(), optimizer.skipped_in_a_row()), (2, 0));
        let mut loaded = Optimizer::new(store.trainable(), AdamWConfig::default()).unwrap();
        loaded.load(&map(optimizer.tensors().unwrap())).unwrap();
        assert_eq!((loaded.steps(), loaded.skipped()), (2, 2));
    }
}

#[test]
fn sanitizing_takes_the_step_instead() {
    let var = Var::new(&[1f32, 1.0], &Device::Cpu).unwrap();
    let groups = vec![Group { parameters: vec![("p".to_string(), var.clone())], lr: 0.1, weight_decay: 0.0 }];
    let config = AdamWConfig { sanitize: Some(Sanitize::EDM), ..AdamWConfig::default() };
    let mut optimizer = Optimizer::with_groups(groups, config).unwrap();
    let grads = gradient(&var, &Tensor::new(&[f32::NAN, f32::NEG_INFINITY], &Device::Cpu).unwrap());
    let report = optimizer.step(&grads, StepOptions::default()).unwrap();
    assert_eq!((report.grad_norm, report.skipped), (1e5, false));
    // The first step of Adam is lr towards the sign of the gradient.
    let after = var.to_vec1::<f32>().unwrap();
    assert!(after[0] == 1.0 && (after[1] - 1.1).abs() < 1e-6, "{after:?}");
}

#[test]
fn a_parameter_without_a_gradient_keeps_its_value_and_its_count() {
    let store = store();
    let mut optimizer = Optimizer::new(store.trainable(), AdamWConfig::default()).unwrap();
    let big = store.parameters()[0].clone();
    let grads = big.get().sqr().unwrap().sum_all().unwrap().backward().unwrap();
    optimizer.step(&grads, StepOptions::default()).unwrap();
    let tensors = map(optimizer.tensors().unwrap());
    assert_eq!(store.parameters()[1].get().to_vec1::<f32>().unwrap(), vec![1.0; 5]);
    let count = |name: &str| tensors[name].to_vec1::<i64>().unwrap()[0];
    assert_eq!((count("big.step"), count("small.step"), count("steps")), (1, 0, 1));
}

#[test]
fn gradients_that_are_not_contiguous_are_read_in_order() {
    let var = Var::zeros((2, 3), DType::F64, &Device::Cpu).unwrap();
    let groups = vec![Group { parameters: vec![("p".to_string(), var.clone())], lr: 1.0, weight_decay: 0.0 }];
    let mut optimizer = Optimizer::with_groups(groups, AdamWConfig { eps: 1.0, ..AdamWConfig::default() }).unwrap();
    let mut grads = gradient(&var, &Tensor::zeros((2, 3), DType::F64, &Device::Cpu).unwrap());
    let turned = Tensor::arange(0f64, 6.0, &Device::Cpu).unwrap().reshape((3, 2)).unwrap().t().unwrap();
    grads.insert(&var, turned.clone());
    optimizer.step(&grads, StepOptions::default()).unwrap();
    let want = (turned.neg().unwrap() / (turned.abs().unwrap() + 1.0).unwrap()).unwrap();
    let difference = (var.as_tensor() - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
    assert!(difference < 1e-12, "{difference}");
}

#[test]
fn wrong_settings_parameters_and_states_are_refused() {
    let fails = |config: AdamWConfig, word: &str| {
        let message = Optimizer::new(store().trainable(), config).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    fails(AdamWConfig { lr: -1.0, ..AdamWConfig::default() }, "`lr`: expected a number at least 0, got -1");
    fails(AdamWConfig { beta2: 1.0, ..AdamWConfig::default() }, "`beta2`: expected a number in [0, 1), got 1");
    fails(AdamWConfig { eps: f64::NAN, ..AdamWConfig::default() }, "`eps`");
    let twice = [store().trainable(), store().trainable()].concat();
    let message = Optimizer::new(twice, AdamWConfig::default()).unwrap_err().to_string();
    assert!(message.contains("`big` is in the optimizer twice"), "{message}");
    let half = Var::zeros(2, DType::F16, &Device::Cpu).unwrap();
    let groups = vec![Group { parameters: vec![("h".to_string(), half)], lr: 1.0, weight_decay: 0.0 }];
    let message = Optimizer::with_groups(groups, AdamWConfig::default()).unwrap_err().to_string();
    assert!(message.contains("float32 or float64"), "{message}");

    let mut optimizer = Optimizer::new(store().trainable(), AdamWConfig::default()).unwrap();
    let mut tensors = map(optimizer.tensors().unwrap());
    tensors.remove("small.exp_avg");
    tensors.insert("big.exp_avg_sq".to_string(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    tensors.insert("other.exp_avg".to_string(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    let message = optimizer.load(&tensors).unwrap_err().to_string();
    for part in ["missing `small.exp_avg`", "`big.exp_avg_sq`: expected [3, 40001], got [1]", "unexpected `other.exp_avg`"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn norms_over_chunks_and_tensors() {
    let a = Tensor::full(2f32, 100_003, &Device::Cpu).unwrap();
    let b = Tensor::new(&[-3f64, 4.0], &Device::Cpu).unwrap();
    let norm = |norm| total_norm(&[a.clone(), b.clone()], norm).unwrap();
    assert_eq!(norm(NormType::L2), (400_012f64 + 25.0).sqrt());
    assert_eq!(norm(NormType::Power(1.0)), 200_013.0);
    assert!((norm(NormType::Power(3.0)) - (800_024f64 + 91.0).cbrt()).abs() < 1e-9);
    assert_eq!(norm(NormType::Infinity), 4.0);
    assert_eq!(total_norm(&[], NormType::L2).unwrap(), 0.0);
    assert!(total_norm(&[Tensor::new(&[1.0, f64::NAN, 2.0], &Device::Cpu).unwrap()], NormType::Infinity).unwrap().is_nan());
    assert!(total_norm(std::slice::from_ref(&b), NormType::Power(0.0)).unwrap_err().to_string().contains("above 0"));
    assert!(total_norm(&[Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap()], NormType::L2).is_err());
    let (clipped, total) = clip(&[b], 1.0, NormType::L2).unwrap();
    assert_eq!(total, 5.0);
    assert!((clipped[0].to_vec1::<f64>().unwrap()[0] + 0.6).abs() < 1e-6);
}

#[test]
fn averages_continue_where_they_stood() {
    let schedule = EmaSchedule::HalfLife { half_life_images: 100.0, rampup_ratio: Some(0.5), batch_counts: false };
    let store = store();
    let mut optimizer = Optimizer::new(store.trainable(), AdamWConfig { lr: 0.1, ..AdamWConfig::default() }).unwrap();
    let mut through = Ema::new(&store, schedule).unwrap();
    let mut saved = Ema::new(&store, schedule).unwrap();
    for i in 0..6 {
        optimizer.step(&squared(&store), StepOptions::default()).unwrap();
        if i == 3 {
            let (tensors, counters) = (map(saved.tensors()), saved.counters());
            saved = Ema::new(&store, schedule).unwrap();
            saved.load(&tensors, counters).unwrap();
        }
        assert_eq!(through.update(16).unwrap(), saved.update(16).unwrap());
    }
    assert_eq!(saved.counters(), EmaCounters { updates: 6, seen_images: 96 });
    for ((name, a), (_, b)) in through.tensors().iter().zip(&saved.tensors()) {
        let all = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(all(a), all(b), "{name}");
    }
    assert_ne!(through.tensors()[1].1.to_vec1::<f32>().unwrap(), store.parameters()[1].get().to_vec1::<f32>().unwrap());
}

#[test]
fn wrong_averages_are_refused() {
    let fails = |schedule, word: &str| {
        let message = Ema::new(&store(), schedule).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    fails(EmaSchedule::Constant { decay: 1.5 }, "`decay`: expected a number in [0, 1], got 1.5");
    fails(EmaSchedule::HalfLife { half_life_images: -1.0, rampup_ratio: None, batch_counts: false }, "half_life_images");
    fails(EmaSchedule::HalfLife { half_life_images: 1.0, rampup_ratio: Some(-1.0), batch_counts: false }, "rampup_ratio");
    fails(EmaSchedule::Power { relative_width: 0.5 }, "0.3002");
    let mut ema = Ema::new(&store(), EmaSchedule::Constant { decay: 0.5 }).unwrap();
    let message = ema.load(&HashMap::new(), EmaCounters::default()).unwrap_err().to_string();
    assert!(message.contains("missing `big`") && message.contains("missing `small`"), "{message}");
}

#[test]
fn an_average_on_the_way_to_a_constant() {
    let var = Var::new(&[0f64], &Device::Cpu).unwrap();
    let mut ema = Ema::of_variables(vec![("p".to_string(), var.clone())], EmaSchedule::Constant { decay: 0.75 }).unwrap();
    var.set(&Tensor::new(&[1f64], &Device::Cpu).unwrap()).unwrap();
    for _ in 0..4 {
        ema.update(1).unwrap();
    }
    assert!((ema.tensors()[0].1.to_vec1::<f64>().unwrap()[0] - (1.0 - 0.75f64.powi(4))).abs() < 1e-15);
}

#[test]
fn schedules_at_their_corners() {
    let cosine = LrSchedule::Cosine { warmup_images: 100, total_images: 300, min: 0.1 };
    for (seen, want) in [(0, 0.0), (50, 0.5), (100, 1.0), (200, 0.55), (300, 0.1), (900, 0.1)] {
        assert!((cosine.multiplier(0, seen) - want).abs() < 1e-12, "{seen}");
    }
    let cycle = Cycle { warmup_steps: 2, start: 0.0, max: 1.0, min: 0.5, length_steps: 10 };
    for schedule in [LrSchedule::LdmLinear { cycles: vec![cycle] }, LrSchedule::LdmCosine { cycles: vec![cycle] }] {
        assert_eq!(schedule.multiplier(1, 0), 0.5);
        assert_eq!(schedule.multiplier(10_000, 0), 0.5, "the last factor holds");
    }
    assert_eq!(LrSchedule::Constant.multiplier(7, 7), 1.0);
    let wrong = [
        LrSchedule::Cosine { warmup_images: 10, total_images: 10, min: 0.0 },
        LrSchedule::InverseSqrt { reference_images: -1.0, warmup_images: 0.0 },
        LrSchedule::LdmLinear { cycles: vec![] },
        LrSchedule::LdmCosine { cycles: vec![Cycle { length_steps: 0, ..cycle }] },
    ];
    for schedule in wrong {
        let message = schedule.validate().unwrap_err().to_string();
        assert!(message.contains("learning-rate schedule") && message.contains("expected"), "{message}");
    }
}
