//! Times training steps and network evaluations for the comparison in `tests/bench/steps.py`.
//!
//! The argument is a row's name. Prints the number of parameters, then for each line on stdin one JSON line
//! `{"wall": milliseconds of one step, "cpu": the same summed over processors, "peak": highest memory so far in MiB}`; memory is
//! counted from the moment before the network exists.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{io::BufRead, time::Instant};

use candle_core::{Device, Tensor, Var};
use strata_autoencoder::{AutoencoderKl, KlConfig, Posterior};
use strata_conditioning::Condition;
use strata_diffusion::unet::{DecoderConfig, Heads, UNet, UNetConfig};
use strata_nn::{backward, ops, params::ParamStore, random::Key};
use strata_training::{AdamWConfig, Ema, EmaSchedule, Optimizer, StepOptions};

type Loss = Box<dyn Fn() -> Tensor>;

fn normal(name: &str, dims: &[usize]) -> Tensor {
    Key::new(1, name).normal_tensor(dims, &Device::Cpu).unwrap()
}

/// The multistage network of the celebahq preset at model width 64: decoders 96, 64 and 32; or one of 64.
fn unet_config(single: bool) -> UNetConfig {
    let decoder = |width: usize, attention: &[usize]| DecoderConfig { width, attention: attention.to_vec(), heads: None };
    let decoders =
        if single { vec![decoder(64, &[1, 2, 3])] } else { vec![decoder(96, &[1, 2, 3]), decoder(64, &[]), decoder(32, &[])] };
    UNetConfig {
        in_channels: 4,
        out_channels: 4,
        width: 64,
        heads: Heads::Width(32),
        decoders,
        zero_init: false,
        ..UNetConfig::default()
    }
}

fn unet(store: &ParamStore, single: bool, recompute: bool) -> UNet {
    let mut unet = UNet::new(&unet_config(single), &store.root()).unwrap();
    unet.checkpoint_activations(recompute);
    unet
}

fn diffusion(store: &ParamStore, name: &str, recompute: bool) -> Loss {
    let single = name == "single";
    let unet = unet(store, single, recompute);
    let stage = if single { 0 } else { name.trim_start_matches("stage").parse::<usize>().unwrap() - 1 };
    let (x, eps) = (normal("x", &[16, 4, 16, 16]), normal("eps", &[16, 4, 16, 16]));
    Box::new(move || {
        let y = unet.forward(&x, &[500.0; 16], &[stage; 16], &Condition::none(), None).unwrap();
        ops::mse_loss(&y, &eps).unwrap().mean_all().unwrap()
    })
}

/// Rows of each stage in a batch of 16 that takes them in turn.
const OF_STAGE: [usize; 3] = [6, 5, 5];

/// A batch of all stages in turn, or the same rows stage by stage.
fn mixed(store: &ParamStore, apart: bool) -> Loss {
    let unet = unet(store, false, false);
    let batches: Vec<Vec<usize>> = match apart {
        false => vec![(0..16).map(|i| i % 3).collect()],
        true => OF_STAGE.iter().enumerate().map(|(stage, &n)| vec![stage; n]).collect(),
    };
    Box::new(move || {
        let part = |stages: &Vec<usize>| {
            let (x, eps) = (normal("x", &[stages.len(), 4, 16, 16]), normal("eps", &[stages.len(), 4, 16, 16]));
            let y = unet.forward(&x, &vec![500.0; stages.len()], stages, &Condition::none(), None).unwrap();
            ops::mse_loss(&y, &eps).unwrap().sum_all().unwrap()
        };
        let losses: Vec<Tensor> = batches.iter().map(part).collect();
        (Tensor::stack(&losses, 0).unwrap().sum_all().unwrap() / 16.0).unwrap()
    })
}

/// What routing adds to a mixed batch: all that the encoder left split for the decoders, the gradients put together. Sums over the
/// parts, which the measurement needs, are counted too.
fn moves() -> Box<dyn FnMut()> {
    let config = unet_config(false);
    let mut shapes = vec![[16, 16, config.width]];
    for (level, multiplier) in config.multipliers.iter().enumerate() {
        let (side, last) = (16 >> level, level + 1 == config.multipliers.len());
        shapes.extend(vec![[side, side, config.width * multiplier]; config.blocks]);
        shapes.push(if last { [side, side, config.width * multiplier] } else { [side / 2, side / 2, config.width * multiplier] });
    }
    let outputs = shapes.iter().map(|&[h, w, c]| Var::from_tensor(&normal("skip", &[16, h, w, c])).unwrap()).collect::<Vec<_>>();
    Box::new(move || {
        let parts = outputs.iter().flat_map(|x| ops::split_rows(x.as_tensor(), &OF_STAGE).unwrap());
        let sums: Vec<Tensor> = parts.map(|part| part.sum_all().unwrap()).collect();
        Tensor::stack(&sums, 0).unwrap().sum_all().unwrap().backward().unwrap();
    })
}

fn autoencoder(store: &ParamStore, recompute: bool) -> Loss {
    let config = KlConfig { channels: vec![64, 128, 256], latent_channels: 3, ..KlConfig::default() };
    let mut model = AutoencoderKl::new(&config, &store.root()).unwrap();
    model.checkpoint_activations(recompute);
    let (x, noise) = (normal("x", &[8, 3, 64, 64]), normal("noise", &[8, 3, 16, 16]));
    Box::new(move || {
        let posterior = Posterior::new(&model.encode_moments(&x).unwrap()).unwrap();
        let y = model.decode(&posterior.sample(&noise).unwrap()).unwrap();
        let rec = ops::l1_loss(&y, &x).unwrap().mean_all().unwrap();
        (rec + (posterior.kl().unwrap().mean_all().unwrap() * 1e-6).unwrap()).unwrap()
    })
}

fn evaluation(store: &ParamStore, batch: usize) -> Box<dyn FnMut()> {
    let unet = unet(store, true, false);
    store.freeze();
    let x = normal("x", &[batch, 4, 16, 16]);
    let (noise, stages) = (vec![500.0; batch], vec![0; batch]);
    Box::new(move || {
        unet.forward(&x, &noise, &stages, &Condition::none(), None).unwrap();
    })
}

/// Forward, backward, clip, AdamW, EMA.
fn training(store: &ParamStore, loss: Loss) -> Box<dyn FnMut()> {
    let mut optimizer = Optimizer::new(store.trainable(), AdamWConfig::default()).unwrap();
    let mut ema = Ema::new(store, EmaSchedule::Constant { decay: 0.9999 }).unwrap();
    Box::new(move || {
        let grads = backward(&loss()).unwrap();
        let options = StepOptions { lr_multiplier: 1.0, max_grad_norm: Some(1.0) };
        assert!(!optimizer.step_and_average(&grads, options, &mut ema, 16).unwrap().skipped);
    })
}

/// A number of /proc/self/status in MiB (Linux; 0 elsewhere).
fn memory(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// What all threads of this process have run, in milliseconds (Linux; 0 elsewhere).
fn processor() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let schedules = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("schedstat")).ok());
    schedules.filter_map(|s| s.split_whitespace().next()?.parse::<f64>().ok()).sum::<f64>() * 1e-6
}

fn main() {
    strata_nn::memory::ask_for_large_pages();
    strata_nn::memory::let_idle_threads_sleep();
    strata_nn::memory::keep_freed_memory();
    strata_nn::memory::join_workers(None);
    let argument = std::env::args().nth(1).unwrap();
    // `row+recompute`: with checkpointed activations.
    let (row, recompute) = argument.split_once('+').map_or((argument.as_str(), false), |(row, _)| (row, true));
    let store = ParamStore::new(0, &Device::Cpu);
    let idle = memory("VmRSS");
    let mut call = match row.strip_prefix("eval") {
        Some(batch) => evaluation(&store, batch.parse().unwrap()),
        None if row == "moves" => moves(),
        None if row == "mixed" || row == "apart" => training(&store, mixed(&store, row == "apart")),
        None if row == "autoencoder" => training(&store, autoencoder(&store, recompute)),
        None => training(&store, diffusion(&store, row, recompute)),
    };
    println!("{}", store.element_count());
    for _ in std::io::stdin().lock().lines() {
        let (cpu, start) = (processor(), Instant::now());
        call();
        let wall = start.elapsed().as_secs_f64() * 1e3;
        println!("{{\"wall\": {wall}, \"cpu\": {}, \"peak\": {}}}", processor() - cpu, memory("VmHWM") - idle);
    }
}
