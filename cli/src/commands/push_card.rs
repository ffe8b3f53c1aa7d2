//! The card of a model: what it is, how it was trained, what was measured, and how it is used.

use std::{fmt::Write as _, path::Path};

use serde_json::Value;
use strata_diffusion::model::ModelConfig;
use strata_nn::checkpoint::{Checkpoint, Tensor};
use strata_training::{run, settings::to_toml};

use super::train_diffusion::AUTOENCODER;

/// What a card is written from.
pub struct Card<'a> {
    /// `owner/name`
    pub name: &'a str,
    pub license: Option<&'a str>,
    /// A run directory, or where the weights are.
    pub run: &'a Path,
    pub weights: &'a Checkpoint,
    /// Results of measurements.
    pub metrics: &'a [Value],
}

impl Card<'_> {
    /// The card as markdown, with the header that hubs read.
    ///
    /// # Errors
    /// If the run cannot be read.
    pub fn text(&self) -> anyhow::Result<String> {
        let config = self.metadata("config").and_then(|text| serde_json::from_str::<ModelConfig>(text).ok());
        let mut text = String::from("---\nlibrary_name: strata\n");
        let tag = if config.is_some() { "unconditional-image-generation" } else { "image-to-image" };
        let tag = if config.as_ref().is_some_and(|c| c.text.is_some()) { "text-to-image" } else { tag };
        let _ = writeln!(text, "pipeline_tag: {tag}");
        if let Some(license) = self.license {
            let _ = writeln!(text, "license: {license}");
        }
        text += "tags:\n- strata\n- latent-diffusion\n---\n\n";
        let title = self.name.rsplit('/').next().unwrap_or(self.name);
        let _ = writeln!(text, "# {title}\n");
        let numbers: usize = self.weights.tensors().iter().map(Tensor::elements).sum();
        match &config {
            Some(config) => self.diffusion(config, numbers, &mut text),
            None => self.autoencoder(numbers, &mut text),
        }
        self.training(&mut text)?;
        self.measured(&mut text);
        Ok(text)
    }

    fn metadata(&self, key: &str) -> Option<&str> {
        self.weights.metadata().get(&format!("__metadata__.{key}")).and_then(Value::as_str)
    }

    fn diffusion(&self, config: &ModelConfig, numbers: usize, text: &mut String) {
        let [channels, height, width] = config.shape;
        let of = if config.latents.is_pixels() { "pictures" } else { "latents" };
        let stages = config.boundaries.len() + 1;
        let _ = writeln!(
            text,
            "A diffusion model of {numbers} parameters for {of} of {height}x{width}x{channels}, with {} for {stages} {}.\n",
            if stages == 1 { "one decoder" } else { "a shared encoder and a decoder each" },
            if stages == 1 { "stage" } else { "stages of the noise range" }
        );
        if !config.boundaries.is_empty() {
            let bounds: Vec<String> = config.boundaries.iter().map(|sigma| format!("{sigma:.4}")).collect();
            let _ = writeln!(text, "The stages meet at sigma {}.\n", bounds.join(", "));
        }
        if !config.class_names.is_empty() {
            let _ = writeln!(text, "Classes: {}.\n", config.class_names.join(", "));
        }
        let _ = writeln!(text, "## Use\n\n    strata sample hf:{} --out drawn --seeds 0-15\n", self.name);
    }

    fn autoencoder(&self, numbers: usize, text: &mut String) {
        let kind = self.metadata("kind").unwrap_or("autoencoder");
        let size = self
            .metadata("size")
            .filter(|size| *size != "0")
            .map_or(String::new(), |size| format!(" trained on images of {size}x{size}"));
        let _ = writeln!(text, "An autoencoder (`{kind}`) of {numbers} parameters{size}.\n");
        let _ = writeln!(
            text,
            "## Use\n\n    strata encode --autoencoder hf:{}/{AUTOENCODER} --data photos --out latents\n",
            self.name
        );
    }

    fn training(&self, text: &mut String) -> anyhow::Result<()> {
        if let Some(source) = self.metadata("source") {
            let format = self.metadata("source_format").unwrap_or("another program's file");
            let _ = writeln!(text, "Converted from `{source}` ({format}).\n");
        }
        if !self.run.join("run.toml").is_file() {
            return Ok(());
        }
        let info = run::read_info(self.run)?;
        text.push_str("## Training\n\n");
        if let Some(last) = run::read_stats(self.run)?.pop() {
            let _ = writeln!(text, "The last record:\n\n```json\n{last:#}\n```\n");
        }
        let _ = writeln!(text, "The settings:\n\n```toml\n{}```\n", to_toml(&info.config)?);
        Ok(())
    }

    /// Numbers of all results in a table.
    fn measured(&self, text: &mut String) {
        let mut rows = Vec::new();
        self.metrics.iter().for_each(|json| numbers("", json, &mut rows));
        if rows.is_empty() {
            return;
        }
        text.push_str("## Measured\n\n| | |\n|---|---|\n");
        for (name, value) in rows {
            let _ = writeln!(text, "| {} | {} |", name.replace('|', "/"), value.replace('|', "/"));
        }
    }
}

/// Numbers and words in JSON, with the path to each.
fn numbers(path: &str, json: &Value, rows: &mut Vec<(String, String)>) {
    match json {
        Value::Object(table) => {
            for (key, value) in table {
                numbers(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, rows);
            }
        }
        Value::Number(n) => rows.push((path.to_string(), n.to_string())),
        Value::String(word) => rows.push((path.to_string(), word.clone())),
        _ => {}
    }
}
