//! Classes and attributes as typed.

use strata_diffusion::model::Model;

use crate::hint::hinted;

/// One label per seed: none, one class by name or number, or all classes, which the seeds take in turn.
///
/// # Errors
/// If the model is unconditional or does not know the class; the nearest names are offered.
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
    let message = format!("--class: there is no class `{class}`{}", did_you_mean(class, names));
    hinted(message, format!("classes 0 to {}: {}", classes - 1, names.join(", ")))
}

/// Names that are offered for one that is not known.
const OFFERED: usize = 3;
/// Similarity (Jaro and Winkler, 0 to 1; 1 for a part of the name) from which on a name is offered; the most similar one always is.
const SIMILAR: f64 = 0.7;

/// `; did you mean ...?` with the names most like `wanted`; empty where there are none.
fn did_you_mean(wanted: &str, names: &[String]) -> String {
    let wanted = wanted.to_lowercase();
    let similarity = |name: &str| if name.contains(&wanted) { 1.0 } else { strsim::jaro_winkler(&wanted, name) };
    let mut scored: Vec<(f64, &String)> = names.iter().map(|name| (similarity(&name.to_lowercase()), name)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near = scored.iter().enumerate().take(OFFERED).filter(|(at, (score, _))| *at == 0 || *score >= SIMILAR);
    let near: Vec<String> = near.map(|(_, (_, name))| format!("`{name}`")).collect();
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// A row for the model's attributes: 1 for what is to be there, -1 for what is not, 0 for what is not named; empty without names.
/// Typed `name=1`, `name=0`, or as short forms `name` and `-name`.
///
/// # Errors
/// All names that the model does not know (with the nearest it knows), that are named twice or that have another value.
pub fn attributes(model: &Model, typed: &[String]) -> anyhow::Result<Vec<i8>> {
    let names = &model.config().attribute_names;
    if typed.is_empty() {
        return Ok(Vec::new());
    }
    if names.is_empty() {
        let hint = "leave them out, or train on data with attributes";
        return Err(hinted(format!("--attributes {}: the model knows none", typed.join(",")), hint));
    }
    attribute_row(names, typed)
        .map_err(|wrong| hinted(format!("--attributes: {}", wrong.join("; ")), format!("attributes: {}", names.join(", "))))
}

fn attribute_row(names: &[String], typed: &[String]) -> Result<Vec<i8>, Vec<String>> {
    let (mut row, mut wrong) = (vec![0; names.len()], Vec::new());
    for text in typed {
        let Some((name, value)) = attribute(text) else {
            wrong.push(format!("`{text}`: expected NAME=1 or NAME=0"));
            continue;
        };
        match names.iter().position(|n| n.eq_ignore_ascii_case(name)) {
            Some(at) if row[at] == 0 => row[at] = value,
            Some(_) => wrong.push(format!("`{name}` is named twice")),
            None => wrong.push(format!("there is no attribute `{name}`{}", did_you_mean(name, names))),
        }
    }
    if wrong.is_empty() { Ok(row) } else { Err(wrong) }
}

/// The name and what is wanted of it, 1 or -1.
fn attribute(text: &str) -> Option<(&str, i8)> {
    match text.split_once('=') {
        Some((name, "1")) => Some((name.trim(), 1)),
        Some((name, "0")) => Some((name.trim(), -1)),
        Some(_) => None,
        None => Some(text.strip_prefix('-').map_or((text, 1), |name| (name, -1))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(typed: &[&str]) -> Result<Vec<i8>, Vec<String>> {
        let names = ["Male", "Smiling", "Wearing_Hat", "Wearing_Necktie"].map(String::from);
        attribute_row(&names, &typed.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn attributes_as_typed() {
        assert_eq!(row(&["smiling=1", "male=0"]), Ok(vec![-1, 1, 0, 0]));
        assert_eq!(row(&["-Male", "Wearing_Hat"]), Ok(vec![-1, 0, 1, 0]));
        let wrong = row(&["smiling=2", "hat", "wearing_neckties=1", "male=1", "-male"]).unwrap_err();
        assert_eq!(wrong[0], "`smiling=2`: expected NAME=1 or NAME=0");
        assert_eq!(wrong[1], "there is no attribute `hat`; did you mean `Wearing_Hat`?");
        assert!(wrong[2].ends_with("did you mean `Wearing_Necktie` or `Wearing_Hat`?"), "{wrong:?}");
        assert_eq!(wrong[3], "`male` is named twice");
    }
}
