//! `strata eval efficiency`

use anyhow::ensure;
use serde_json::{Value, json};
use strata_diffusion::{
    grid::Grid,
    sampler::Sampler,
    training::{Average, Spent},
};

use super::{
    cells::{Bench, Drawing, Measured},
    network,
    points::Subject,
};
use crate::{
    Outcome, args,
    context::Context,
    plot::{Curve, LinePlot},
    report::Table,
};

/// One line of the table.
struct Row<'a> {
    subject: &'a Subject,
    /// What its training has computed; none for a weight file.
    spent: Option<&'a Spent>,
    steps: usize,
    measured: Measured,
    /// Whether it is a point of the plot over training, of that over sampling.
    plots: [bool; 2],
}

fn training_pflops(row: &Row<'_>) -> Option<f64> {
    row.spent.map(|spent| spent.flops() * 1e-15)
}

/// The command.
///
/// # Errors
/// Runs whose records do not say what was computed; what cannot be measured. What was measured before is kept.
pub fn efficiency(args: &args::EvalEfficiency, context: &Context) -> anyhow::Result<Outcome> {
    let compared = &args.compared;
    compared.levels.grid.parse::<Grid>()?;
    let sampler: Sampler = args.sampler.parse()?;
    ensure!(args.steps.iter().all(|steps| *steps > 0), "--steps: expected 1 or more, got 0");
    let most = args.steps.iter().max().copied().unwrap_or(1);
    let subjects = Subject::all(&compared.runs, &["all".to_string()], &[Average::Kept])?;
    let spent = subjects.iter().map(Subject::spent).collect::<anyhow::Result<Vec<_>>>()?;
    let mut bench = Bench::open(compared, context)?;
    let mut rows = Vec::new();
    for (i, (subject, spent)) in subjects.iter().zip(&spent).enumerate() {
        let last = subjects.get(i + 1).is_none_or(|next| next.name != subject.name);
        let steps = if last { args.steps.clone() } else { vec![most] };
        let drawings: Vec<Drawing> = steps.iter().map(|&steps| Drawing { sampler, steps, guidance: args.guidance }).collect();
        for (drawing, measured) in drawings.iter().zip(bench.measure(subject, &drawings)?) {
            let plots = [drawing.steps == most, last];
            rows.push(Row { subject, spent: spent.as_ref(), steps: drawing.steps, measured, plots });
        }
    }
    let name = bench.distance_name();
    let (table, out) = (table(&rows, name), &compared.out);
    strata_nn::weights::write_atomic(&out.join("efficiency.csv"), table.csv().as_bytes())?;
    let [training, sampling] = plots(&rows, name);
    training.write(&out.join("training.png"))?;
    sampling.write(&out.join("sampling.png"))?;
    let mut answer = bench.describe();
    answer["sampler"] = json!(sampler);
    answer["points"] = rows.iter().map(|row| as_json(row, name)).collect();
    strata_nn::weights::write_atomic(&out.join("metrics.json"), serde_json::to_string_pretty(&answer)?.as_bytes())?;
    match compared.json {
        true => println!("{answer}"),
        false => print!("{}", table.text()),
    }
    Ok(Outcome::Done)
}

fn table(rows: &[Row<'_>], name: &str) -> Table {
    let columns = ["run", "iterations", "images", "training_pflops", "steps", "evaluations", "gflops", name];
    let line = |row: &Row<'_>| {
        let of = |f: fn(&Spent) -> u64| row.spent.map_or(String::new(), |spent| f(spent).to_string());
        vec![
            row.subject.name.display().to_string(),
            of(|spent| spent.steps),
            of(|spent| spent.seen_images),
            training_pflops(row).map_or(String::new(), |pflops| format!("{pflops:.6}")),
            row.steps.to_string(),
            format!("{:.1}", row.measured.evaluations),
            format!("{:.4}", row.measured.gflops),
            format!("{:.5}", row.measured.distance),
        ]
    };
    let columns = columns.map(ToString::to_string).to_vec();
    Table { columns, rows: rows.iter().map(line).collect(), ..Table::default() }
}

fn as_json(row: &Row<'_>, name: &str) -> Value {
    let mut value = row.subject.describe();
    value["training"] = json!(row.spent);
    value["training_pflops"] = json!(training_pflops(row));
    value["steps"] = json!(row.steps);
    value["evaluations_per_image"] = json!(row.measured.evaluations);
    value["gflops_per_image"] = json!(row.measured.gflops);
    value[name] = json!(row.measured.distance);
    value
}

/// The distance over the arithmetic of the training, and over that of sampling: a curve for each run.
fn plots(rows: &[Row<'_>], name: &str) -> [LinePlot; 2] {
    let plot = |which: usize, title: &str, x_label: &str, x: fn(&Row<'_>) -> Option<f64>| {
        let points = rows.iter().filter(|row| row.plots[which]);
        let called = |row: &Row<'_>| Some((row.subject.name.display().to_string(), (x(row)?, row.measured.distance)));
        let curves = Curve::of(points.filter_map(called));
        let (title, x_label, y_label) = (title.to_string(), x_label.to_string(), network::spelled(name).to_string());
        LinePlot { title, x_label, y_label, curves, log_x: true, log_y: true, marks: true, ..LinePlot::default() }
    };
    [
        plot(0, "Training", "PFLOPs of training, forward and backward", training_pflops),
        plot(1, "Sampling", "GFLOPs of sampling an image", |row| Some(row.measured.gflops)),
    ]
}
