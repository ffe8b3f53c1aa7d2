//! One case: a folder with `case.json` and `tensors.safetensors`.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{Config, fill};

/// The keys that a `case.json` may have.
const KEYS: [&str; 10] =
    ["kind", "source", "config", "weights", "tolerance", "notes", "dtype", "grad_of", "expect", "requires_file"];

/// One golden case, read completely but for its weights.
#[derive(Debug)]
pub struct Case {
    /// The area's folder name, for example `optim`.
    pub area: String,
    /// The case's folder name.
    pub name: String,
    /// The case's folder.
    pub dir: PathBuf,
    /// The golden root that it lies in.
    pub root: PathBuf,
    /// Which computation.
    pub kind: String,
    /// With which configuration, in the source's own parameter names. [`Case::config`] reads it and finds unknown keys.
    pub config: Value,
    /// The whole `case.json`.
    pub json: Value,
    /// The arithmetic of the case: float32 unless it says float64.
    pub dtype: DType,
    tensors: BTreeMap<String, Tensor>,
}

impl Case {
    /// Reads the case in `dir`, which lies in an area's folder of `root`.
    ///
    /// # Errors
    /// If a file cannot be read, a key is unknown or missing, or a tensor has an unknown role.
    pub fn read(dir: &Path, root: &Path) -> Result<Self> {
        let path = dir.join("case.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let json: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        let table = json.as_object().with_context(|| format!("{}: expected a table", path.display()))?;
        if let Some(key) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            bail!("{}: unknown key `{key}`, known are {KEYS:?}", path.display());
        }
        let kind = json["kind"].as_str().with_context(|| format!("{}: `kind` is missing", path.display()))?.to_string();
        let config = json.get("config").cloned().with_context(|| format!("{}: `config` is missing", path.display()))?;
        let dtype = match json.get("dtype").map(Value::as_str) {
            None | Some(Some("float32")) => DType::F32,
            Some(Some("float64")) => DType::F64,
            _ => bail!("{}: `dtype` is {}, expected float32 or float64", path.display(), json["dtype"]),
        };
        let (dir, root) = (dir.to_path_buf(), root.to_path_buf());
        let (area, name) = (folder_name(dir.parent()), folder_name(Some(&dir)));
        let tensors = read_tensors(&dir.join("tensors.safetensors"))?;
        Ok(Self { area, name, dir, root, kind, config, json, dtype, tensors })
    }

    /// The configuration, for reading key by key; see [`Config::finish`].
    ///
    /// # Errors
    /// If it is no table.
    pub fn config(&self) -> Result<Config<'_>> {
        Config::new(&self.config, "config")
    }

    /// The tensor `in.<name>`.
    ///
    /// # Errors
    /// If the case has none of that name.
    pub fn input(&self, name: &str) -> Result<Tensor> {
        self.tensor(&format!("in.{name}"))
    }

    /// The tensor `in.<name>`, if the case has one.
    pub fn input_opt(&self, name: &str) -> Option<Tensor> {
        self.tensors.get(&format!("in.{name}")).cloned()
    }

    /// Names of the inputs, without `in.`, in alphabetical order.
    pub fn input_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter_map(|name| name.strip_prefix("in."))
    }

    /// A tensor of the file by its whole name. Expected outputs are for the framework to compare, not for a kind to read: use
    /// their names and shapes at most.
    ///
    /// # Errors
    /// If the case has none of that name.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.tensors.get(name).cloned().with_context(|| format!("the case has no tensor `{name}`"))
    }

    /// Names of the tensors that must be answered, `out.*` and `grad.*`, in alphabetical order.
    pub fn expected_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str).filter(|name| is_expected(name))
    }

    /// Whether the output or gradient of this whole name is expected.
    pub fn expects(&self, name: &str) -> bool {
        is_expected(name) && self.tensors.contains_key(name)
    }

    /// The answer itself, for kinds without tensors.
    ///
    /// # Errors
    /// If the case has none.
    pub fn expect(&self) -> Result<&Value> {
        self.json.get("expect").context("the case has no `expect`")
    }

    /// The parameters and batch norm statistics by their names in the checkpoint, float32: filled, or read from the file that the
    /// case names. Buffers are apart, see [`Case::buffers`].
    ///
    /// # Errors
    /// If the case has no weights, or in another form than known.
    pub fn weights(&self) -> Result<HashMap<String, Tensor>> {
        let weights = Config::new(self.json.get("weights").context("the case has no `weights`")?, "weights")?;
        weights.without_effect(&["buffers"]);
        let mut tensors = HashMap::new();
        if let Some(file) = weights.opt::<String>("file")? {
            tensors = strata_nn::weights::load(&self.file(&file)?, &Device::Cpu)?.tensors;
        } else {
            let rule: String = weights.get("fill")?;
            ensure!(rule == "splitmix64-v1", "`weights.fill` is {rule}, expected splitmix64-v1");
            for (name, shape) in weights.get::<BTreeMap<String, Vec<usize>>>("params")? {
                let values = fill::parameter(&name, &shape);
                tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
            }
        }
        for (name, shape) in weights.or("batch_norm_stats", BTreeMap::<String, Vec<usize>>::new())? {
            let values = fill::batch_norm_statistic(&name, &shape)
                .with_context(|| format!("`{name}`: expected running_mean or running_var"))?;
            tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        weights.finish()?;
        Ok(tensors)
    }

    /// The buffers of the state dict that the case gives (`buf.*`), by their names in the checkpoint.
    ///
    /// # Errors
    /// If `weights.buffers` and the tensors do not agree.
    pub fn buffers(&self) -> Result<HashMap<String, Tensor>> {
        let listed: BTreeMap<String, Vec<usize>> = match self.json.get("weights").and_then(|w| w.get("buffers")) {
            Some(value) => serde_json::from_value(value.clone()).context("`weights.buffers`")?,
            None => BTreeMap::new(),
        };
        let given: HashMap<String, Tensor> = self
            .tensors
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix("buf.")?.to_string(), tensor.clone())))
            .collect();
        for (name, shape) in &listed {
            let dims = given.get(name).map(Tensor::dims);
            ensure!(dims == Some(shape.as_slice()), "buffer `{name}`: expected {shape:?}, got {dims:?}");
        }
        ensure!(listed.len() == given.len(), "{} buffers are listed, {} are given", listed.len(), given.len());
        Ok(given)
    }

    /// Where the file or folder `relative` of the configuration lies: in the case, in its golden root, or in the project's own.
    ///
    /// # Errors
    /// If it is in none of them.
    pub fn file(&self, relative: &str) -> Result<PathBuf> {
        let own = super::Golden::own();
        let candidates = [&self.dir, &self.root, own.root()].map(|folder| folder.join(relative));
        let found = candidates.iter().find(|path| path.exists());
        found.cloned().with_context(|| format!("`{relative}` is in none of {candidates:?}"))
    }
}

fn is_expected(name: &str) -> bool {
    name.starts_with("out.") || name.starts_with("grad.")
}

fn folder_name(path: Option<&Path>) -> String {
    path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let tensors: BTreeMap<String, Tensor> = strata_nn::weights::load(path, &Device::Cpu)?.tensors.into_iter().collect();
    let known = |name: &str| is_expected(name) || name.starts_with("in.") || name.starts_with("buf.");
    let unknown: Vec<&String> = tensors.keys().filter(|name| !known(name)).collect();
    ensure!(unknown.is_empty(), "{}: tensors of unknown role: {unknown:?}", path.display());
    Ok(tensors)
}
