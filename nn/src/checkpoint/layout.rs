//! What the programs that wrote a torch file keep where.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use super::{
    Layout, Optimizer,
    budget::Budget,
    meta::{self, Meta},
    pickle::{Id, Pickle, Value},
    torch::TorchFile,
    tree::{Named, Walk, entries, join},
};

/// What a layout makes of a file.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub tensors: Vec<Named>,
    pub meta: BTreeMap<String, Json>,
    pub ema: Vec<(String, String)>,
    pub optimizer: Option<Optimizer>,
}

/// The layout of a torch file, from what lies at its top.
pub(super) fn detect(pickle: &Pickle) -> Layout {
    let root = pickle.root();
    let is_dict = |id: Id| matches!(pickle.get(id), Value::Dict(_));
    if pickle.entry(root, "state_dict").is_some_and(is_dict) {
        return Layout::Lightning;
    }
    if let Some(ema) = pickle.entry(root, "ema") {
        if meta::class_name(pickle, ema).is_some() {
            return Layout::EdmPkl;
        }
        if pickle.entry(root, "model").is_some_and(is_dict) && pickle.entry(ema, "shadow_params").is_some() {
            return Layout::ScoreSde;
        }
    }
    Layout::TorchSave
}

/// Reads `file` as `layout`; `non_trainable`: the names that score-SDE's averages leave out, where they are known.
pub(super) fn read(
    file: &TorchFile,
    layout: Layout,
    non_trainable: Option<&[String]>,
    budget: &mut Budget,
) -> Result<Read, String> {
    match layout {
        Layout::Lightning => lightning(file, budget),
        Layout::EdmPkl => edm(file, budget),
        Layout::ScoreSde => score_sde(file, non_trainable, budget),
        _ => torch_save(file, budget),
    }
}

/// Any nesting of containers; a module that was saved whole, where there is nothing else.
fn torch_save(file: &TorchFile, budget: &mut Budget) -> Result<Read, String> {
    let root = file.pickle.root();
    let mut walk = Walk::new(file, budget);
    walk.containers("", root, 0)?;
    let mut tensors = walk.finish()?;
    if tensors.is_empty() {
        let mut walk = Walk::new(file, budget);
        walk.module("", root, 0)?;
        tensors = walk.finish()?;
    }
    let mut meta = Meta::new(&file.pickle, budget);
    if let Value::Dict(_) = file.pickle.get(root) {
        meta.collect("", root, 0);
    }
    Ok(Read { tensors, meta: meta.finish(), ..Read::default() })
}

fn lightning(file: &TorchFile, budget: &mut Budget) -> Result<Read, String> {
    let (pickle, root) = (&file.pickle, file.pickle.root());
    let state = pickle.entry(root, "state_dict").ok_or("a checkpoint without a `state_dict`")?;
    let mut walk = Walk::new(file, budget);
    walk.containers("", state, 0)?;
    let tensors = walk.finish()?;
    let mut meta = Meta::new(pickle, budget);
    for (key, value) in entries(pickle, root) {
        if !["state_dict", "optimizer_states"].contains(&key.as_str()) {
            meta.collect(&key, value, 1);
        }
    }
    let ema = averages(&tensors)?;
    Ok(Read { ema, meta: meta.finish(), optimizer: optimizer(file, budget)?, tensors })
}

/// LDM's averages: their names are those below `model` without any dots.
fn averages(tensors: &[Named]) -> Result<Vec<(String, String)>, String> {
    if !tensors.iter().any(|(name, _)| name.starts_with("model_ema.")) {
        return Ok(Vec::new());
    }
    let mut real: HashMap<String, &str> = HashMap::new();
    for name in tensors.iter().filter_map(|(name, _)| name.strip_prefix("model.")) {
        if let Some(other) = real.insert(name.replace('.', ""), name) {
            return Err(format!("`model.{other}` and `model.{name}` have the same averaged name"));
        }
    }
    let averaged = tensors.iter().filter_map(|(stored, _)| Some((stored, real.get(stored.strip_prefix("model_ema.")?)?)));
    Ok(averaged.map(|(stored, name)| (format!("model.{name}"), stored.clone())).collect())
}

/// More groups of parameters than any optimizer has.
const MAX_GROUPS: usize = 256;

fn optimizer(file: &TorchFile, budget: &mut Budget) -> Result<Option<Optimizer>, String> {
    let pickle = &file.pickle;
    let Some(states) = pickle.entry(pickle.root(), "optimizer_states") else { return Ok(None) };
    let Some(states) = pickle.items(states).filter(|states| !states.is_empty()) else { return Ok(None) };
    let mut walk = Walk::new(file, budget);
    let (mut param_groups, mut steps) = (Vec::new(), None);
    for (i, &optimizer) in states.iter().enumerate() {
        if let Some(state) = pickle.entry(optimizer, "state") {
            walk.containers(&format!("{i}.state"), state, 0)?;
            let counts = entries(pickle, state).into_iter().filter_map(|(_, of)| pickle.int(pickle.entry(of, "step")?));
            steps = steps.max(counts.max());
        }
        if let Some(groups) = pickle.entry(optimizer, "param_groups").and_then(|groups| pickle.items(groups)) {
            param_groups.extend(groups.iter().take(MAX_GROUPS).map(|&group| meta::settings(pickle, group)));
        }
    }
    Ok(Some(Optimizer { tensors: walk.finish()?.into_iter().map(Into::into).collect(), param_groups, steps }))
}

/// The averaged network that EDM publishes, and the arguments that everything was made with.
fn edm(file: &TorchFile, budget: &mut Budget) -> Result<Read, String> {
    let (pickle, root) = (&file.pickle, file.pickle.root());
    let ema = pickle.entry(root, "ema").ok_or("a snapshot without a network under `ema`")?;
    let mut walk = Walk::new(file, budget);
    walk.module("", ema, 0)?;
    let tensors = walk.finish()?;
    let mut meta = Meta::new(pickle, budget);
    meta.collect("", root, 0);
    Ok(Read { tensors, meta: meta.finish(), ..Read::default() })
}

fn score_sde(file: &TorchFile, non_trainable: Option<&[String]>, budget: &mut Budget) -> Result<Read, String> {
    let (pickle, root) = (&file.pickle, file.pickle.root());
    let model = pickle.entry(root, "model").ok_or("a checkpoint without a `model`")?;
    let ema = pickle.entry(root, "ema").ok_or("a checkpoint without an `ema`")?;
    let mut walk = Walk::new(file, budget);
    walk.containers("", model, 0)?;
    let strip = |name: &str| name.strip_prefix("module.").unwrap_or(name).to_string();
    let model: Vec<Named> = walk.finish()?.into_iter().map(|(name, view)| (strip(&name), view)).collect();
    let shadow = pickle.entry(ema, "shadow_params").and_then(|list| pickle.items(list)).ok_or("`ema` without `shadow_params`")?;
    let shadow: Vec<_> =
        shadow.iter().map(|&id| file.tensor(id).ok_or("`shadow_params` holds what is no tensor")).collect::<Result<_, _>>()?;
    let trainable = trainable(&model, shadow.len(), non_trainable)?;
    let shapes: HashMap<&str, &[usize]> = model.iter().map(|(name, view)| (name.as_str(), view.shape())).collect();
    let mut tensors: Vec<Named> = Vec::with_capacity(model.len() + shadow.len());
    for (name, average) in trainable.iter().zip(shadow) {
        let own = shapes.get(name.as_str()).copied();
        if own != Some(average.shape()) {
            return Err(format!("the average of `{name}` has the shape {:?}, expected {own:?}", average.shape()));
        }
        tensors.push((join("ema", name), average.clone()));
    }
    tensors.extend(model.into_iter().map(|(name, view)| (join("model", &name), view)));
    let mut meta = Meta::new(pickle, budget);
    for (key, value) in entries(pickle, root) {
        if !["model", "optimizer"].contains(&key.as_str()) {
            meta.collect(&key, value, 1);
        }
    }
    Ok(Read { tensors, meta: meta.finish(), ..Read::default() })
}

/// The names of the averages, which are a bare list in the order of the parameters.
fn trainable(model: &[Named], averages: usize, non_trainable: Option<&[String]>) -> Result<Vec<String>, String> {
    // Without a list: the buffer `sigmas`, and a Fourier embedding's frequencies, a vector that needs no gradient.
    let fixed = |(name, view): &Named| match non_trainable {
        Some(names) => names.contains(name),
        None => name == "sigmas" || (name.ends_with(".W") && view.shape().len() == 1),
    };
    let names: Vec<String> = model.iter().filter(|named| !fixed(named)).map(|(name, _)| name.clone()).collect();
    if names.len() != averages {
        return Err(format!("{averages} averages for {} trainable parameters", names.len()));
    }
    Ok(names)
}
