//! The `strata` binary: parses, resolves settings, calls one library function per command, prints.

// Results belong on stdout and progress on stderr; this is the one crate that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod bars;
mod commands;
mod context;
mod fetched;
mod grid;
mod hint;
mod lines;
mod npz;
mod origin;
mod plot;
mod report;
mod table;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, ConvertCommand, ConvertEmaCommand, DataCommand, EvalCommand, Metric, TrainCommand};
use commands::eval::Asked;
use context::Context;

fn main() -> ExitCode {
    strata_nn::memory::ask_for_large_pages();
    strata_nn::memory::let_idle_threads_sleep();
    strata_nn::memory::keep_freed_memory();
    let cli = Cli::parse();
    strata_nn::memory::join_workers(cli.global.threads.filter(|&n| n > 0));
    match run(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) if matches!(error.downcast_ref(), Some(strata_diffusion::Error::Interrupted)) => ExitCode::from(130),
        Err(error) => {
            hint::print(&error);
            ExitCode::FAILURE
        }
    }
}

/// How a command ended without an error.
pub(crate) enum Outcome {
    /// It did what it was asked for.
    Done,
    /// It saved what it had and stopped, because it was asked to.
    Interrupted,
}

fn eval(command: &EvalCommand, context: &Context) -> anyhow::Result<Outcome> {
    match command {
        EvalCommand::Fid(args) => commands::eval::run(Asked::Metric(Metric::Fid), args, context),
        EvalCommand::Sfid(args) => commands::eval::run(Asked::Metric(Metric::Sfid), args, context),
        EvalCommand::Kid(args) => commands::eval::run(Asked::Metric(Metric::Kid), args, context),
        EvalCommand::Is(args) => commands::eval::run(Asked::Metric(Metric::Is), args, context),
        EvalCommand::Prdc(args) => commands::eval::run(Asked::Metric(Metric::Prdc), args, context),
        EvalCommand::Fd(args) => commands::eval::run(Asked::Distance, args, context),
        EvalCommand::Statistics(args) => commands::eval::statistics(args, context),
        EvalCommand::TrainExtractor(args) => commands::eval::train_extractor(args, context),
        EvalCommand::Nearest(args) => commands::eval::nearest(args, context),
        EvalCommand::Reconstruction(args) => commands::eval::reconstruction(args, context),
        EvalCommand::Sweep(args) => commands::eval::sweep(args, context),
        EvalCommand::Efficiency(args) => commands::eval::efficiency(args, context),
    }
}

fn run(mut cli: Cli) -> anyhow::Result<Outcome> {
    let context = Context::new(&cli.global)?;
    fetched::resolve(&mut cli.command, &context)?;
    match &cli.command {
        Command::Demo(args) => commands::demo::run(args, &context),
        Command::Data(DataCommand::Inspect(args)) => commands::data_inspect::run(args, &context),
        Command::Data(DataCommand::Convert(args)) => commands::data_convert::run(args, &context),
        Command::Data(DataCommand::Verify(args)) => commands::data_verify::run(args, &context),
        Command::Train(TrainCommand::Autoencoder(args)) => commands::train_autoencoder::run(args, &context),
        Command::Train(TrainCommand::Diffusion(args)) => commands::train_diffusion::run(args, &context),
        Command::Encode(args) => commands::encode::run(args, &context),
        Command::Stages(args) => commands::stages::run(args, &context),
        Command::Sample(args) => commands::sample::run(args, &context),
        Command::Decode(args) => commands::decode::run(args, &context),
        Command::Eval(command) => eval(command, &context),
        Command::Pull(args) => commands::pull::run(args, &context),
        Command::Push(args) => commands::push::run(args, &context),
        Command::Convert(ConvertCommand { ema: Some(ConvertEmaCommand::Ema(args)), .. }) => commands::convert_ema::run(args),
        Command::Convert(ConvertCommand { weights: Some(args), .. }) => commands::convert::run(args, &context),
        Command::Convert(ConvertCommand { weights: None, .. }) => anyhow::bail!("IN and OUT are needed"),
        Command::Inspect(args) => commands::inspect::run(args, &context),
    }
}
