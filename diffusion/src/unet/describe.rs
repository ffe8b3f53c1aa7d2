//! A table of what a network is and costs, for people.

use std::fmt::Write;

use super::{
    config::UNetConfig,
    cost::{Cost, CostInput, costs},
};
use crate::Result;

/// A table of parameters, billions of multiply-accumulates and activations of the shared part and each stage, then the levels.
///
/// # Errors
/// As [`costs`].
pub fn describe(config: &UNetConfig, input: CostInput) -> Result<String> {
    let costs = costs(config, input)?;
    let mut text = String::new();
    let CostInput { height, width, .. } = input;
    line(
        &mut text,
        format_args!("U-Net for {height}x{width}x{}: {} parameters", config.in_channels, millions(costs.parameters())),
    );
    line(&mut text, format_args!("{:<22}{}", "one sample", HEAD));
    line(&mut text, format_args!("{:<22}{}", "shared encoder", row(&costs.shared)));
    for (i, (decoder, active)) in costs.decoders.iter().zip(costs.active()).enumerate() {
        line(&mut text, format_args!("{:<22}{}", format!("decoder of stage {}", i + 1), row(decoder)));
        line(&mut text, format_args!("{:<22}{}", format!("stage {} active", i + 1), row(&active)));
    }
    line(
        &mut text,
        format_args!(
            "multiply-accumulates; conv: 2-d convolutions and the embedding's maps, linear: maps at every position,\n  attention: q k^T and the weighted sum"
        ),
    );
    levels(&mut text, config, input);
    Ok(text)
}

const HEAD: &str = " parameters   conv GMACs  linear GMACs  attention GMACs  activations";

fn row(c: &Cost) -> String {
    let (conv, linear, attention) = (giga(c.macs_conv), giga(c.macs_linear), giga(c.macs_attention));
    let mib = c.activation_floats as f64 * 4.0 / f64::from(1 << 20);
    format!("{:>11}{conv:>13.2}{linear:>14.2}{attention:>17.2}{mib:>9.1} MiB", millions(c.parameters))
}

fn levels(text: &mut String, config: &UNetConfig, input: CostInput) {
    for (level, multiplier) in config.multipliers.iter().enumerate() {
        let attends = |levels: &[usize]| if levels.contains(&level) { "+attention" } else { "" };
        let decoders: Vec<String> =
            config.decoders.iter().map(|d| format!("{}{}", d.width * multiplier, attends(&d.attention))).collect();
        line(
            text,
            format_args!(
                "level {level}  {:>4}x{:<4}  encoder {}{}  decoders {}",
                input.height >> level,
                input.width >> level,
                config.width * multiplier,
                attends(&config.attention),
                decoders.join(", ")
            ),
        );
    }
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{content}");
}

fn millions(n: u64) -> String {
    format!("{:.2}M", n as f64 / 1e6)
}

fn giga(n: u64) -> f64 {
    n as f64 / 1e9
}
