//! `strata data convert`

use std::ops::ControlFlow;

use strata_datasets::{ConvertOptions, Dataset, convert};

use crate::{Outcome, args, context::Context};

/// The command.
///
/// # Errors
/// As the library's.
pub fn run(args: &args::DataConvert, context: &Context) -> anyhow::Result<Outcome> {
    let data = Dataset::open(&args.data, &args.reading.options())?;
    let transform = args.size.map(|size| args.preparing.transform(size));
    if transform.is_none() && (args.preparing.crop.is_some() || args.preparing.filter.is_some()) {
        anyhow::bail!("--crop and --filter need --size");
    }
    let options = ConvertOptions { transform, max_bad: args.max_bad, ..ConvertOptions::default() };
    context.progress.start("converting", data.len() as u64, "images");
    let converted = convert(&data, &args.out, &options, &|done| {
        context.progress.advance(done, "");
        if context.interrupt.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    context.progress.finish();
    let Some(converted) = converted? else { return Ok(Outcome::Interrupted) };
    let there = if converted.was_there { " (was there already)" } else { "" };
    println!("{}: {} images, {} left out{there}", args.out.display(), converted.count, converted.left_out);
    Ok(Outcome::Done)
}
