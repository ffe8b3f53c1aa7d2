//! Times the optimal denoiser's sweep for the comparison in `tests/bench/stages.py`.
//!
//!     bench_stages POINTS DIM PAIRS LEVELS OUT
//!
//! POINTS: a file of little-endian float32 rows of DIM numbers. Draws PAIRS pairs (y, eps), each at LEVELS levels of the VP schedule
//! and at both ends, computes the similarities to the ends, and writes into the folder OUT what the script needs to do the same:
//! `idx.npy`, `noise.npy`, `sigmas.npy` `[PAIRS, LEVELS + 2]`, `similarities.npy` `[PAIRS, LEVELS, 2]`, and for the first pairs the
//! denoiser's answers, `shifts.npy` `[P, LEVELS + 2, DIM]`. Answers `{"seconds": ...}` on one line.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{path::PathBuf, time::Instant};

use candle_core::{Device, Tensor};
use strata_diffusion::schedule::Schedule;
use strata_diffusion::stages::{
    OptimalDenoiser, Queries, Rows,
    algorithm1::{Levels, end_similarities},
    similarity::{Comparison, Space},
};
use strata_nn::random::{Key, uniform_f64};

/// Pairs whose answers are written.
const SHOWN: usize = 8;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize| args[i].parse::<usize>().unwrap();
    let (dim, pairs, levels, out) = (number(2), number(3), number(4), PathBuf::from(&args[5]));
    let values: Vec<f32> =
        std::fs::read(&args[1]).unwrap().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let count = values.len() / dim;
    let schedule = Schedule::vp();
    let (low, high) = schedule.t_range();
    let key = Key::new(5, "bench");
    let mut rng = key.child("draws").generator();
    // Spread evenly, so that the first pairs see all kinds of level.
    let indices: Vec<usize> = (0..pairs).map(|_| (uniform_f64(&mut rng) * count as f64) as usize).collect();
    let at = |i: usize| (i * 7919 % (pairs * levels)) as f64 / (pairs * levels) as f64;
    let sigmas: Vec<f64> = (0..pairs * levels).map(|i| schedule.sigma(low + at(i) * (high - low))).collect();
    let noise = key.child("noise").normal(pairs * dim);
    let ends = Levels { finest: schedule.sigma(low), coarsest: schedule.sigma(high) };
    let comparison = Comparison { space: Space::Eps, eta: 2.0 / 256.0 };

    let start = Instant::now();
    let points = Rows::new(&values, dim).unwrap();
    let optimal = OptimalDenoiser::new(&points).unwrap();
    let found = end_similarities(&optimal, (&indices, &noise), &sigmas, ends, comparison, &|| false).unwrap();
    println!("{{\"seconds\": {}}}", start.elapsed().as_secs_f64());

    let shown = SHOWN.min(pairs);
    let all: Vec<f64> = sigmas.chunks(levels).flat_map(|s| s.iter().copied().chain([ends.finest, ends.coarsest])).collect();
    let queries = Queries { indices: &indices[..shown], noise: &noise[..shown * dim], sigmas: &all[..shown * (levels + 2)] };
    let shifts = optimal.shifts(&queries, &|| false).unwrap();
    let write = |name: &str, tensor: candle_core::Result<Tensor>| tensor.unwrap().write_npy(out.join(name)).unwrap();
    let flat: Vec<f64> = found.into_iter().flat_map(|(a, b)| [a, b]).collect();
    let cpu = &Device::Cpu;
    write("idx.npy", Tensor::from_iter(indices.iter().map(|&i| i as i64), cpu));
    write("noise.npy", Tensor::from_vec(noise.clone(), (pairs, dim), cpu));
    write("sigmas.npy", Tensor::from_vec(all.clone(), (pairs, levels + 2), cpu));
    write("similarities.npy", Tensor::from_vec(flat, (pairs, levels, 2), cpu));
    write("shifts.npy", Tensor::from_vec(shifts.values, (shown, levels + 2, dim), cpu));
}
