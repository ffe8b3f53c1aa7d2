//! Checks that every operator goes through: the float32 kernels against the float64 composition, and that against differences.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, missing_docs)]

use candle_core::{DType, Device, Tensor, Var};
use strata_nn::{Result, random::Key};

pub type Operator<'a> = &'a (dyn Fn(&[Tensor]) -> Result<Tensor> + Sync);

/// Standard normal float64 values of the given shapes, times `size`.
pub fn normal(shapes: &[&[usize]], size: f64) -> Vec<Tensor> {
    let key = Key::new(11, "test");
    let one = |(i, dims): (usize, &&[usize])| {
        let data: Vec<f64> = key.index(i as u64).normal(dims.iter().product()).iter().map(|v| f64::from(*v) * size).collect();
        Tensor::from_vec(data, *dims, &Device::Cpu).unwrap()
    };
    shapes.iter().enumerate().map(one).collect()
}

/// A scalar that uses every argument twice, so that gradients must be accumulated.
pub fn scalar(f: Operator, args: &[Tensor]) -> Tensor {
    let (y, again) = (f(args).unwrap(), f(args).unwrap());
    let r = normal(&[y.dims(), y.dims()], 1.0);
    let like = |r: &Tensor| r.to_dtype(y.dtype()).unwrap().to_device(y.device()).unwrap();
    let (r0, r1) = (like(&r[0]), like(&r[1]));
    let linear = (y * r0).unwrap().sum_all().unwrap();
    (linear + (again.sqr().unwrap() * r1).unwrap().sum_all().unwrap()).unwrap()
}

/// Where the kernels under test run: STRATA_TEST_DEVICE (cpu, cuda:N), or a card if this build can use one. Reference values are
/// always computed on the CPU.
pub fn device() -> Device {
    match std::env::var("STRATA_TEST_DEVICE").as_deref() {
        Ok("cpu") => Device::Cpu,
        Ok(name) => Device::new_cuda(name.strip_prefix("cuda:").unwrap().parse().unwrap()).unwrap(),
        Err(_) => Device::cuda_if_available(0).unwrap(),
    }
}

/// Output and gradients of all arguments in `dtype`, as float64 on the CPU.
pub fn evaluate(f: Operator, args: &[Tensor], dtype: DType) -> Vec<Tensor> {
    let device = if dtype == DType::F64 { Device::Cpu } else { device() };
    let args: Vec<Tensor> = args.iter().map(|a| a.to_device(&device).unwrap()).collect();
    let all = evaluate_there(f, &args, dtype);
    all.iter().map(|t| t.to_device(&Device::Cpu).unwrap()).collect()
}

fn evaluate_there(f: Operator, args: &[Tensor], dtype: DType) -> Vec<Tensor> {
    let vars: Vec<Var> = args.iter().map(|a| Var::from_tensor(&a.to_dtype(dtype).unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let grads = scalar(f, &tensors).backward().unwrap();
    let mut all = vec![f(&tensors).unwrap().detach()];
    all.extend(vars.iter().map(|v| grads.get(v).unwrap().clone()));
    all.iter().map(|t| t.to_dtype(DType::F64).unwrap()).collect()
}

pub fn largest(t: &Tensor) -> f64 {
    t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// The kernels agree with the composition, relative to the largest element; and that with central differences.
pub fn check(name: &str, f: Operator, args: &[Tensor]) {
    let (kernel, reference) = (evaluate(f, args, DType::F32), evaluate(f, args, DType::F64));
    for (i, (k, r)) in kernel.iter().zip(&reference).enumerate() {
        assert_eq!(k.dims(), r.dims(), "{name}: shape of result {i}");
        let error = largest(&(k - r).unwrap()) / largest(r).max(1e-3);
        assert!(error < 1e-4, "{name}: result {i} (0 is the output, then gradients) is off by {error:e}");
    }
    differences(name, f, args, &reference[1..]);
    threads(name, f, args);
}

fn differences(name: &str, f: Operator, args: &[Tensor], gradients: &[Tensor]) {
    let h = 1e-5;
    for (i, gradient) in gradients.iter().enumerate() {
        let n = args[i].elem_count();
        let expected = gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for j in (0..n).step_by(n.div_ceil(5)) {
            let at = |delta: f64| {
                let mut data = args[i].flatten_all().unwrap().to_vec1::<f64>().unwrap();
                data[j] += delta;
                let mut args = args.to_vec();
                args[i] = Tensor::from_vec(data, args[i].shape(), &Device::Cpu).unwrap();
                scalar(f, &args).to_scalar::<f64>().unwrap()
            };
            let difference = (at(h) - at(-h)) / (2.0 * h);
            let error = (difference - expected[j]).abs() / largest(gradient).max(1e-3);
            assert!(error < 1e-5, "{name}: argument {i}, element {j}: {difference} by differences, {} by gradient", expected[j]);
        }
    }
}

/// The same bits from one, two and three threads.
pub fn threads(name: &str, f: Operator, args: &[Tensor]) {
    let run = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        let results = pool.install(|| evaluate(f, args, DType::F32));
        results.iter().map(|t| t.flatten_all().unwrap().to_vec1::<f64>().unwrap()).collect::<Vec<_>>()
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3), "{name}: the result depends on the number of threads");
}

/// Nothing but finite numbers from all-zero, tiny and huge arguments.
pub fn finite(name: &str, f: Operator, shapes: &[&[usize]]) {
    for size in [0.0, 1e-30, 1e-6, 1e4] {
        for (i, t) in evaluate(f, &normal(shapes, size), DType::F32).iter().enumerate() {
            let sum = t.abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(sum.is_finite(), "{name}: result {i} is not finite for arguments of size {size:e}");
        }
    }
}

/// An error that names all of `parts`.
pub fn refuses<T>(result: Result<T>, parts: &[&str]) {
    let message = result.err().unwrap_or_else(|| panic!("accepted; expected an error with {parts:?}")).to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}
