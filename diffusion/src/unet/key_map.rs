//! Parameters under the names of a published checkpoint, both ways.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use candle_core::{DType, Device, Tensor};
use strata_nn::params::ParamStore;

use super::{Family, UNetConfig, published};
use crate::{Error, Result};

/// How the numbers of our tensor lie in the published checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As ours.
    Same,
    /// q, k and v of head 0, then of head 1, ...; ours are all q, all k, all v.
    QkvPerHead(usize),
    /// Head by head, the rows q, k, v of channel 0, then of channel 1, ...
    QkvInterleaved(usize),
    /// One matrix or vector for each part of our rows.
    Rows,
    /// Transposed matrices `W` with vectors `b` (score-SDE's NIN), one for each part of our rows.
    Nin,
}

/// Translates between our modules (`encoder.block0.conv1`) and published ones (`input_blocks.1.0.in_layers.2`). The map may know
/// more modules than a network has; a parameter is found by its module, and `weight` and `bias` keep their names.
#[derive(Clone, Debug, Default)]
pub struct KeyMap {
    modules: BTreeMap<String, (Vec<String>, Layout)>,
    /// Whole names, for what is neither a weight nor a bias.
    tensors: BTreeMap<String, String>,
    unused: BTreeMap<String, Tensor>,
}

impl KeyMap {
    pub(crate) fn insert(&mut self, ours: impl Into<String>, published: impl Into<String>, layout: Layout) {
        self.insert_parts(ours, vec![published.into()], layout);
    }

    /// Several published modules whose rows follow each other in ours.
    pub(crate) fn insert_parts(&mut self, ours: impl Into<String>, published: Vec<String>, layout: Layout) {
        self.modules.insert(ours.into(), (published, layout));
    }

    pub(crate) fn insert_tensor(&mut self, ours: impl Into<String>, published: impl Into<String>) {
        self.tensors.insert(ours.into(), published.into());
    }

    /// A tensor of the published checkpoint that takes no part in the computation, as it is when it is written.
    pub(crate) fn insert_unused(&mut self, published: impl Into<String>, value: Tensor) {
        self.unused.insert(published.into(), value);
    }

    /// The same, all zeros.
    pub(crate) fn insert_unused_zeros(&mut self, published: impl Into<String>, shape: &[usize]) -> Result<()> {
        self.insert_unused(published, Tensor::zeros(shape, DType::F32, &Device::Cpu)?);
        Ok(())
    }

    /// The same map for names that have `prefix` in front, for example `model.diffusion_model.` or `module.`.
    #[must_use]
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        let all = self.modules.values_mut().flat_map(|(names, _)| names).chain(self.tensors.values_mut());
        all.for_each(|name| name.insert_str(0, prefix));
        self.unused = self.unused.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value)).collect();
        self
    }

    /// The same map for parameters of ours that have `scope` in front, for example `unet.`.
    #[must_use]
    pub(crate) fn below(self, scope: &str) -> Self {
        let modules = self.modules.into_iter().map(|(name, to)| (format!("{scope}{name}"), to)).collect();
        let tensors = self.tensors.into_iter().map(|(name, to)| (format!("{scope}{name}"), to)).collect();
        Self { modules, tensors, ..self }
    }

    /// The names in a published checkpoint of the network `config`: in latent diffusion's with `model.diffusion_model.` in front, in
    /// EDM's with the `model.` of the wrapper, in score-SDE's and diffusers' of the bare module. Several decoders are those of the multistage
    /// code.
    ///
    /// # Errors
    /// If the names depend on `unet.size`, which is not given.
    pub fn published(config: &UNetConfig) -> Result<Self> {
        let several = config.decoders.len() > 1;
        match config.family {
            Family::Ldm => Ok(published::ldm::key_map(config, several, false)?.with_prefix("model.diffusion_model.")),
            Family::Song | Family::Adm => {
                let size =
                    config.size.ok_or_else(|| Error::Config("`unet.size`: must be given, since names depend on it".into()))?;
                published::edm::key_map(config, size, several)
            }
            Family::Diffusers => published::diffusers::key_map(config),
            Family::Ncsnpp => {
                let mut map = published::score_sde::key_map(config, several);
                // The table of noise levels, which nothing uses.
                map.insert_unused_zeros("sigmas", &[1000])?;
                Ok(map)
            }
        }
    }

    /// The same map with a table of classes, which is no part of the network.
    #[must_use]
    pub(crate) fn with_classes(mut self, ours: &str, published: &str) -> Self {
        self.insert(ours, published, Layout::Same);
        self
    }

    /// Overwrites the parameters in `store` from a published checkpoint; nothing is changed unless everything fits. Tensors that
    /// the published network has without using them may be there or not.
    ///
    /// # Errors
    /// One that lists every missing, unexpected and mis-shaped tensor, under the published names.
    pub fn load(&self, store: &ParamStore, published: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
        let (mut problems, mut used, mut ours) = (Vec::new(), BTreeSet::new(), HashMap::new());
        for p in store.parameters() {
            let place = self.place(p.name())?;
            let before = problems.len();
            let expected = place.shape(p.var().dims());
            for name in &place.names {
                match published.get(name) {
                    None => problems.push(format!("missing `{name}` {expected:?}")),
                    Some(t) if t.dims() != expected => {
                        problems.push(format!("`{name}`: expected {expected:?}, got {:?}", t.dims()));
                    }
                    Some(_) => {}
                }
            }
            if problems.len() == before {
                let parts: Vec<&Tensor> = place.names.iter().filter_map(|name| published.get(name)).collect();
                ours.insert(p.name().to_string(), place.import(&parts, p.var().dims())?);
            }
            used.extend(place.names);
        }
        problems.extend(self.unexpected(published, &used));
        if problems.is_empty() {
            return Ok(store.load(&ours, origin)?);
        }
        Err(strata_nn::Error::Weights { origin: origin.to_string(), problems }.into())
    }

    fn unexpected(&self, published: &HashMap<String, Tensor>, used: &BTreeSet<String>) -> Vec<String> {
        let sorted: BTreeMap<_, _> = published.iter().filter(|(name, _)| !used.contains(*name)).collect();
        let unused = |name: &str| self.unused.get(name);
        let problem = |(name, t): (&String, &Tensor)| match unused(name) {
            Some(known) if t.dims() == known.dims() => None,
            Some(known) => Some(format!("`{name}`: expected {:?}, got {:?}", known.dims(), t.dims())),
            None => Some(format!("unexpected `{name}`")),
        };
        sorted.into_iter().filter_map(problem).collect()
    }

    /// The tensors of our names (parameters, their averages or gradients) under published names and in the published layout.
    /// What the published network has but does not use is not among them.
    ///
    /// # Errors
    /// If a name has no counterpart.
    pub fn export(&self, tensors: &[(String, Tensor)]) -> Result<Vec<(String, Tensor)>> {
        let mut all = Vec::with_capacity(tensors.len());
        for (name, t) in tensors {
            let place = self.place(name)?;
            let parts = place.export(t)?;
            all.extend(place.names.into_iter().zip(parts));
        }
        Ok(all)
    }

    /// The tensors that a published checkpoint has without using them: with [`KeyMap::export`] of all parameters they make it
    /// complete.
    pub fn unused(&self) -> Vec<(String, Tensor)> {
        self.unused.clone().into_iter().collect()
    }

    fn place(&self, parameter: &str) -> Result<Place> {
        if let Some(published) = self.tensors.get(parameter) {
            return Ok(Place { names: vec![published.clone()], layout: Layout::Same });
        }
        let (module, leaf) = parameter.rsplit_once('.').unwrap_or((parameter, ""));
        let Some((published, layout)) = self.modules.get(module) else {
            return Err(Error::Config(format!("parameter `{parameter}` has no published name")));
        };
        let leaf = match (layout, leaf) {
            (Layout::Nin, "weight") => "W",
            (Layout::Nin, "bias") => "b",
            (_, leaf) => leaf,
        };
        let names = published.iter().map(|module| format!("{module}.{leaf}")).collect();
        Ok(Place { names, layout: *layout })
    }
}

/// Where the numbers of one of our tensors are in the published checkpoint.
struct Place {
    names: Vec<String>,
    layout: Layout,
}

impl Place {
    /// Shape of each published tensor of ours of shape `dims`.
    fn shape(&self, dims: &[usize]) -> Vec<usize> {
        match (self.layout, dims) {
            (Layout::Nin, &[rows, columns, ..]) => vec![columns, rows / self.names.len()],
            (Layout::Nin | Layout::Rows, &[rows]) => vec![rows / self.names.len()],
            (Layout::Rows, &[rows, columns, ..]) => vec![rows / self.names.len(), columns],
            _ => dims.to_vec(),
        }
    }

    fn import(&self, parts: &[&Tensor], dims: &[usize]) -> Result<Tensor> {
        match (self.layout, parts) {
            (Layout::QkvPerHead(heads), [t]) => permute_rows(t, [heads, 3, rows(t, 3 * heads)], [1, 0, 2]),
            (Layout::QkvInterleaved(heads), [t]) => permute_rows(t, [heads, rows(t, 3 * heads), 3], [2, 0, 1]),
            (Layout::Nin, parts) => {
                let parts = parts.iter().map(|t| if t.rank() == 2 { Ok(t.t()?) } else { Ok((*t).clone()) });
                Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?.reshape(dims)?)
            }
            (Layout::Rows, parts) => Ok(Tensor::cat(parts, 0)?.reshape(dims)?),
            (_, [t]) => Ok((*t).clone()),
            (layout, parts) => Err(Error::Config(format!("{} tensors cannot be one in the layout {layout:?}", parts.len()))),
        }
    }

    fn export(&self, t: &Tensor) -> Result<Vec<Tensor>> {
        match self.layout {
            Layout::Same => Ok(vec![t.clone()]),
            Layout::QkvPerHead(heads) => Ok(vec![permute_rows(t, [3, heads, rows(t, 3 * heads)], [1, 0, 2])?]),
            Layout::QkvInterleaved(heads) => Ok(vec![permute_rows(t, [3, heads, rows(t, 3 * heads)], [1, 2, 0])?]),
            Layout::Rows => {
                let flat = |part: Tensor| if part.rank() > 2 { part.flatten_from(1) } else { Ok(part) };
                Ok(t.chunk(self.names.len(), 0)?.into_iter().map(flat).collect::<candle_core::Result<_>>()?)
            }
            Layout::Nin => {
                let turned = |part: Tensor| if part.rank() > 1 { part.flatten_from(1)?.t()?.contiguous() } else { Ok(part) };
                Ok(t.chunk(self.names.len(), 0)?.into_iter().map(turned).collect::<candle_core::Result<_>>()?)
            }
        }
    }
}

/// Rows of `t` for each of `n`.
fn rows(t: &Tensor, n: usize) -> usize {
    t.dims().first().map_or(0, |rows| rows / n)
}

/// The rows counted by three indices, in another order of these.
fn permute_rows(t: &Tensor, [a, b, c]: [usize; 3], order: [usize; 3]) -> Result<Tensor> {
    let [i, j, k] = order;
    Ok(t.reshape((a, b, c, ()))?.permute((i, j, k, 3))?.contiguous()?.reshape(t.shape())?)
}
