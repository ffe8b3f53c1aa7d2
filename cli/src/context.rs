//! What every command needs: a device, somebody who shows progress, and a way to be stopped.

use anyhow::{Context as _, bail, ensure};
use candle_core::{DType, Device};
use strata_training::{Interrupt, NoProgress, Progress, Ranks};

use crate::{
    args::{Dtype, Global},
    bars::{Bars, Lines},
};

/// Device, progress and interruption.
pub struct Context {
    /// Where networks live.
    pub device: Device,
    /// Who shows how far a command is.
    pub progress: Box<dyn Progress>,
    /// Set by Ctrl-C.
    pub interrupt: Interrupt,
    /// `--seed`, if given.
    pub seed: Option<u64>,
    /// Whether only what was fetched before may be used.
    pub offline: bool,
    /// Whether stderr is to be left alone.
    pub quiet: bool,
}

impl Context {
    /// # Errors
    /// If the device or the dtype cannot be had.
    pub fn new(global: &Global) -> anyhow::Result<Self> {
        log_to_stderr();
        ensure!(global.threads != Some(0), "--threads: expected 1 or more, got 0");
        let device = device(&global.device)?;
        if global.dtype == Dtype::Bf16 {
            if !device.is_cuda() {
                bail!("--dtype bf16 is for CUDA cards, and this is {}: leave it at f32", describe(&device));
            }
            strata_nn::precision::set_activations(DType::BF16)?;
        }
        let interrupt = Interrupt::new();
        listen(&interrupt)?;
        let progress: Box<dyn Progress> = match (global.quiet, std::io::IsTerminal::is_terminal(&std::io::stderr())) {
            (true, _) => Box::new(NoProgress),
            (false, true) => Box::new(Bars::default()),
            (false, false) => Box::new(Lines::default()),
        };
        Ok(Self { device, progress, interrupt, seed: global.seed, offline: global.offline, quiet: global.quiet })
    }

    /// A line for a person, on stderr, unless `--quiet`.
    pub fn say(&self, line: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

/// The device in words.
pub fn describe(device: &Device) -> String {
    match device {
        Device::Cpu => format!("cpu, {} threads", rayon::current_num_threads()),
        other => format!("{:?}", other.location()).to_lowercase(),
    }
}

fn device(name: &str) -> anyhow::Result<Device> {
    let cuda = |n: usize| {
        let unusable = if cfg!(feature = "cuda") { "cannot be used" } else { "needs a build with `--features cuda`" };
        Device::new_cuda(n).with_context(|| format!("device cuda:{n} {unusable}"))
    };
    match name {
        "cpu" => Ok(Device::Cpu),
        // Where a launcher started several processes on a machine, each takes a device of its own, if it sees them all.
        "auto" => {
            let own = Device::cuda_if_available(Ranks::from_env()?.local).or_else(|_| Device::cuda_if_available(0));
            Ok(own.unwrap_or(Device::Cpu))
        }
        _ => match name.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(n)) => cuda(n),
            _ if name == "cuda" => cuda(0),
            _ => bail!("--device: expected auto, cpu or cuda:N, got `{name}`"),
        },
    }
}

/// The first Ctrl-C, or another request to end, asks; the second ends the process at once.
fn listen(interrupt: &Interrupt) -> anyhow::Result<()> {
    let interrupt = interrupt.clone();
    let ask = move || {
        if interrupt.is_set() {
            std::process::exit(130);
        }
        interrupt.trigger();
        eprintln!("\nstopping: finishing this step and saving (Ctrl-C again stops at once)");
    };
    strata_nn::memory::keep_hangup_ignored(|| ctrlc::set_handler(ask)).context("cannot listen for Ctrl-C")
}

/// Warnings of the libraries, for example of a broken picture; `--quiet` silences progress, not these.
fn log_to_stderr() {
    let builder = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .without_time()
        .with_target(false)
        .with_writer(std::io::stderr);
    // A second call in one process keeps the first subscriber, which writes to the same place.
    let _ = builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init();
}
