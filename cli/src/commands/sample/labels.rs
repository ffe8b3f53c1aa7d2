//! Classes and attributes as typed.

use strata_diffusion::model::Model;

use crate::hint::hinted;

/// One label per seed: none, one class by name or number, or all classes, which the seeds take in turn.
///
/// # Errors
/// If the model is unconditional or does not know the class; the nearest name is offered.
pub fn labels(model: &Model, class: Option<&str>, seeds: &[u64]) -> anyhow::Result<Vec<Option<u32>>> {
    let Some(class) = class else { return Ok(vec![None; seeds.len()]) };
    let classes = model.config().classes as u64;
    if class == "all" && classes > 0 {
        return Ok(seeds.iter().map(|seed| Some((seed % classes) as u32)).collect());
    }
    Ok(vec![Some(label(model, class)?); seeds.len()])
}

/// The label of one class.
///
/// # Errors
/// As [`labels`].
pub fn label(model: &Model, class: &str) -> anyhow::Result<u32> {
    let config = model.config();
    if config.classes == 0 {
        let hint = "leave the class out, or train on data with classes";
        return Err(hinted(format!("class `{class}`: the model is unconditional"), hint));
    }
    let by_name = config.class_names.iter().position(|n| n.eq_ignore_ascii_case(class));
    let by_number = class.parse::<usize>().ok().filter(|n| *n < config.classes);
    by_name.or(by_number).map(|label| label as u32).ok_or_else(|| unknown_class(class, &config.class_names, config.classes))
}

fn unknown_class(class: &str, names: &[String], classes: usize) -> anyhow::Error {
    let wanted = class.to_lowercase();
    let nearest = names.iter().max_by(|a, b| {
        let score = |name: &str| strsim::jaro_winkler(&wanted, &name.to_lowercase());
        score(a).total_cmp(&score(b))
    });
    let near = nearest.map_or(String::new(), |n| format!("; the nearest is `{n}`"));
    hinted(format!("--class: there is no class `{class}`{near}"), format!("classes 0 to {}: {}", classes - 1, names.join(", ")))
}

/// A row for the model's attributes: 1 for each name, -1 for each name behind a minus, 0 for the others; empty without names.
///
/// # Errors
/// All names that the model does not know or that are named twice.
pub fn attributes(model: &Model, typed: &[String]) -> anyhow::Result<Vec<i8>> {
    let names = &model.config().attribute_names;
    if typed.is_empty() {
        return Ok(Vec::new());
    }
    if names.is_empty() {
        let hint = "leave them out, or train on data with attributes";
        return Err(hinted(format!("--attributes {}: the model knows none", typed.join(",")), hint));
    }
    let (mut row, mut wrong) = (vec![0; names.len()], Vec::new());
    for text in typed {
        let (name, value) = text.strip_prefix('-').map_or((text.as_str(), 1), |name| (name, -1));
        match names.iter().position(|n| n.eq_ignore_ascii_case(name)) {
            Some(at) if row[at] == 0 => row[at] = value,
            Some(_) => wrong.push(format!("`{name}` is named twice")),
            None => wrong.push(format!("there is no attribute `{name}`")),
        }
    }
    match wrong.is_empty() {
        true => Ok(row),
        false => Err(hinted(format!("--attributes: {}", wrong.join("; ")), format!("attributes: {}", names.join(", ")))),
    }
}
