//! What `strata stages` shows: tables in the terminal, curves and the matrix as pictures.

use serde::Serialize;
use strata_diffusion::{
    schedule::Schedule,
    stages::{Division, Method, Stages, widths},
    training::DiffusionTraining,
};

use crate::plot::{Curve, HeatMap, LinePlot};

/// Prints the stages with their intervals.
pub fn print_table(stages: &Stages) {
    let coverage = stages.parameters.coverage.filter(|_| !stages.intervals.is_empty());
    let interval = coverage.map_or(String::new(), |c| format!("{:.0} % of the upper boundary, t", 100.0 * c));
    println!("stage  sigma              t                  {interval}");
    for row in stages.rows() {
        let interval = row.interval_t.map_or(String::new(), |[a, b]| format!("{a:.4} to {b:.4}"));
        println!(
            "{:<6} {:<18} {:<18} {interval}",
            row.stage,
            format!("{:.4} - {:.4}", row.sigma_low, row.sigma_high),
            format!("{:.4} - {:.4}", row.t_low, row.t_high)
        );
    }
}

/// Recommended decoders.
#[derive(Debug, Serialize)]
pub struct Decoders {
    /// One for each stage.
    stages: Vec<widths::Advice>,
    /// Of an average step, relative to the single decoder.
    average_cost: f64,
    /// Width of the single decoder.
    single_width: usize,
    /// What `--set` takes.
    set: String,
}

impl Decoders {
    /// Decoders for `network` on samples `[C, H, W]` of `shape` within `budget` of its single decoder.
    ///
    /// # Errors
    /// As the library's.
    pub fn new(stages: &Stages, network: &DiffusionTraining, shape: [usize; 3], budget: f64) -> anyhow::Result<Self> {
        let advice = widths::for_network(&stages.boundaries, network, shape, budget)?;
        let one = |a: &widths::Advice| format!("{{ width = {}, attention = {:?} }}", a.width, network.unet.attention);
        let list: Vec<String> = advice.iter().map(one).collect();
        Ok(Self {
            average_cost: widths::average_cost(&advice),
            single_width: network.unet.width,
            set: format!("unet.decoders=[{}]", list.join(", ")),
            stages: advice,
        })
    }

    /// As a table, with the option that uses them.
    pub fn print(&self) {
        println!("\nstage  decoder width  cost   sampler steps  training draws  detail");
        for a in &self.stages {
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            let (steps, draws) = (percent(a.step_share), percent(a.draw_share));
            println!("{:<6} {:<14} {:<6.3} {steps:<14} {draws:<15} {:.3}", a.stage, a.width, a.cost, a.detail);
        }
        println!("an average step costs {:.3} of a single decoder of width {}", self.average_cost, self.single_width);
        println!("--set '{}'", self.set);
    }
}

/// Similarity to both ends over t, with the boundaries.
pub fn curves(division: &Division) -> LinePlot {
    let c = &division.curves;
    let curve = |name: &str, values: &[f64]| Curve {
        name: name.to_string(),
        points: c.t.iter().copied().zip(values.iter().copied()).collect(),
    };
    let gradients = division.stages.method == Method::GradientAffinity;
    let (title, y_label) = if gradients {
        ("Network's gradient: cosine with", "cosine similarity")
    } else {
        ("Optimal denoiser: similarity to", "share of coordinates that agree")
    };
    LinePlot {
        title: title.to_string(),
        x_label: "t of the schedule".to_string(),
        y_label: y_label.to_string(),
        curves: vec![
            curve("data end", &c.to_data),
            curve("noise end", &c.to_noise),
            curve("data, running mean", &c.running_to_data),
            curve("noise, running mean", &c.running_to_noise),
        ],
        boundaries: division.stages.boundaries_t.clone(),
        // EDM's t is sigma itself, over four orders of magnitude.
        log_x: matches!(division.stages.schedule, Schedule::Edm { .. }),
        ..LinePlot::default()
    }
}

/// Similarity between all levels of the grid.
pub fn matrix(division: &Division) -> HeatMap {
    let m = &division.matrix;
    let n = m.t.len();
    let digits = if matches!(division.stages.schedule, Schedule::Edm { .. }) { 3 } else { 2 };
    let ticks: Vec<(usize, String)> = (0..n).step_by((n / 5).max(1)).map(|i| (i, format!("{:.digits$}", m.t[i]))).collect();
    let gradients = division.stages.method == Method::GradientAffinity;
    let subject = if gradients { "the network's gradients" } else { "the optimal denoiser" };
    HeatMap {
        title: format!("Similarity of {subject} between noise levels"),
        x_label: "t".to_string(),
        y_label: "t".to_string(),
        rows: m.values.chunks(n).map(<[f64]>::to_vec).collect(),
        x_ticks: ticks.clone(),
        y_ticks: ticks,
        // Cosines may be negative.
        range: (!gradients).then_some((0.0, 1.0)),
    }
}
