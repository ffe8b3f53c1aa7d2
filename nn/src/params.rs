//! The registry of parameters: names to tensors, in order of creation.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use candle_core::{Device, Shape, Tensor, Var};

use crate::{
    Error, Result,
    random::{Key, fnv1a},
};

/// How a parameter begins. Fans are counted as PyTorch does: `fan_in` = product of `shape[1..]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All elements the same.
    Constant(f64),
    /// N(0, std²).
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// U(-bound, bound).
    Uniform {
        /// Half the width.
        bound: f64,
    },
    /// U(±1/sqrt(fan_in)): what PyTorch's convolution and linear layers begin with.
    FanIn,
    /// U(±scale·sqrt(6/(fan_in + fan_out))) (Glorot & Bengio 2010); the fans include the kernel area.
    Xavier {
        /// Factor on the bound.
        scale: f64,
    },
}

impl Init {
    /// Zeros.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// Ones.
    pub const ONES: Self = Self::Constant(1.0);

    fn fill(self, dims: &[usize], key: Key) -> Vec<f32> {
        let n = dims.iter().product();
        let fan_in = dims.iter().skip(1).product::<usize>().max(1) as f64;
        let area = dims.iter().skip(2).product::<usize>().max(1) as f64;
        let fan_out = dims.first().copied().unwrap_or(1) as f64 * area;
        let uniform = |bound: f64| key.uniform(n).into_iter().map(|u| ((2.0 * f64::from(u) - 1.0) * bound) as f32).collect();
        match self {
            Self::Constant(v) => vec![v as f32; n],
            Self::Normal { std } => key.normal(n).into_iter().map(|v| (f64::from(v) * std) as f32).collect(),
            Self::Uniform { bound } => uniform(bound),
            Self::FanIn => uniform(1.0 / fan_in.sqrt()),
            Self::Xavier { scale } => uniform(scale * (6.0 / (fan_in + fan_out)).sqrt()),
        }
    }
}

/// One named parameter; clones share it.
#[derive(Clone, Debug)]
pub struct Parameter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    var: Var,
    trainable: AtomicBool,
}

impl Parameter {
    /// Its path, for example `encoder.block3.conv1.weight`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The value for a forward pass. A frozen parameter is a constant: no gradient is computed for it.
    pub fn get(&self) -> Tensor {
        let in_graph = self.is_trainable() && !note_use(self);
        if in_graph { self.0.var.as_tensor().clone() } else { self.0.var.as_detached_tensor() }
    }

    /// The variable behind it, for the optimizer.
    pub fn var(&self) -> &Var {
        &self.0.var
    }

    /// Whether a gradient is wanted.
    pub fn is_trainable(&self) -> bool {
        self.0.trainable.load(Ordering::Relaxed)
    }

    /// Freezes or unfreezes it.
    pub fn set_trainable(&self, trainable: bool) {
        self.0.trainable.store(trainable, Ordering::Relaxed);
    }
}

thread_local! {
    /// The trainable parameters that were looked at since the graph was switched off on this thread.
    static USED: RefCell<Option<Vec<Parameter>>> = const { RefCell::new(None) };
}

/// Runs `f` with parameters as constants on this thread; answers also the trainable ones among them, in order of first use.
pub(crate) fn without_graph<R>(f: impl FnOnce() -> R) -> (R, Vec<Parameter>) {
    let outer = USED.replace(Some(Vec::new()));
    let result = f();
    (result, USED.replace(outer).unwrap_or_default())
}

/// Whether this thread is inside [`without_graph`].
pub(crate) fn graph_is_off() -> bool {
    USED.with_borrow(Option::is_some)
}

/// Notes the use of a trainable parameter; answers whether the graph is off.
fn note_use(p: &Parameter) -> bool {
    USED.with_borrow_mut(|used| {
        let Some(used) = used else { return false };
        if !used.iter().any(|u| Arc::ptr_eq(&u.0, &p.0)) {
            used.push(p.clone());
        }
        true
    })
}

/// All parameters of a network, in order of creation. Clones share them.
#[derive(Clone, Debug)]
pub struct ParamStore {
    parameters: Arc<Mutex<Vec<Parameter>>>,
    seed: u64,
    device: Device,
}

impl ParamStore {
    /// An empty registry. `seed` and a parameter's name decide its initial value, so the order of creation does not.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self { parameters: Arc::default(), seed, device: device.clone() }
    }

    /// The scope with an empty path.
    pub fn root(&self) -> Scope {
        Scope { store: self.clone(), path: String::new() }
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Parameter>> {
        self.parameters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parameters, in order of creation.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.lock().clone()
    }

    /// The parameters that want a gradient, in order of creation.
    pub fn trainable(&self) -> Vec<Parameter> {
        self.lock().iter().filter(|p| p.is_trainable()).cloned().collect()
    }

    /// Number of scalars in all parameters.
    pub fn element_count(&self) -> usize {
        self.lock().iter().map(|p| p.var().elem_count()).sum()
    }

    /// Marks each parameter as trainable or frozen, by name.
    pub fn set_trainable(&self, trainable: impl Fn(&str) -> bool) {
        for p in self.lock().iter() {
            p.set_trainable(trainable(p.name()));
        }
    }

    /// Freezes everything: forward passes then build no graph and keep no activations.
    pub fn freeze(&self) {
        self.set_trainable(|_| false);
    }

    /// Names and values, in order of creation.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.lock().iter().map(|p| (p.name().to_string(), p.var().as_detached_tensor())).collect()
    }

    /// Overwrites every parameter from `tensors`; nothing is changed unless all names and shapes agree.
    ///
    /// # Errors
    /// One [`Error::Weights`] that lists every missing, unexpected and mis-shaped tensor; `origin` says where they are from.
    pub fn load(&self, tensors: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
        let parameters = self.parameters();
        let known: BTreeSet<&str> = parameters.iter().map(Parameter::name).collect();
        let mut problems = Vec::new();
        for p in &parameters {
            match tensors.get(p.name()) {
                None => problems.push(format!("missing `{}` {:?}", p.name(), p.var().dims())),
                Some(t) if t.dims() != p.var().dims() => {
                    problems.push(format!("`{}`: expected {:?}, got {:?}", p.name(), p.var().dims(), t.dims()));
                }
                Some(_) => {}
            }
        }
        let unexpected: BTreeSet<&str> = tensors.keys().map(String::as_str).filter(|name| !known.contains(name)).collect();
        problems.extend(unexpected.iter().map(|name| format!("unexpected `{name}`")));
        if !problems.is_empty() {
            return Err(Error::Weights { origin: origin.to_string(), problems });
        }
        for p in &parameters {
            if let Some(t) = tensors.get(p.name()) {
                p.var().set(&t.to_dtype(p.var().dtype())?.to_device(&self.device)?)?;
            }
        }
        Ok(())
    }
}

/// A path in a [`ParamStore`] under which layers create their parameters.
#[derive(Clone, Debug)]
pub struct Scope {
    store: ParamStore,
    path: String,
}

impl Scope {
    /// The scope one step down: `pp("conv1")` of `encoder` is `encoder.conv1`.
    #[must_use]
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        Self { store: self.store.clone(), path }
    }

    /// The path of this scope.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Where parameters are created.
    pub fn device(&self) -> &Device {
        self.store.device()
    }

    /// Creates the float32 parameter `name` below this path.
    ///
    /// # Errors
    /// If the name is already taken.
    pub fn param(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Parameter> {
        let shape = shape.into();
        let name = self.pp(name).path;
        let key = Key::new(self.store.seed, "init").index(fnv1a(&name));
        let value = Tensor::from_vec(init.fill(shape.dims(), key), &shape, &self.store.device)?;
        let parameter = Parameter(Arc::new(Inner { name, var: Var::from_tensor(&value)?, trainable: AtomicBool::new(true) }));
        let mut parameters = self.store.lock();
        if parameters.iter().any(|p| p.name() == parameter.name()) {
            return Err(Error::Config(format!("parameter `{}` is created twice", parameter.name())));
        }
        parameters.push(parameter.clone());
        Ok(parameter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_reports_every_problem() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        store.root().param("a", (2, 3), Init::FanIn)?;
        store.root().param("b", 2, Init::ZEROS)?;
        let given = HashMap::from([
            ("a".to_string(), Tensor::zeros((3, 2), candle_core::DType::F32, &Device::Cpu)?),
            ("c".to_string(), Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?),
        ]);
        let message = store.load(&given, "x.safetensors").err().map(|e| e.to_string()).unwrap_or_default();
        for part in ["`a`: expected [2, 3], got [3, 2]", "missing `b`", "unexpected `c`", "x.safetensors"] {
            assert!(message.contains(part), "{message}");
        }
        Ok(())
    }

    #[test]
    fn initial_values_do_not_depend_on_the_order() -> Result<()> {
        let (one, two) = (ParamStore::new(7, &Device::Cpu), ParamStore::new(7, &Device::Cpu));
        one.root().param("a", 4, Init::Normal { std: 1.0 })?;
        let b1 = one.root().param("b", 4, Init::Normal { std: 1.0 })?;
        let b2 = two.root().param("b", 4, Init::Normal { std: 1.0 })?;
        assert_eq!(b1.get().to_vec1::<f32>()?, b2.get().to_vec1::<f32>()?);
        Ok(())
    }

    #[test]
    fn frozen_parameters_get_no_gradient() -> Result<()> {
        let store = ParamStore::new(0, &Device::Cpu);
        let a = store.root().param("a", 2, Init::ONES)?;
        let b = store.root().param("b", 2, Init::ONES)?;
        b.set_trainable(false);
        let grads = (a.get() * b.get())?.sum_all()?.backward()?;
        assert!(grads.get(a.var()).is_some() && grads.get(b.var()).is_none());
        Ok(())
    }
}
