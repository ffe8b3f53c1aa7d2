//! Which parameters are trained, and at which rates.

use serde::{Deserialize, Serialize};
use strata_nn::params::{ParamStore, Parameter};
use strata_training::{Optimizer, optimizer::Group};

use super::DiffusionTraining;
use crate::{Error, Result, model::Model};

/// Where the names of the decoders' parameters begin.
pub(super) const DECODERS: &str = "unet.decoders.";

/// Rates of some parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSettings {
    /// `encoder`, `decoders`, or the beginning of their names, for example `unet.decoders.2`.
    pub parameters: String,
    /// Factor on the optimizer's learning rate.
    #[serde(default = "one")]
    pub lr_factor: f64,
    /// Weight decay in place of the optimizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// Whether the parameter `name` is one of `part`: what the stages share, the decoders, or a beginning of names.
fn belongs(name: &str, part: &str) -> bool {
    match part {
        "encoder" => !name.starts_with(DECODERS),
        "decoders" => name.starts_with(DECODERS),
        prefix => name.starts_with(prefix),
    }
}

/// The stage (from 0) whose decoder a parameter is of.
pub(super) fn decoder_of(name: &str) -> Option<usize> {
    name.strip_prefix(DECODERS)?.split('.').next()?.parse().ok()
}

/// The stages (from 0) that are trained; empty: all.
pub(super) fn trained_stages(config: &DiffusionTraining) -> Result<Vec<usize>> {
    let decoders = config.unet.decoders.len();
    let from_0 = |&stage: &usize| match stage {
        s if s >= 1 && s <= decoders => Ok(s - 1),
        s => Err(Error::Config(format!("`train_stages`: expected stages from 1 to {decoders}, got {s}"))),
    };
    config.train_stages.iter().map(from_0).collect()
}

/// Freezes what is not to be trained.
pub(super) fn freeze(config: &DiffusionTraining, model: &Model) -> Result<()> {
    let stages = trained_stages(config)?;
    known_parts(model.store(), config.freeze.iter().map(String::as_str), "freeze")?;
    let trained = |p: &Parameter| {
        let of_stage = decoder_of(p.name()).is_none_or(|stage| stages.is_empty() || stages.contains(&stage));
        p.is_trainable() && of_stage && !config.freeze.iter().any(|part| belongs(p.name(), part))
    };
    for p in model.store().parameters() {
        p.set_trainable(trained(&p));
    }
    match model.store().trainable().is_empty() {
        true => Err(Error::Config("`freeze`: nothing is left to be trained".into())),
        false => Ok(()),
    }
}

/// Errors if a part has no parameter.
fn known_parts<'a>(store: &ParamStore, parts: impl Iterator<Item = &'a str>, key: &str) -> Result<()> {
    let all = store.parameters();
    for part in parts {
        if !all.iter().any(|p| belongs(p.name(), part)) {
            let example = all.first().map(|p| p.name().to_string()).unwrap_or_default();
            return Err(Error::Config(format!(
                "`{key}`: expected encoder, decoders or the beginning of a parameter's name as `{example}`, got `{part}`"
            )));
        }
    }
    Ok(())
}

/// The optimizer of the trained parameters in their groups, and of the loss's own, which do not decay.
pub(super) fn optimizer(config: &DiffusionTraining, model: &Model, loss: &ParamStore) -> Result<Optimizer> {
    known_parts(model.store(), config.groups.iter().map(|g| g.parameters.as_str()), "groups")?;
    let own = |p: &Parameter| config.groups.iter().position(|g| belongs(p.name(), &g.parameters));
    let group = |parameters: Vec<Parameter>, lr_factor: f64, weight_decay: f64| Group {
        parameters: parameters.into_iter().map(|p| (p.name().to_string(), p.var().clone())).collect(),
        lr: config.optimizer.lr * lr_factor,
        weight_decay,
    };
    let of = |wanted: Option<usize>| model.store().trainable().into_iter().filter(|p| own(p) == wanted).collect();
    let mut groups = vec![group(of(None), 1.0, config.optimizer.weight_decay)];
    for (i, settings) in config.groups.iter().enumerate() {
        groups.push(group(of(Some(i)), settings.lr_factor, settings.weight_decay.unwrap_or(config.optimizer.weight_decay)));
    }
    groups.push(group(loss.trainable(), 1.0, 0.0));
    Ok(Optimizer::with_groups(groups, config.optimizer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_network() {
        let decoder = "unet.decoders.2.block1.conv1.weight";
        assert_eq!(decoder_of(decoder), Some(2));
        assert_eq!(decoder_of("unet.encoder.conv_in.weight"), None);
        assert!(belongs(decoder, "decoders") && !belongs(decoder, "encoder") && belongs(decoder, "unet.decoders.2."));
        assert!(belongs("classes.weight", "encoder") && !belongs("classes.weight", "decoders"));
    }
}
