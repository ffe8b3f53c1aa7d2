//! Published layouts: configuration files and weight names, translated both ways.
//!
//! [`compvis`] is the layout of latent-diffusion and of Stable Diffusion's own checkpoints, [`diffusers`] that of diffusers'
//! `AutoencoderKL` and `VQModel`, [`taesd`] that of its `AutoencoderTiny`. Each gives a configuration and a [`KeyMap`].

pub mod compvis;
pub mod diffusers;
pub mod taesd;

use std::collections::{BTreeMap, HashMap};

use candle_core::Tensor;
use strata_nn::params::ParamStore;

use crate::Result;

/// The names and shapes of a network's parameters in a published layout.
#[derive(Clone, Debug)]
pub struct KeyMap {
    keys: Vec<Key>,
    /// Brings names of older files of the same layout to today's; `None`: not part of the network.
    modernise: fn(&str) -> Option<String>,
}

#[derive(Clone, Debug)]
struct Key {
    ours: String,
    theirs: String,
    dims: Vec<usize>,
}

impl KeyMap {
    /// `translate` maps one of our names and shapes to theirs.
    fn new(
        store: &ParamStore,
        translate: impl Fn(&str, &[usize]) -> (String, Vec<usize>),
        modernise: fn(&str) -> Option<String>,
    ) -> Self {
        let key = |ours: &str, dims: &[usize]| {
            let (theirs, dims) = translate(ours, dims);
            Key { ours: ours.to_string(), theirs, dims }
        };
        Self { keys: store.parameters().iter().map(|p| key(p.name(), p.var().dims())).collect(), modernise }
    }

    /// Our name of a published name.
    pub fn ours(&self, theirs: &str) -> Option<&str> {
        self.keys.iter().find(|k| k.theirs == theirs).map(|k| k.ours.as_str())
    }

    /// The published name of one of ours.
    pub fn theirs(&self, ours: &str) -> Option<&str> {
        self.keys.iter().find(|k| k.ours == ours).map(|k| k.theirs.as_str())
    }

    /// Fills `store` from published `tensors`; `origin` says in messages where they are from.
    ///
    /// # Errors
    /// One error that lists every missing, unexpected and mis-shaped tensor by its published name; then nothing is changed.
    pub fn import(&self, tensors: &HashMap<String, Tensor>, store: &ParamStore, origin: &str) -> Result<()> {
        let given: BTreeMap<String, &Tensor> =
            tensors.iter().filter_map(|(name, t)| Some(((self.modernise)(name)?, t))).collect();
        let mut problems = Vec::new();
        let mut ours = HashMap::new();
        for key in &self.keys {
            match given.get(&key.theirs) {
                None => problems.push(format!("missing `{}` {:?}", key.theirs, key.dims)),
                Some(t) if squeezed(t.dims()) != squeezed(&key.dims) => {
                    problems.push(format!("`{}`: expected {:?}, got {:?}", key.theirs, key.dims, t.dims()));
                }
                Some(&t) => drop(ours.insert(key.ours.clone(), t.clone())),
            }
        }
        let known: std::collections::BTreeSet<&str> = self.keys.iter().map(|k| k.theirs.as_str()).collect();
        problems.extend(given.keys().filter(|name| !known.contains(name.as_str())).map(|name| format!("unexpected `{name}`")));
        if !problems.is_empty() {
            return Err(strata_nn::Error::Weights { origin: origin.to_string(), problems }.into());
        }
        for p in store.parameters() {
            if let Some(t) = ours.remove(p.name()) {
                ours.insert(p.name().to_string(), t.reshape(p.var().dims())?);
            }
        }
        Ok(store.load(&ours, origin)?)
    }

    /// The parameters of `store` under their published names and shapes, in order of creation.
    pub fn export(&self, store: &ParamStore) -> Result<Vec<(String, Tensor)>> {
        let ours: HashMap<String, Tensor> = store.tensors().into_iter().collect();
        self.keys
            .iter()
            .filter_map(|k| ours.get(&k.ours).map(|t| (k, t)))
            .map(|(k, t)| Ok((k.theirs.clone(), t.reshape(k.dims.as_slice())?)))
            .collect()
    }
}

/// The shape without trailing ones: what a 1×1 convolution and a matrix have in common.
fn squeezed(dims: &[usize]) -> &[usize] {
    let kept = dims.iter().rposition(|&d| d != 1).map_or(1, |last| last + 1);
    &dims[..kept.min(dims.len())]
}
