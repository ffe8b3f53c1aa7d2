//! Parameters under the names of a published checkpoint, both ways.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use candle_core::Tensor;
use strata_nn::params::ParamStore;

use crate::{Error, Result};

/// How the rows of a tensor lie in the published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// As ours.
    Same,
    /// q, k and v of head 0, then of head 1, ...; ours are all q, all k, all v.
    QkvPerHead(usize),
}

/// Translates between our modules (`encoder.block0.conv1`) and published ones (`input_blocks.1.0.in_layers.2`). The map may know
/// more modules than a network has; a parameter is found by its module, and `weight` and `bias` keep their names.
#[derive(Clone, Debug, Default)]
pub struct KeyMap {
    modules: BTreeMap<String, (String, Rows)>,
    unused: BTreeMap<String, Vec<usize>>,
}

impl KeyMap {
    pub(crate) fn insert(&mut self, ours: impl Into<String>, published: impl Into<String>, rows: Rows) {
        self.modules.insert(ours.into(), (published.into(), rows));
    }

    /// A tensor of the published checkpoint that takes no part in the computation.
    pub(crate) fn insert_unused(&mut self, published: impl Into<String>, shape: &[usize]) {
        self.unused.insert(published.into(), shape.to_vec());
    }

    /// Overwrites the parameters in `store` from a published checkpoint; nothing is changed unless everything fits.
    ///
    /// # Errors
    /// One that lists every missing, unexpected and mis-shaped tensor, under the published names.
    pub fn load(&self, store: &ParamStore, published: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
        let (mut problems, mut used, mut ours) = (Vec::new(), BTreeSet::new(), HashMap::new());
        for p in store.parameters() {
            let (name, rows) = self.published(p.name())?;
            match published.get(&name) {
                None => problems.push(format!("missing `{name}` {:?}", p.var().dims())),
                Some(t) if t.dims() != p.var().dims() => {
                    problems.push(format!("`{name}`: expected {:?}, got {:?}", p.var().dims(), t.dims()));
                }
                Some(t) => {
                    ours.insert(p.name().to_string(), rows.import(t)?);
                }
            }
            used.insert(name);
        }
        for (name, t) in published.iter().collect::<BTreeMap<_, _>>() {
            match self.unused.get(name) {
                Some(shape) if t.dims() != shape => {
                    problems.push(format!("`{name}`: expected {shape:?}, got {:?}", t.dims()));
                }
                None if !used.contains(name) => problems.push(format!("unexpected `{name}`")),
                _ => {}
            }
        }
        if problems.is_empty() {
            return Ok(store.load(&ours, origin)?);
        }
        Err(strata_nn::Error::Weights { origin: origin.to_string(), problems }.into())
    }

    /// The tensors of our `names` (parameters, their averages or gradients) under published names and in the published layout.
    /// What the published network has but does not use is not among them.
    ///
    /// # Errors
    /// If a name has no counterpart.
    pub fn export(&self, tensors: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
        let one = |(name, t): &(String, Tensor)| {
            let (name, rows) = self.published(name)?;
            Ok((name, rows.export(t)?))
        };
        tensors.iter().map(one).collect()
    }

    /// The tensors that a published checkpoint has without using them, as zeros: with [`KeyMap::export`] of all parameters
    /// they make it complete.
    pub fn unused(&self) -> Result<Vec<(String, Tensor)>> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu);
        self.unused.iter().map(|(name, shape)| Ok((name.clone(), zeros(shape)?))).collect()
    }

    fn published(&self, parameter: &str) -> Result<(String, Rows)> {
        let (module, leaf) = parameter.rsplit_once('.').unwrap_or((parameter, ""));
        match self.modules.get(module) {
            Some((published, rows)) => Ok((format!("{published}.{leaf}"), *rows)),
            None => Err(Error::Config(format!("parameter `{parameter}` has no published name"))),
        }
    }
}

impl Rows {
    fn import(self, t: &Tensor) -> Result<Tensor> {
        match self {
            Self::Same => Ok(t.clone()),
            Self::QkvPerHead(heads) => permute_rows(t, heads, 3),
        }
    }

    fn export(self, t: &Tensor) -> Result<Tensor> {
        match self {
            Self::Same => Ok(t.clone()),
            Self::QkvPerHead(heads) => permute_rows(t, 3, heads),
        }
    }
}

/// Rows counted as `[outer, inner, d]` become `[inner, outer, d]`.
fn permute_rows(t: &Tensor, outer: usize, inner: usize) -> Result<Tensor> {
    let d = t.dim(0)? / (outer * inner);
    Ok(t.reshape((outer, inner, d, ()))?.transpose(0, 1)?.contiguous()?.reshape(t.shape())?)
}
