//! Kinds of the area `checkpoints`: what an importer must get from a published file, and what it must refuse.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use strata_nn::checkpoint::{Checkpoint, Layout, Tensor};

use crate::golden::{Answer, Case};

mod diffusers;

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the answer is not the expected one.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "import_checkpoint" => import_checkpoint(case),
        "diffusers_repo" => diffusers::run(case),
        other => bail!("`{other}` is no kind of the area checkpoints"),
    }
}

fn import_checkpoint(case: &Case) -> Result<Answer> {
    let expect = case.expect()?;
    let opened = open(case)?;
    // An import reads everything; only then is it known that nothing is damaged.
    let read = opened.and_then(|file| {
        let listed = list(file.tensors());
        Ok((file, listed?))
    });
    match expect["outcome"].as_str() {
        Some("ok") => {
            let (file, listed) = read?;
            compare(&listed, &expect["tensors"]).context("tensors")?;
            check_beside(&file, expect)?;
            // The contents alone must be enough to know what it is, where it is more than nested containers.
            let layout = Checkpoint::open(file.path())?.layout();
            let plain = file.layout() == Layout::TorchSave;
            ensure!(plain || layout == file.layout(), "found to be {layout:?}, expected {:?}", file.layout());
        }
        Some("error") => {
            ensure!(read.is_err(), "expected an error ({}), but the file was read", expect["why"]);
            if let Some(path) = expect["must_not_exist"].as_str() {
                ensure!(!case.dir.join(path).exists() && !Path::new(path).exists(), "`{path}` was written");
            }
        }
        _ => bail!("`expect.outcome` is {}, expected ok or error", expect["outcome"]),
    }
    Ok(Answer::checked())
}

fn open(case: &Case) -> Result<Result<Checkpoint>> {
    let config = case.config()?;
    config.without_effect(&["container", "protocol"]);
    let path = case.dir.join(config.get::<String>("file")?);
    let layout = match config.get::<String>("layout")?.as_str() {
        "torch_save" => Layout::TorchSave,
        "lightning" => Layout::Lightning,
        "edm_pkl" => Layout::EdmPkl,
        "score_sde" => Layout::ScoreSde,
        "safetensors" => Layout::Safetensors,
        "safetensors_sharded" => Layout::Sharded,
        other => bail!("unknown layout `{other}`"),
    };
    let non_trainable: Option<Vec<String>> = config.opt("non_trainable")?;
    config.finish()?;
    Ok(match non_trainable {
        Some(names) => Checkpoint::open_score_sde(&path, &names),
        None => Checkpoint::open_as(&path, layout),
    }
    .map_err(Into::into))
}

fn list(tensors: &[Tensor]) -> Result<Vec<Value>> {
    let one = |t: &Tensor| {
        let contents = t.read().map_err(|why| anyhow::anyhow!("`{}`: {why}", t.name()))?;
        let sha256: String = Sha256::digest(&contents).iter().map(|b| format!("{b:02x}")).collect();
        Ok(json!({ "name": t.name(), "dtype": format!("{:?}", t.dtype()), "shape": t.shape(), "sha256": sha256 }))
    };
    tensors.iter().map(one).collect()
}

fn compare(got: &[Value], want: &Value) -> Result<()> {
    let want = want.as_array().context("the expected list is missing")?;
    let missing: Vec<&Value> = want.iter().filter(|w| !got.contains(w)).collect();
    let unexpected: Vec<&Value> = got.iter().filter(|g| !want.contains(g)).collect();
    ensure!(missing.is_empty() && unexpected.is_empty(), "missing: {missing:?}; unexpected: {unexpected:?}");
    let sorted = got.iter().zip(want).all(|(g, w)| g == w);
    ensure!(sorted && got.len() == want.len(), "the order or the number ({}, expected {}) differs", got.len(), want.len());
    Ok(())
}

/// Everything expected beside the tensors.
fn check_beside(file: &Checkpoint, expect: &Value) -> Result<()> {
    for (key, want) in expect.as_object().context("`expect` is no table")? {
        match key.as_str() {
            "outcome" | "tensors" => {}
            "meta" => {
                for (name, want) in want.as_object().context("`expect.meta` is no table")? {
                    let got = file.metadata().get(name);
                    ensure!(got.is_some_and(|got| same(got, want)), "meta `{name}`: expected {want}, got {got:?}");
                }
            }
            "ema" => {
                let pair = |(name, stored): &(String, String)| json!({ "name": name, "stored_as": stored });
                let mut got: Vec<Value> = file.ema().iter().map(pair).collect();
                let mut want: Vec<Value> = want.as_array().context("`expect.ema` is no list")?.clone();
                got.sort_by_key(ToString::to_string);
                want.sort_by_key(ToString::to_string);
                ensure!(got == want, "ema: expected {want:?}, got {got:?}");
            }
            "optimizer" => check_optimizer(file, want).context("optimizer")?,
            other => bail!("unknown key `expect.{other}`"),
        }
    }
    Ok(())
}

fn check_optimizer(file: &Checkpoint, expect: &Value) -> Result<()> {
    let optimizer = file.optimizer().context("the file has none")?;
    for (key, want) in expect.as_object().context("`expect.optimizer` is no table")? {
        match key.as_str() {
            "tensors" => {
                let mut listed = list(&optimizer.tensors)?;
                listed.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
                compare(&listed, want)?;
            }
            "param_groups" => {
                let got = Value::Array(optimizer.param_groups.clone());
                ensure!(same(&got, want), "param_groups: expected {want}, got {got}");
            }
            "steps" => ensure!(optimizer.steps == want.as_i64(), "steps: expected {want}, got {:?}", optimizer.steps),
            other => bail!("unknown key `expect.optimizer.{other}`"),
        }
    }
    Ok(())
}

/// Equal, where 1 and 1.0 are the same number; a table may hold more than is expected.
fn same(got: &Value, want: &Value) -> bool {
    match (got, want) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => b.iter().all(|(key, b)| a.get(key).is_some_and(|a| same(a, b))),
        _ => got == want,
    }
}
