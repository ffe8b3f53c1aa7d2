//! `strata sample`

pub mod draw;
mod folder;
mod labels;
mod pack;
mod painter;
mod seeds;
mod shown;
mod start;
mod trajectory;

use serde_json::json;
use strata_diffusion::{
    Error,
    grid::Grid,
    sampler::Sampler,
    sampling::{GuidanceOptions, SampleCost, SampleOptions},
};

pub use self::{
    draw::draw,
    labels::{attributes, labels},
    painter::Painter,
};
use self::{
    draw::{Drawn, Job},
    start::Beginning,
};
use crate::{
    Outcome, args,
    commands::{likeness, texts},
    context::Context,
};

/// Guidance when a class, an attribute or a text is asked for and no scale is given.
pub const DEFAULT_GUIDANCE: f64 = 2.0;

/// The command.
///
/// # Errors
/// A model, autoencoder, picture or option that cannot be used; an output folder of another origin.
pub fn run(args: &args::Sample, context: &Context) -> anyhow::Result<Outcome> {
    // What is typed wrongly is said before anything is loaded.
    check(&args.solver)?;
    let seeds = seeds::parse(&args.seeds)?;
    let painter = Painter::load(&args.model, args.autoencoder.as_deref(), args.wish.told.autoguidance.as_deref(), context)?
        .with_tile(args.tile)?;
    let beginning = Beginning::load(&args.start, &painter)?;
    let (mut options, told) = options(&painter, (&args.solver, &args.wish), seeds, args.batch, context)?;
    options.start = beginning.as_ref().map(|b| b.start.clone());
    let shown = shown::load(&args.shown, beginning.as_ref(), &painter, &options.seeds, context)?;
    options.images = shown.as_ref().map(|shown| shown.images.clone());
    let mut job = Job::new(&painter, &options, &args.out);
    job.beginning = beginning.as_ref();
    job.output = &args.output;
    job.shown = shown.map(|shown| json!([shown.sha256, shown.images.noise]));
    job.prompts = told.map(|texts| json!([texts, args.wish.told.negative_prompt]));
    let drawn = match draw(&job, context) {
        Err(e) if matches!(e.downcast_ref(), Some(Error::Interrupted)) => return Ok(Outcome::Interrupted),
        other => other?,
    };
    report(&drawn, &options, args);
    Ok(Outcome::Done)
}

/// Whether sampler and grid are known.
///
/// # Errors
/// If not.
pub fn check(solver: &args::Solver) -> anyhow::Result<()> {
    solver.sampler.parse::<Sampler>()?;
    solver.levels.grid.parse::<Grid>()?;
    Ok(())
}

/// What is to be drawn, from noise alone; and the texts of it as typed.
///
/// # Errors
/// If the model does not know what is asked for.
pub fn options(
    painter: &Painter,
    (solver, wish): (&args::Solver, &args::Wish),
    seeds: Vec<u64>,
    batch: usize,
    context: &Context,
) -> anyhow::Result<(SampleOptions, Option<Vec<String>>)> {
    let told = match likeness::pictures(painter, &wish.told, &seeds, context)? {
        Some(told) => Some(told),
        None => texts::prompts(&painter.model, wish, &seeds, context)?,
    };
    let options = SampleOptions {
        labels: labels(&painter.model, wish.told.class.as_deref(), &seeds)?,
        attributes: attributes(&painter.model, &wish.told.attributes)?,
        prompts: told.as_ref().map(|(prompts, _)| prompts.clone()),
        seeds,
        batch,
        steps: solver.steps,
        sampler: solver.sampler.parse()?,
        grid: solver.levels.grid.parse()?,
        guidance: guidance(wish, painter)?,
        sigma_min: solver.levels.sigma_min,
        sigma_max: solver.levels.sigma_max,
        ..SampleOptions::default()
    };
    Ok((options, told.map(|(_, texts)| texts)))
}

/// The strength of guidance that is asked for, or the default where there is something to guide to.
pub fn guidance_scale(wish: &args::Wish) -> f64 {
    let told = &wish.told;
    let guided = told.class.is_some()
        || !told.attributes.is_empty()
        || told.prompt.is_some()
        || told.prompts.is_some()
        || told.like.is_some()
        || told.autoguidance.is_some();
    wish.guidance.unwrap_or(if guided { DEFAULT_GUIDANCE } else { 1.0 })
}

fn guidance(wish: &args::Wish, painter: &Painter) -> anyhow::Result<GuidanceOptions> {
    let told = &wish.told;
    Ok(GuidanceOptions {
        scale: guidance_scale(wish),
        interval: told.guidance_interval,
        rescale: told.guidance_rescale,
        negative: told.negative_class.as_deref().map(|class| labels::label(&painter.model, class)).transpose()?,
    })
}

fn report(drawn: &Drawn, options: &SampleOptions, args: &args::Sample) {
    let (per_image, cost) = (drawn.seconds / drawn.new.max(1) as f64, &drawn.cost);
    if args.json {
        let answer = json!({
            "out": args.out, "images": options.seeds.len(), "new": drawn.new, "seconds_per_image": per_image,
            "sampler": options.sampler, "grid": options.grid, "steps": options.steps, "guidance": options.guidance.scale,
            "drawn": drawn.drawn, "evaluations_per_stage": cost.evaluations_per_stage,
            "worse_evaluations_per_stage": cost.worse_evaluations_per_stage, "passes": cost.passes,
            "gflops_per_image": gflops(cost.macs, drawn), "single_decoder_gflops_per_image": gflops(cost.single_decoder_macs, drawn),
        });
        println!("{answer}");
        return;
    }
    println!("{}: {} images, {} of them new", args.out.display(), options.seeds.len(), drawn.new);
    if drawn.drawn > 0 {
        println!("{per_image:.2} s an image; {}", describe(cost, drawn));
    }
}

/// Billions of floating-point operations an image, two to a multiply-accumulate.
fn gflops(macs: u64, drawn: &Drawn) -> f64 {
    2e-9 * macs as f64 / drawn.drawn.max(1) as f64
}

fn describe(cost: &SampleCost, drawn: &Drawn) -> String {
    let per_image = |n: &u64| *n as f64 / drawn.drawn as f64;
    let all = |counts: &[u64]| counts.iter().map(per_image).sum::<f64>();
    let each: Vec<String> =
        cost.evaluations_per_stage.iter().enumerate().map(|(i, n)| format!("stage {}: {:.1}", i + 1, per_image(n))).collect();
    let worse = match all(&cost.worse_evaluations_per_stage) {
        0.0 => String::new(),
        n => format!(" and {n:.1} of the worse model"),
    };
    let (ours, single) = (gflops(cost.macs, drawn), gflops(cost.single_decoder_macs, drawn));
    format!(
        "{:.1} evaluations ({}){worse}, {ours:.2} GFLOPs an image\n\
         with the costliest decoder at every noise level: {single:.2} GFLOPs an image, {:.2} times as much",
        all(&cost.evaluations_per_stage),
        each.join(", "),
        single / ours.max(f64::MIN_POSITIVE),
    )
}
