//! `strata eval sweep`

use std::str::FromStr;

use anyhow::ensure;
use serde_json::{Value, json};
use strata_diffusion::{grid::Grid, sampler::Sampler, training::Average};

use super::{
    cells::{Bench, Drawing, Measured},
    network,
    points::Subject,
};
use crate::{
    Outcome, args,
    commands::sample,
    context::Context,
    plot::{Curve, LinePlot},
    report::Table,
};

/// One line of the table.
struct Row<'a> {
    subject: &'a Subject,
    drawing: Drawing,
    guidance: f64,
    measured: Measured,
}

/// The command.
///
/// # Errors
/// What cannot be measured; see the libraries. What was measured before is kept.
pub fn sweep(args: &args::EvalSweep, context: &Context) -> anyhow::Result<Outcome> {
    let drawings = drawings(args)?;
    let averages = args.ema.iter().map(|text| Ok(text.parse::<Average>()?)).collect::<anyhow::Result<Vec<_>>>()?;
    let subjects = Subject::all(&args.compared.runs, &args.checkpoint, &averages)?;
    let mut bench = Bench::open(&args.compared, context)?;
    let mut rows = Vec::new();
    for subject in &subjects {
        for (drawing, measured) in drawings.iter().zip(bench.measure(subject, &drawings)?) {
            let wish = args::Wish { guidance: drawing.guidance, told: args.compared.told.clone() };
            rows.push(Row { subject, drawing: *drawing, guidance: sample::guidance_scale(&wish), measured });
        }
    }
    let name = bench.distance_name();
    let table = table(&rows, name);
    let out = &args.compared.out;
    strata_nn::weights::write_atomic(&out.join("sweep.csv"), table.csv().as_bytes())?;
    plot(&rows, name).write(&out.join("sweep.png"))?;
    let mut answer = bench.describe();
    answer["cells"] = rows.iter().map(|row| as_json(row, name)).collect();
    strata_nn::weights::write_atomic(&out.join("metrics.json"), serde_json::to_string_pretty(&answer)?.as_bytes())?;
    match args.compared.json {
        true => println!("{answer}"),
        false => print!("{}", table.text()),
    }
    Ok(Outcome::Done)
}

/// All combinations.
fn drawings(args: &args::EvalSweep) -> anyhow::Result<Vec<Drawing>> {
    args.compared.levels.grid.parse::<Grid>()?;
    ensure!(args.steps.iter().all(|steps| *steps > 0), "--steps: expected 1 or more, got 0");
    let guidance: Vec<Option<f64>> = match args.guidance.as_slice() {
        [] => vec![None],
        some => some.iter().copied().map(Some).collect(),
    };
    let mut all = Vec::new();
    for sampler in samplers(&args.sampler)? {
        for &guidance in &guidance {
            all.extend(args.steps.iter().map(|&steps| Drawing { sampler, steps, guidance }));
        }
    }
    Ok(all)
}

/// Samplers between commas; `key=value` after a comma belongs to the sampler before it.
fn samplers(typed: &[String]) -> anyhow::Result<Vec<Sampler>> {
    let mut texts: Vec<String> = Vec::new();
    for part in typed.iter().flat_map(|text| text.split(',')) {
        match texts.last_mut() {
            Some(before) if part.contains('=') && !part.contains(':') => *before += &format!(",{part}"),
            _ => texts.push(part.to_string()),
        }
    }
    Ok(texts.iter().map(|text| Sampler::from_str(text)).collect::<Result<_, _>>()?)
}

fn table(rows: &[Row<'_>], name: &str) -> Table {
    let columns = ["run", "images", "ema", "sampler", "guidance", "steps", "evaluations", "gflops", name];
    let line = |row: &Row<'_>| {
        vec![
            row.subject.name.display().to_string(),
            row.subject.seen_images().map_or(String::new(), |seen| seen.to_string()),
            row.subject.average(),
            row.drawing.sampler.to_string(),
            row.guidance.to_string(),
            row.drawing.steps.to_string(),
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
    value["sampler"] = json!(row.drawing.sampler);
    value["steps"] = json!(row.drawing.steps);
    value["guidance"] = json!(row.guidance);
    value["evaluations_per_image"] = json!(row.measured.evaluations);
    value["gflops_per_image"] = json!(row.measured.gflops);
    value["seconds"] = json!(row.measured.seconds);
    value[name] = json!(row.measured.distance);
    value
}

/// What a curve of the plot runs along.
type Along = (&'static str, bool, fn(&Row<'_>) -> f64);

/// The distance along the first thing that varies; a curve for each combination of the others.
fn plot(rows: &[Row<'_>], name: &str) -> LinePlot {
    let evaluations: Along = ("evaluations of the network an image", true, |row| row.measured.evaluations);
    let guidance: Along = ("guidance", false, |row| row.guidance);
    let images: Along = ("images seen in training", true, |row| row.subject.seen_images().map_or(f64::NAN, |n| n as f64));
    let varies = |of: fn(&Row<'_>) -> f64| rows.iter().any(|row| of(row) != of(&rows[0]) && of(row).is_finite());
    let (x_label, log_x, x) = if varies(|row| row.drawing.steps as f64) {
        evaluations
    } else if varies(guidance.2) {
        guidance
    } else if varies(images.2) {
        images
    } else {
        evaluations
    };
    let parts: [fn(&Row<'_>) -> String; 5] = [
        |row| row.subject.name.display().to_string(),
        |row| row.subject.seen_images().map_or(String::new(), |seen| format!("{seen} images")),
        |row| format!("average {}", row.subject.average()),
        |row| row.drawing.sampler.to_string(),
        |row| format!("guidance {}", row.guidance),
    ];
    // What a curve is called: that which differs between curves.
    let along = match x_label {
        "guidance" => 4,
        "images seen in training" => 1,
        _ => parts.len(),
    };
    let differs = |i: usize| i != along && rows.iter().any(|row| parts[i](row) != parts[i](&rows[0]));
    let telling: Vec<usize> = (0..parts.len()).filter(|i| differs(*i)).collect();
    let called = |row: &Row<'_>| telling.iter().map(|i| parts[*i](row)).collect::<Vec<_>>().join(", ");
    let curves = Curve::of(rows.iter().map(|row| (called(row), (x(row), row.measured.distance))));
    let (x_label, y_label) = (x_label.to_string(), network::spelled(name).to_string());
    LinePlot { title: "Sweep".to_string(), x_label, y_label, curves, log_x, log_y: true, marks: true, ..LinePlot::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn settings_stay_with_their_sampler() {
        let typed = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            samplers(&texts).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(typed(&["euler,ddim:eta=0.5", "heun"]).unwrap(), ["euler", "ddim:eta=0.5", "heun"]);
        let churn = typed(&["edm:s_churn=4,s_noise=1.01,euler"]).unwrap();
        assert_eq!((churn.len(), churn[1].as_str()), (2, "euler"));
        assert!(typed(&["eular"]).unwrap_err().to_string().contains("did you mean `euler`"));
    }
}
