//! Times operators, forward and backward, for the comparison in `tests/bench/operators.py`.
//!
//! Reads one row name a line from stdin, answers one JSON line each: `{"row": ..., "wall": ..., "cpu": ...}`, the milliseconds of
//! one call after one call that warms up, on the wall and summed over the processors. The script decides how often and in which
//! order. STRATA_BENCH_DEVICE (cpu, cuda:N) says where, STRATA_BENCH_DTYPE (f32, bf16) the type of the activations.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{io::BufRead, time::Instant};

use candle_core::{DType, Device, Tensor, Var};
use strata_nn::{
    Result,
    ops::{self, Activation, Conv2dConfig},
    random::Key,
};

fn var(dims: &[usize]) -> Var {
    let data = Key::new(3, "bench").normal(dims.iter().product());
    Var::from_tensor(&Tensor::from_vec(data, dims, &Device::Cpu).unwrap()).unwrap()
}

/// What a row calls, over its arguments.
type Call = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// `name:d0,d1,...`: the arguments and the call.
fn row(name: &str) -> (Vec<Var>, Call) {
    let (kind, dims) = name.split_once(':').unwrap();
    let d: Vec<usize> = dims.split(',').map(|v| v.parse().unwrap()).collect();
    match kind {
        "conv" => {
            let args = vec![var(&d[..4]), var(&[d[4], d[3], d[5], d[5]]), var(&[d[4]])];
            let config = Conv2dConfig { stride: d[6], ..Conv2dConfig::same(d[5]) };
            (args, Box::new(move |a| ops::conv2d(&a[0], &a[1], Some(&a[2]), config)))
        }
        "linear" => {
            let args = vec![var(&d[..2]), var(&[d[2], d[1]]), var(&[d[2]])];
            (args, Box::new(|a| ops::linear(&a[0], &a[1], Some(&a[2]))))
        }
        "groupnorm" => {
            let args = vec![var(&d[..4]), var(&d[3..4]), var(&d[3..4])];
            (args, Box::new(|a| ops::group_norm(&a[0], &a[1], &a[2], 32, 1e-5, None, Activation::Silu)))
        }
        "layernorm" => {
            let args = vec![var(&d[..3]), var(&d[2..3]), var(&d[2..3])];
            (args, Box::new(|a| ops::layer_norm(&a[0], &a[1], &a[2], 1e-5)))
        }
        "silu" => (vec![var(&d)], Box::new(|a| ops::silu(&a[0]))),
        "geglu" => (vec![var(&d)], Box::new(|a| ops::geglu(&a[0]))),
        "upsample" => (vec![var(&d)], Box::new(|a| ops::upsample_nearest2x(&a[0]))),
        "attention" => {
            let scale = 1.0 / (d[3] as f64).sqrt();
            let args = vec![var(&d[..4]), var(&d[..4]), var(&d[..4])];
            (args, Box::new(move |a| ops::attention(&a[0], &a[1], &a[2], scale, None)))
        }
        _ => unreachable!("unknown row {name}"),
    }
}

/// The arguments on the device; all of an attention and the first of any other are activations of type `dtype`.
fn placed(name: &str, args: &[Var], device: &Device, dtype: DType) -> Vec<Var> {
    let activations = if name.starts_with("attention") { args.len() } else { 1 };
    let place = |(i, v): (usize, &Var)| {
        let dtype = if i < activations { dtype } else { DType::F32 };
        Var::from_tensor(&v.as_detached_tensor().to_device(device).unwrap().to_dtype(dtype).unwrap()).unwrap()
    };
    args.iter().enumerate().map(place).collect()
}

fn device() -> Device {
    match std::env::var("STRATA_BENCH_DEVICE").ok().filter(|d| d != "cpu") {
        Some(name) => Device::new_cuda(name.strip_prefix("cuda:").unwrap_or("0").parse().unwrap()).unwrap(),
        None => Device::Cpu,
    }
}

fn dtype() -> DType {
    if std::env::var("STRATA_BENCH_DTYPE").is_ok_and(|d| d == "bf16") { DType::BF16 } else { DType::F32 }
}

/// Milliseconds of one forward and backward pass (`train`) or of one forward pass without a graph.
fn time(args: &[Var], call: &Call, train: bool) -> Result<[f64; 2]> {
    let tensors: Vec<Tensor> = args.iter().map(|v| if train { v.as_tensor().clone() } else { v.as_detached_tensor() }).collect();
    let device = args[0].device();
    device.synchronize()?;
    let (cpu, start) = (cpu_milliseconds(), Instant::now());
    let y = call(&tensors)?;
    if train {
        y.backward()?;
    }
    device.synchronize()?;
    Ok([start.elapsed().as_secs_f64() * 1e3, cpu_milliseconds() - cpu])
}

/// What all threads of this process have run (Linux; 0 elsewhere).
fn cpu_milliseconds() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let schedules = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("schedstat")).ok());
    schedules.filter_map(|s| s.split_whitespace().next()?.parse::<f64>().ok()).sum::<f64>() * 1e-6
}

fn main() -> Result<()> {
    strata_nn::memory::ask_for_large_pages();
    strata_nn::memory::let_idle_threads_sleep();
    strata_nn::memory::keep_freed_memory();
    strata_nn::memory::join_workers(None);
    let (device, dtype) = (device(), dtype());
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let (mode, name) = line.split_once(' ').unwrap();
        let (args, call) = row(name);
        let args = placed(name, &args, &device, dtype);
        let train = mode == "train";
        time(&args, &call, train)?;
        let [wall, cpu] = time(&args, &call, train)?;
        println!("{{\"row\": \"{line}\", \"wall\": {wall}, \"cpu\": {cpu}}}");
    }
    Ok(())
}
