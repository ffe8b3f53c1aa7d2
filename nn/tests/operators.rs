//! Guard tests of every operator but the convolution.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod common;

use candle_core::{DType, Device, Tensor};
use common::{check, device, finite, normal, refuses};
use strata_nn::ops::{self, Activation};

fn zeros(dims: &[usize]) -> Tensor {
    Tensor::zeros(dims, DType::F32, &device()).unwrap()
}

#[test]
fn linear() {
    for (x, n_out) in [(vec![3, 5, 7], 4), (vec![1, 9], 1), (vec![700, 33], 130), (vec![2, 3, 2, 300], 5)] {
        let n_in = *x.last().unwrap();
        let args = normal(&[&x, &[n_out, n_in], &[n_out]], 0.3);
        check(&format!("linear {x:?}"), &|a| ops::linear(&a[0], &a[1], Some(&a[2])), &args);
        check(&format!("linear {x:?} without bias"), &|a| ops::linear(&a[0], &a[1], None), &args[..2]);
    }
    check("linear of a view", &|a| ops::linear(&a[0].t()?, &a[1].t()?, None), &normal(&[&[3, 5], &[3, 4]], 1.0));
    finite("linear", &|a| ops::linear(&a[0], &a[1], Some(&a[2])), &[&[5, 3], &[2, 3], &[2]]);
    let run = |x: &[usize], w: &[usize], b: &[usize]| ops::linear(&zeros(x), &zeros(w), Some(&zeros(b)));
    refuses(run(&[2, 3], &[4, 5], &[4]), &["linear", "`x`", "[..., 5]", "[2, 3]"]);
    refuses(run(&[2, 3], &[4], &[4]), &["linear", "`weight`", "[4]"]);
    refuses(run(&[2, 3], &[4, 3], &[5]), &["linear", "`bias`", "[4]", "[5]"]);
    refuses(run(&[0, 3], &[4, 3], &[4]), &["linear", "`x`", "[0, 3]"]);
    refuses(run(&[2, 0], &[4, 0], &[4]), &["linear", "`x`", "[2, 0]"]);
    refuses(run(&[2, 3], &[0, 3], &[0]), &["linear", "`weight`", "[0, 3]"]);
    refuses(run(&[], &[4, 3], &[4]), &["linear", "`x`"]);
}

fn group_norm(a: &[Tensor], groups: usize, activation: Activation) -> strata_nn::Result<Tensor> {
    let scale_shift = (a.len() == 5).then(|| (&a[3], &a[4]));
    ops::group_norm(&a[0], &a[1], &a[2], groups, 1e-5, scale_shift, activation)
}

#[test]
fn group_norm_in_all_its_forms() {
    for (x, groups) in [(vec![2, 5, 7, 12], 4), (vec![1, 3, 3, 6], 6), (vec![3, 9, 8], 1), (vec![2, 57, 43, 40], 8)] {
        let (b, c) = (x[0], *x.last().unwrap());
        let args = normal(&[&x, &[c], &[c], &[b, c], &[b, c]], 0.7);
        for activation in [Activation::Identity, Activation::Silu] {
            let name = format!("group_norm {x:?} {groups} {activation:?}");
            check(&name, &|a| group_norm(a, groups, activation), &args[..3]);
            check(&format!("{name} with scale and shift"), &|a| group_norm(a, groups, activation), &args);
        }
    }
    let shapes: [&[usize]; 5] = [&[2, 3, 2, 4], &[4], &[4], &[2, 4], &[2, 4]];
    finite("group_norm", &|a| group_norm(a, 2, Activation::Silu), &shapes);
}

#[test]
fn the_variance_survives_a_large_mean() {
    let x = normal(&[&[1, 40, 50, 8]], 1.0)[0].affine(1.0, 3000.0).unwrap().to_dtype(DType::F32).unwrap();
    let (one, zero) = (Tensor::ones(8, DType::F32, &Device::Cpu).unwrap(), Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap());
    let y = |dtype: DType| {
        let device = if dtype == DType::F64 { Device::Cpu } else { device() };
        let [x, one, zero] = [&x, &one, &zero].map(|t| t.to_dtype(dtype).unwrap().to_device(&device).unwrap());
        let y = ops::group_norm(&x, &one, &zero, 2, 1e-5, None, Activation::Identity).unwrap();
        y.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let worst = y(DType::F32).iter().zip(y(DType::F64)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-3, "off by {worst}");
}

#[test]
fn group_norm_refuses() {
    let run = |x: &[usize], c: usize, groups: usize, s: &[usize]| {
        let (w, s) = (zeros(&[c]), zeros(s));
        ops::group_norm(&zeros(x), &w, &w, groups, 1e-5, Some((&s, &s)), Activation::Silu)
    };
    refuses(run(&[4], 4, 2, &[1, 4]), &["group_norm", "`x`", "[B, ..., C]", "[4]"]);
    refuses(run(&[2, 3, 4], 4, 3, &[2, 4]), &["group_norm", "`groups`", "divisor of 4", "3"]);
    refuses(run(&[2, 3, 4], 5, 2, &[2, 4]), &["group_norm", "`weight`", "[4]", "[5]"]);
    refuses(run(&[2, 3, 4], 4, 2, &[3, 4]), &["group_norm", "`scale_shift`", "[2, 4]", "[3, 4]"]);
    refuses(run(&[2, 0, 4], 4, 2, &[2, 4]), &["group_norm", "`x`", "[2, 0, 4]"]);
    refuses(run(&[2, 3, 0], 0, 2, &[2, 0]), &["group_norm", "`x`", "[2, 3, 0]"]);
    refuses(run(&[2, 3, 4], 4, 0, &[2, 4]), &["group_norm", "`groups`", "0"]);
}

#[test]
fn layer_norm() {
    for x in [vec![2, 5, 7], vec![1, 33], vec![3, 300, 64]] {
        let c = *x.last().unwrap();
        let args = normal(&[&x, &[c], &[c]], 1.0);
        check(&format!("layer_norm {x:?}"), &|a| ops::layer_norm(&a[0], &a[1], &a[2], 1e-5), &args);
    }
    finite("layer_norm", &|a| ops::layer_norm(&a[0], &a[1], &a[2], 1e-5), &[&[3, 5], &[5], &[5]]);
    let run = |x: &[usize], c: usize| ops::layer_norm(&zeros(x), &zeros(&[c]), &zeros(&[c]), 1e-5);
    refuses(run(&[2, 3], 4), &["layer_norm", "`weight`", "[3]", "[4]"]);
    refuses(run(&[2, 0], 0), &["layer_norm", "`x`", "[2, 0]"]);
    refuses(run(&[0, 3], 3), &["layer_norm", "`x`", "[0, 3]"]);
}

#[test]
fn activations() {
    type Unary = fn(&Tensor) -> strata_nn::Result<Tensor>;
    let all: [(&str, Unary); 4] =
        [("silu", ops::silu), ("gelu", ops::gelu), ("gelu_tanh", ops::gelu_tanh), ("geglu", ops::geglu)];
    for (name, f) in all {
        for shape in [vec![3, 5, 8], vec![1, 2], vec![90, 250]] {
            check(&format!("{name} {shape:?}"), &|a| f(&a[0]), &normal(&[&shape], 2.0));
        }
        finite(name, &|a| f(&a[0]), &[&[7, 4]]);
        refuses(f(&zeros(&[2, 0])), &[name, "`x`", "[2, 0]"]);
    }
    refuses(ops::geglu(&zeros(&[2, 3])), &["geglu", "`x`", "even", "[2, 3]"]);
}

#[test]
fn rectifiers() {
    type Unary = fn(&Tensor) -> strata_nn::Result<Tensor>;
    let all: [(&str, Unary); 2] = [("relu", ops::relu), ("leaky_relu", ops::leaky_relu)];
    for (name, f) in all {
        for shape in [vec![3, 5, 8], vec![90, 250]] {
            // Away from the kink, where differences say nothing.
            let x = &normal(&[&shape], 2.0)[0];
            let away = ((x / (x.abs().unwrap() + 1e-9).unwrap()).unwrap() * 0.1).unwrap();
            check(&format!("{name} {shape:?}"), &|a| f(&a[0]), &[(x + away).unwrap()]);
        }
        finite(name, &|a| f(&a[0]), &[&[7, 4]]);
        refuses(f(&zeros(&[2, 0])), &[name, "`x`", "[2, 0]"]);
        let y = f(&Tensor::new(&[-1f32, f32::NAN, 3.0], &device()).unwrap()).unwrap().to_vec1::<f32>().unwrap();
        assert!(y[0] <= 0.0 && y[1].is_nan() && y[2] == 3.0, "{name} {y:?}");
    }
}

fn attention(a: &[Tensor], mask: Option<&Tensor>) -> strata_nn::Result<Tensor> {
    let mask = mask.map(|m| m.to_device(a[0].device())).transpose()?;
    ops::attention(&a[0], &a[1], &a[2], 0.7, mask.as_ref())
}

#[test]
fn self_and_cross_attention() {
    for (b, tq, tk, h, d) in [(2, 5, 7, 3, 4), (1, 1, 1, 1, 1), (1, 300, 260, 1, 9), (3, 17, 33, 2, 6), (1, 7, 17000, 1, 2)] {
        let args = normal(&[&[b, tq, h, d], &[b, tk, h, d], &[b, tk, h, d]], 0.5);
        let name = format!("attention {b} {tq} {tk} {h} {d}");
        check(&name, &|a| attention(a, None), &args);
        let keep: Vec<f32> = (0..b * tk).map(|i| f32::from(u8::from(i % tk % 3 != 1))).collect();
        let mask = Tensor::from_vec(keep, (b, tk), &Device::Cpu).unwrap();
        check(&format!("{name} masked"), &|a| attention(a, Some(&mask)), &args);
    }
    let same = normal(&[&[2, 6, 2, 3]], 1.0);
    check("attention of one tensor", &|a| ops::attention(&a[0], &a[0], &a[0], 1.0, None), &same);
    finite("attention", &|a| attention(a, None), &[&[1, 5, 2, 3], &[1, 4, 2, 3], &[1, 4, 2, 3]]);
}

#[test]
fn a_masked_key_takes_no_part() {
    let args: Vec<Tensor> = normal(&[&[1, 4, 1, 3], &[1, 5, 1, 3], &[1, 5, 1, 3]], 1.0);
    let args: Vec<Tensor> = args.iter().map(|t| t.to_dtype(DType::F32).unwrap().to_device(&device()).unwrap()).collect();
    let mask = Tensor::new(&[[1f32, 1., 1., 0., 0.]], &Device::Cpu).unwrap();
    let cut: Vec<Tensor> = args.iter().map(|t| t.narrow(1, 0, t.dim(1).unwrap().min(3)).unwrap()).collect();
    let masked = attention(&args, Some(&mask)).unwrap();
    let shorter = ops::attention(&args[0], &cut[1], &cut[2], 0.7, None).unwrap();
    let difference = (masked - shorter).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
}

#[test]
fn masked_keys_before_and_between_others_take_no_part() {
    let args: Vec<Tensor> = normal(&[&[1, 40, 2, 3], &[1, 900, 2, 3], &[1, 900, 2, 3]], 1.0);
    let args: Vec<Tensor> = args.iter().map(|t| t.to_dtype(DType::F32).unwrap().to_device(&device()).unwrap()).collect();
    let kept: Vec<u32> = (290..320).chain(880..900).collect();
    let mask: Vec<f32> = (0..900).map(|i| f32::from(u8::from(kept.contains(&i)))).collect();
    let mask = Tensor::from_vec(mask, (1, 900), &Device::Cpu).unwrap();
    let kept = Tensor::new(kept, args[0].device()).unwrap();
    let cut: Vec<Tensor> = args[1..].iter().map(|t| t.index_select(&kept, 1).unwrap()).collect();
    let masked = attention(&args, Some(&mask)).unwrap();
    let shorter = ops::attention(&args[0], &cut[0], &cut[1], 0.7, None).unwrap();
    let difference = (masked - shorter).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
}

#[test]
fn attention_with_a_bias() {
    let args = normal(&[&[2, 5, 3, 4], &[2, 7, 3, 4], &[2, 7, 3, 4]], 0.5);
    for shape in [[2, 3, 5, 7], [1, 3, 5, 7], [2, 1, 1, 7], [1, 1, 5, 7]] {
        let args: Vec<Tensor> = args.iter().cloned().chain(normal(&[&shape], 1.0)).collect();
        check(&format!("biased_attention {shape:?}"), &|a| ops::biased_attention(&a[0], &a[1], &a[2], 0.7, &a[3]), &args);
    }
    let args: Vec<Tensor> = args.iter().map(|t| t.to_dtype(DType::F32).unwrap().to_device(&device()).unwrap()).collect();
    let mask = Tensor::new(&[[1f32, 0., 1., 1., 0., 1., 0.], [1., 1., 1., 1., 1., 0., 1.]], &device()).unwrap();
    let bias = mask.affine(1e30, -1e30).unwrap().reshape((2, 1, 1, 7)).unwrap();
    let biased = ops::biased_attention(&args[0], &args[1], &args[2], 0.7, &bias).unwrap();
    let difference = (biased - attention(&args, Some(&mask)).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
    let (x, bias) = (zeros(&[1, 2, 3, 4]), zeros(&[1, 3, 2, 3]));
    refuses(ops::biased_attention(&x, &x, &x, 1.0, &bias), &["biased_attention", "`bias`", "[1, 3, 2, 2]", "[1, 3, 2, 3]"]);
}

#[test]
fn attention_refuses() {
    let run = |q: &[usize], k: &[usize], v: &[usize], m: &[usize]| {
        ops::attention(&zeros(q), &zeros(k), &zeros(v), 1.0, Some(&zeros(m)))
    };
    refuses(run(&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2]), &["attention", "`q, k`", "[B, T, H, d]", "[1, 2, 3]"]);
    refuses(run(&[1, 2, 3, 4], &[1, 2, 3, 5], &[1, 2, 3, 4], &[1, 2]), &["attention", "`k`", "[1, 2, 3, 4]", "[1, 2, 3, 5]"]);
    refuses(run(&[1, 2, 3, 4], &[1, 5, 3, 4], &[1, 2, 3, 4], &[1, 5]), &["attention", "`v`", "[1, 5, 3, 4]", "[1, 2, 3, 4]"]);
    refuses(run(&[1, 2, 3, 4], &[1, 5, 3, 4], &[1, 5, 3, 4], &[1, 2]), &["attention", "`mask`", "[1, 5]", "[1, 2]"]);
    refuses(run(&[1, 2, 3, 4], &[1, 0, 3, 4], &[1, 0, 3, 4], &[1, 0]), &["attention", "`k`", "[1, 0, 3, 4]"]);
    refuses(run(&[1, 0, 3, 4], &[1, 2, 3, 4], &[1, 2, 3, 4], &[1, 2]), &["attention", "`q`", "[1, 0, 3, 4]"]);
}

#[test]
fn resampling_and_joining() {
    for (b, h, w, c) in [(2, 3, 5, 4), (1, 1, 1, 1), (1, 33, 20, 17)] {
        let args = normal(&[&[b, h, w, c], &[b, 2 * h, 2 * w, c]], 1.0);
        check("upsample_nearest2x", &|a| ops::upsample_nearest2x(&a[0]), &args[..1]);
        check("average_pool2x", &|a| ops::average_pool2x(&a[0]), &args[1..]);
        let args = normal(&[&[b, h, w, c], &[b, h, w, 3]], 1.0);
        check("concat_channels", &|a| ops::concat_channels(&a[0], &a[1]), &args);
    }
    refuses(ops::upsample_nearest2x(&zeros(&[2, 3, 4])), &["upsample_nearest2x", "`x`", "[2, 3, 4]"]);
    refuses(ops::upsample_nearest2x(&zeros(&[2, 0, 4, 1])), &["upsample_nearest2x", "`x`", "[2, 0, 4, 1]"]);
    refuses(ops::average_pool2x(&zeros(&[1, 3, 4, 1])), &["average_pool2x", "`x`", "even", "[1, 3, 4, 1]"]);
    refuses(ops::average_pool2x(&zeros(&[1, 0, 4, 1])), &["average_pool2x", "`x`", "[1, 0, 4, 1]"]);
    refuses(ops::concat_channels(&zeros(&[1, 3, 4]), &zeros(&[1, 2, 4])), &["concat_channels", "`b`", "[1, 3]", "[1, 2, 4]"]);
    refuses(ops::concat_channels(&zeros(&[1, 0]), &zeros(&[1, 2])), &["concat_channels", "`a`", "[1, 0]"]);
    refuses(ops::concat_channels(&zeros(&[]), &zeros(&[1, 2])), &["concat_channels"]);
}

#[test]
fn losses() {
    type Loss = fn(&Tensor, &Tensor) -> strata_nn::Result<Tensor>;
    let all: [(&str, Loss); 3] =
        [("mse_loss", ops::mse_loss), ("l1_loss", ops::l1_loss), ("huber_loss", |a, b| ops::huber_loss(a, b, 0.75))];
    for (name, f) in all {
        for shape in [vec![3, 5, 7], vec![1, 1], vec![2, 90, 250]] {
            check(&format!("{name} {shape:?}"), &|a| f(&a[0], &a[1]), &normal(&[&shape, &shape], 1.0));
        }
        finite(name, &|a| f(&a[0], &a[1]), &[&[2, 4], &[2, 4]]);
        refuses(f(&zeros(&[2, 3]), &zeros(&[3, 2])), &[name, "`b`", "[2, 3]", "[3, 2]"]);
        refuses(f(&zeros(&[2]), &zeros(&[2])), &[name, "`a`", "[B, ...]", "[2]"]);
        refuses(f(&zeros(&[2, 0]), &zeros(&[2, 0])), &[name, "`a`", "[2, 0]"]);
    }
    refuses(ops::huber_loss(&zeros(&[1, 2]), &zeros(&[1, 2]), -1.0), &["huber_loss", "`delta`", "positive", "-1"]);
}

#[test]
fn dropout_has_the_masks_of_its_key() {
    use strata_nn::random::Key;
    for (n, p) in [(1, 0.5), (4095, 0.1), (4097, 0.7), (10_000, 0.999)] {
        let key = Key::new(9, "dropout").step(1 << 40).index(77);
        let y = ops::dropout(&zeros(&[n]).affine(0.0, 1.0).unwrap(), p, key).unwrap().to_device(&Device::Cpu).unwrap();
        let kept: Vec<bool> = y.to_vec1::<f32>().unwrap().iter().map(|v| *v != 0.0).collect();
        let expected: Vec<bool> = key.uniform(n).iter().map(|u| f64::from(*u) >= p).collect();
        assert!(kept == expected, "{n} elements, p = {p}");
    }
    check("dropout", &|a| ops::dropout(&a[0], 0.3, Key::new(1, "d")), &normal(&[&[70, 90]], 1.0));
}

#[test]
fn max_pooling() {
    let pool = |kernel, stride, padding, ceil| ops::PoolConfig { kernel, stride, padding, ceil };
    for config in [pool(2, 2, 0, false), pool(3, 2, 0, false), pool(3, 2, 0, true), pool(3, 1, 1, false), pool(3, 2, 1, true)] {
        for dims in [[2, 5, 8, 3], [1, 3, 4, 20], [3, 33, 18, 2]] {
            check(&format!("{config:?} {dims:?}"), &|a| ops::max_pool2d(&a[0], config), &normal(&[&dims], 1.0));
        }
    }
    let x = Tensor::arange(0f32, 20., &Device::Cpu).unwrap().reshape((1, 4, 5, 1)).unwrap();
    let run = |config| ops::max_pool2d(&x, config).unwrap().squeeze(0).unwrap().squeeze(2).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(run(pool(2, 2, 0, false)), [[6., 8.], [16., 18.]]);
    assert_eq!(run(pool(2, 2, 0, true)), [[6., 8., 9.], [16., 18., 19.]]);
    assert_eq!(run(pool(3, 2, 1, false)), [[6., 8., 9.], [16., 18., 19.]]);
    refuses(ops::max_pool2d(&zeros(&[1, 2, 9, 1]), pool(3, 2, 0, false)), &["max_pool2d", "`x`", "at least 3", "[1, 2, 9, 1]"]);
    refuses(ops::max_pool2d(&zeros(&[1, 9, 1]), pool(3, 2, 0, false)), &["max_pool2d", "`x`", "[1, 9, 1]"]);
    refuses(ops::max_pool2d(&zeros(&[1, 9, 9, 1]), pool(3, 0, 0, false)), &["max_pool2d", "`config`", "stride"]);
}

/// The same tests on the paths of processors with narrower vectors.
#[test]
fn operators_of_lesser_processors() {
    if std::env::var_os("STRATA_SIMD").is_some() || cfg!(any(feature = "cuda", feature = "emulate")) {
        return;
    }
    for level in ["avx2", "portable"] {
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--skip", "lesser_processors"])
            .env("STRATA_SIMD", level)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success() && said.contains("self_and_cross_attention ... ok"), "{level}: {said}");
    }
}
