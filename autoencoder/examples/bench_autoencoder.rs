//! Times a KL autoencoder for the comparison in `tests/bench/autoencoder.py`.
//!
//! The argument is a preset, whose network is built with random weights. Reads one row a line from stdin, `encode 8,64,64` or
//! `decode 8,64,64` (batch, height and width of the images), and answers one JSON line each: the milliseconds of one call, after one
//! that warms up where the row is another than before. The row `memory` answers the memory of the process, now and at its highest, in MiB.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::{io::BufRead, time::Instant};

use candle_core::Device;
use strata_autoencoder::{Autoencoder, AutoencoderTraining, Result};
use strata_nn::{params::ParamStore, random::Key};

fn main() -> Result<()> {
    strata_nn::memory::ask_for_large_pages();
    strata_nn::memory::let_idle_threads_sleep();
    strata_nn::memory::keep_freed_memory();
    strata_nn::memory::join_workers(None);
    let name = std::env::args().nth(1).unwrap();
    let text = AutoencoderTraining::PRESETS.iter().find(|(n, _)| *n == name).unwrap().1;
    let config = toml::from_str::<AutoencoderTraining>(text).unwrap().network();
    let store = ParamStore::new(0, &Device::Cpu);
    let model = Autoencoder::new(&config, &store.root())?;
    store.freeze();
    let mut warm = String::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        if line == "memory" {
            println!("{{\"now\": {}, \"highest\": {}}}", mebibytes("VmRSS:"), mebibytes("VmHWM:"));
            continue;
        }
        let (what, dims) = line.split_once(' ').unwrap();
        let d: Vec<usize> = dims.split(',').map(|v| v.parse().unwrap()).collect();
        let factor = config.factor();
        let dims = match what {
            "encode" => [d[0], 3, d[1], d[2]],
            _ => [d[0], config.latent_channels(), d[1] / factor, d[2] / factor],
        };
        let x = Key::new(0, "bench").normal_tensor(&dims, &Device::Cpu)?;
        let call = || if what == "encode" { model.encode_stored(&x) } else { model.decode(&x) };
        if warm != line {
            call()?;
        }
        let start = Instant::now();
        call()?;
        println!("{{\"ms\": {}}}", start.elapsed().as_secs_f64() * 1e3);
        warm = line;
    }
    Ok(())
}

/// A line of `/proc/self/status` (Linux; 0 elsewhere).
fn mebibytes(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    line.split_whitespace().next().and_then(|v| v.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
