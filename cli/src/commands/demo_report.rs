//! The demo's loss curves and its page.

use std::path::{Path, PathBuf};

use serde_json::Value;
use strata_autoencoder::{AutoencoderTraining, Reconstruction};
use strata_datasets::LatentManifest;
use strata_diffusion::{model::Model, sampling::SampleOptions, stages::Stages, unet::costs};
use strata_training::run::read_stats;

use crate::{
    plot::{Curve, LinePlot},
    report::{Block, Report, Section, Table},
};

/// What the chain came to.
pub struct Results {
    /// Side of the pictures in pixels.
    pub size: usize,
    /// Pictures in the data set.
    pub images: usize,
    /// How the autoencoder was trained.
    pub autoencoder: AutoencoderTraining,
    /// What it does to held-out pictures.
    pub reconstruction: Reconstruction,
    /// The latents.
    pub manifest: LatentManifest,
    /// The division.
    pub stages: Stages,
    /// The trained model.
    pub model: Model,
    /// How pictures were drawn.
    pub sampling: SampleOptions,
    /// Seconds of this call.
    pub seconds: f64,
}

/// Writes `training.png` and `report.html` into `out`; answers the page's path.
///
/// # Errors
/// If a log cannot be read or a file cannot be written.
pub fn write(results: &Results, out: &Path) -> anyhow::Result<PathBuf> {
    let autoencoder = read_stats(&out.join("autoencoder"))?;
    let diffusion = read_stats(&out.join("diffusion"))?;
    loss_curves(&diffusion, results.model.stages()).write(&out.join("training.png"))?;
    let report = Report {
        title: "Strata demo: emoji drawn by a multistage latent-diffusion model".to_string(),
        summary: format!(
            "Trained on {} Noto emoji at {size}x{size} pixels: an autoencoder, three stages of the noise range found on its \
             latents, and a U-Net with one shared encoder and a decoder per stage.",
            results.images,
            size = results.size
        ),
        sections: vec![
            pictures(out),
            autoencoder_section(results, &autoencoder, out),
            stages_section(results, out),
            training_section(results, &diffusion, out)?,
            sampling_section(results)?,
        ],
    };
    let page = out.join("report.html");
    report.write(&page)?;
    Ok(page)
}

/// A training's loss per stage over images, from its log.
pub fn loss_curves(records: &[Value], stages: usize) -> LinePlot {
    let curve = |stage: usize| {
        let point = |r: &Value| Some((r["seen_images"].as_f64()?, r["loss_per_stage"][stage].as_f64()?));
        Curve { name: format!("stage {}", stage + 1), points: records.iter().filter_map(point).collect() }
    };
    let measured = |r: &Value| Some((r["seen_images"].as_f64()?, r["held_out_loss"].as_f64()?));
    let held_out = Curve { name: "held out, all stages".to_string(), points: records.iter().filter_map(measured).collect() };
    let held_out = (!held_out.points.is_empty()).then_some(held_out);
    LinePlot {
        title: "Training loss of each stage".to_string(),
        x_label: "images seen".to_string(),
        y_label: "weighted squared error".to_string(),
        curves: (0..stages).map(curve).chain(held_out).collect(),
        log_y: true,
        smooth: 3,
        ..LinePlot::default()
    }
}

fn figure(out: &Path, name: &str, caption: &str) -> Block {
    Block::Figure { file: out.join(name), caption: caption.to_string() }
}

fn table(caption: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Block {
    Block::Table(Table { caption: caption.to_string(), columns: columns.iter().map(ToString::to_string).collect(), rows })
}

fn pictures(out: &Path) -> Section {
    let blocks = vec![
        figure(out, "samples.png", "64 pictures that the model has drawn, the categories in turn."),
        figure(out, "samples-by-class.png", "Eight pictures of each category."),
    ];
    Section { title: "Samples".to_string(), blocks }
}

fn autoencoder_section(results: &Results, records: &[Value], out: &Path) -> Section {
    let m = &results.manifest;
    let rows = vec![
        vec!["latents".to_string(), format!("{}x{}x{} from {s}x{s}x3", m.height, m.width, m.channels, s = results.size)],
        vec![
            "PSNR of held-out pictures".to_string(),
            format!("{:.2} dB over {}", results.reconstruction.psnr, results.reconstruction.count),
        ],
        vec!["images seen".to_string(), last(records, "seen_images", 0)],
        vec!["images a step".to_string(), results.autoencoder.batch.to_string()],
        vec!["seconds a step".to_string(), last(records, "seconds_per_step", 4)],
        vec!["scale of the latents".to_string(), numbers(&m.scale)],
    ];
    let blocks = vec![
        table("", &[], rows),
        figure(
            out,
            "reconstructions.png",
            "Held-out pictures, which the autoencoder was not trained on, above what it makes of them.",
        ),
    ];
    Section { title: "Autoencoder".to_string(), blocks }
}

fn stages_section(results: &Results, out: &Path) -> Section {
    let rows = results.stages.rows();
    let rows = rows.iter().map(|r| {
        vec![
            r.stage.to_string(),
            format!("{:.4}", r.sigma_low),
            format!("{:.4}", r.sigma_high),
            format!("{:.4} to {:.4}", r.t_low, r.t_high),
        ]
    });
    let blocks = vec![
        table(
            "Noise levels of each stage, stage 1 nearest the data",
            &["stage", "sigma above", "sigma up to", "t of the schedule"],
            rows.collect(),
        ),
        figure(
            out,
            "stages.png",
            "Similarity of the optimal denoiser at each noise level to that at the data end and at the noise end; the dashed lines are the boundaries.",
        ),
    ];
    Section { title: "Stages (Zhang, Lu et al. 2024, Algorithm 1)".to_string(), blocks }
}

fn training_section(results: &Results, records: &[Value], out: &Path) -> anyhow::Result<Section> {
    let config = results.model.config();
    let costs = costs(&config.unet, config.cost_input())?;
    let row = |(stage, (active, decoder)): (usize, (strata_diffusion::unet::Cost, &strata_diffusion::unet::DecoderConfig))| {
        let giga = |n: u64| format!("{:.4}", n as f64 * 1e-9);
        vec![
            (stage + 1).to_string(),
            decoder.width.to_string(),
            active.parameters.to_string(),
            giga(2 * active.macs()),
            giga(active.macs_conv),
        ]
    };
    let rows = costs.active().into_iter().zip(&config.unet.decoders).enumerate().map(row).collect();
    let run = vec![
        vec!["parameters in all".to_string(), results.model.store().element_count().to_string()],
        vec!["images seen".to_string(), last(records, "seen_images", 0)],
        vec!["seconds a step".to_string(), last(records, "seconds_per_step", 4)],
        vec!["last loss".to_string(), last(records, "loss", 4)],
    ];
    let blocks = vec![
        table("", &[], run),
        table(
            "What one sample of a stage costs, shared encoder and its decoder together",
            &["stage", "decoder width", "parameters", "GFLOPs", "GMACs of convolutions"],
            rows,
        ),
        figure(out, "training.png", "Loss of each stage while training."),
    ];
    Ok(Section { title: "Diffusion model".to_string(), blocks })
}

fn sampling_section(results: &Results) -> anyhow::Result<Section> {
    let options = &results.sampling;
    let sigmas = options.sigmas(&results.model)?;
    let (sigma_min, sigma_max) = options.range(&results.model);
    let mut steps = vec![0usize; results.model.stages()];
    for sigma in sigmas.iter().filter(|s| **s > 0.0) {
        steps[results.model.stage(*sigma)] += 1;
    }
    let rows = steps.iter().enumerate().map(|(i, n)| vec![(i + 1).to_string(), n.to_string()]).collect();
    let text = format!(
        "{} with {} steps from sigma {sigma_max:.4} to {sigma_min:.4}, guidance {}. The whole demo took {:.0} seconds in this call.",
        options.sampler, options.steps, options.guidance.scale, results.seconds
    );
    let blocks = vec![Block::Text(text), table("Steps that each stage's decoder takes", &["stage", "steps"], rows)];
    Ok(Section { title: "Sampling".to_string(), blocks })
}

/// The value of a key in the last record that has it.
fn last(records: &[Value], key: &str, digits: usize) -> String {
    let value = records.iter().rev().find_map(|r| r[key].as_f64());
    value.map_or("-".to_string(), |v| format!("{v:.digits$}"))
}

fn numbers(values: &[f32]) -> String {
    values.iter().map(|v| format!("{v:.3}")).collect::<Vec<_>>().join(", ")
}
