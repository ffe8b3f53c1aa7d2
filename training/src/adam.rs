//! The state of Adam for one tensor, and one step of it: on the host as a sweep in place, elsewhere as tensor operators
//! (unless [`card`](crate::card) does the steps of all tensors at once).

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Tensor, Var};
use strata_nn::multi_tensor;

use crate::{
    Result,
    ema::Average,
    gradients::{Sanitize, wrong_dtype},
    host::{Real, on_host},
    sweep::{AdamStep, Borrow, Coefficients, Moments},
};

/// Moments live as vectors where the sweep runs on the host, as tensors elsewhere.
#[derive(Debug)]
pub(crate) enum State {
    F32(Moments<f32>),
    F64(Moments<f64>),
    Device { mean: Tensor, square: Tensor, peak: Option<Tensor> },
}

/// What one step of one tensor is done with; `k` counts the steps of this tensor from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub decoupled: bool,
    pub lr: f64,
    pub weight_decay: f64,
    pub clip: f64,
    pub k: u64,
    pub sanitize: Option<Sanitize>,
}

impl Rates {
    /// The same in the tensor's precision, with what follows from k.
    pub fn coefficients<T: Real>(&self) -> Coefficients<T> {
        let k = self.k as f64;
        let shrink = if self.decoupled { 1.0 - self.lr * self.weight_decay } else { 1.0 };
        Coefficients {
            beta1: T::from_double(self.beta1),
            one_minus_beta1: T::from_double(1.0 - self.beta1),
            beta2: T::from_double(self.beta2),
            one_minus_beta2: T::from_double(1.0 - self.beta2),
            eps: T::from_double(self.eps),
            step_size: T::from_double(self.lr / (1.0 - self.beta1.powf(k))),
            root_correction2: T::from_double((1.0 - self.beta2.powf(k)).sqrt()),
            shrink: T::from_double(shrink),
            l2: T::from_double(if self.decoupled { 0.0 } else { self.weight_decay }),
            clip: T::from_double(self.clip),
        }
    }
}

impl State {
    /// Zeros. Errors if `var` is neither float32 nor float64.
    pub fn new(var: &Var, amsgrad: bool) -> Result<Self> {
        match var.dtype() {
            DType::F32 | DType::F64 if !on_host(var) || multi_tensor::applies(var) => {
                let zeros = || var.as_detached_tensor().zeros_like();
                Ok(Self::Device { mean: zeros()?, square: zeros()?, peak: amsgrad.then(zeros).transpose()? })
            }
            DType::F32 => Ok(Self::F32(Moments::unused(amsgrad))),
            DType::F64 => Ok(Self::F64(Moments::unused(amsgrad))),
            other => Err(wrong_dtype(other)),
        }
    }

    /// One step of `var` along the contiguous `grad`, and of its average where there is one.
    pub fn step(&mut self, var: &Var, grad: &Tensor, rates: &Rates, average: Option<&mut Average<'_>>) -> Result<()> {
        match self {
            Self::F32(moments) => sweep(var, grad, moments, rates, average),
            Self::F64(moments) => sweep(var, grad, moments, rates, average),
            Self::Device { mean, square, peak } => {
                on_device(var, grad, (mean, square, peak), rates)?;
                average.map_or(Ok(()), |average| average.update(var))
            }
        }
    }

    /// Copies of the moments in the shape of `var`, by the end of their names.
    pub fn tensors(&self, var: &Var) -> Result<Vec<(&'static str, Tensor)>> {
        match self {
            Self::F32(moments) => moments.tensors(var),
            Self::F64(moments) => moments.tensors(var),
            Self::Device { mean, square, peak } => {
                Ok([("exp_avg", Some(mean)), ("exp_avg_sq", Some(square)), ("max_exp_avg_sq", peak.as_ref())]
                    .into_iter()
                    .filter_map(|(name, t)| Some(t?.copy().map(|t| (name, t))))
                    .collect::<candle_core::Result<_>>()?)
            }
        }
    }

    /// Takes the moments from `tensor`, which answers by the end of the name and the shape has been checked of.
    pub fn load(&mut self, var: &Var, tensor: impl Fn(&str) -> Result<Tensor>) -> Result<()> {
        match self {
            Self::F32(moments) => moments.load(tensor),
            Self::F64(moments) => moments.load(tensor),
            Self::Device { mean, square, peak } => {
                let fetch =
                    |name: &str| -> Result<Tensor> { Ok(tensor(name)?.to_dtype(var.dtype())?.to_device(var.device())?.copy()?) };
                *mean = fetch("exp_avg")?;
                *square = fetch("exp_avg_sq")?;
                if let Some(peak) = peak {
                    *peak = fetch("max_exp_avg_sq")?;
                }
                Ok(())
            }
        }
    }
}

impl<T: Real> Moments<T> {
    /// Zeros that take no memory before the first step: a stage that is not trained has none.
    const fn unused(amsgrad: bool) -> Self {
        Self { mean: Vec::new(), square: Vec::new(), peak: Vec::new(), amsgrad }
    }

    fn begin(&mut self, n: usize) {
        if self.mean.is_empty() {
            let zeros = |n| vec![T::from_double(0.0); n];
            *self = Self { mean: zeros(n), square: zeros(n), peak: zeros(if self.amsgrad { n } else { 0 }), ..*self };
        }
    }

    fn tensors(&self, var: &Var) -> Result<Vec<(&'static str, Tensor)>> {
        let copy = |data: &Vec<T>| match data.is_empty() {
            true => Tensor::zeros(var.shape(), var.dtype(), var.device()),
            false => Tensor::from_slice(data, var.shape(), var.device()),
        };
        let mut tensors = vec![("exp_avg", copy(&self.mean)?), ("exp_avg_sq", copy(&self.square)?)];
        if self.amsgrad {
            tensors.push(("max_exp_avg_sq", copy(&self.peak)?));
        }
        Ok(tensors)
    }

    fn load(&mut self, tensor: impl Fn(&str) -> Result<Tensor>) -> Result<()> {
        let fetch = |name: &str| -> Result<Vec<T>> { Ok(tensor(name)?.to_dtype(T::DTYPE)?.flatten_all()?.to_vec1()?) };
        self.mean = fetch("exp_avg")?;
        self.square = fetch("exp_avg_sq")?;
        if self.amsgrad {
            self.peak = fetch("max_exp_avg_sq")?;
        }
        Ok(())
    }
}

fn sweep<T: Real>(
    var: &Var,
    grad: &Tensor,
    moments: &mut Moments<T>,
    rates: &Rates,
    average: Option<&mut Average<'_>>,
) -> Result<()> {
    moments.begin(var.elem_count());
    let (coefficients, replace) = (rates.coefficients(), rates.sanitize.map(Sanitize::replace));
    let Some(average) = average else {
        return Ok(var.inplace_op2(grad, &AdamStep { coefficients, moments: Mutex::new(moments), replace, average: None })?);
    };
    let (blend, moments) = (average.blend::<T>(), Mutex::new(moments));
    let step = |e: &mut [T]| {
        let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
        let average = Some((Mutex::new(e), blend));
        var.inplace_op2(grad, &AdamStep { coefficients, moments: Mutex::new(&mut **moments), replace, average })
    };
    Ok(average.tensor.inplace_op1(&Borrow::<_, T>::new(step))?)
}

type DeviceMoments<'a> = (&'a mut Tensor, &'a mut Tensor, &'a mut Option<Tensor>);

fn on_device(var: &Var, grad: &Tensor, (mean, square, peak): DeviceMoments<'_>, rates: &Rates) -> Result<()> {
    let c = rates.coefficients::<f64>();
    let p = var.as_detached_tensor();
    let grad = match rates.sanitize {
        Some(sanitize) => sanitize.apply(grad)?,
        None => grad.clone(),
    };
    let g = (grad.affine(c.clip, 0.0)? + p.affine(c.l2, 0.0)?)?;
    *mean = (mean.affine(c.beta1, 0.0)? + g.affine(c.one_minus_beta1, 0.0)?)?;
    *square = (square.affine(c.beta2, 0.0)? + g.sqr()?.affine(c.one_minus_beta2, 0.0)?)?;
    let v_hat = match peak {
        Some(peak) => {
            *peak = peak.maximum(&*square)?;
            peak.clone()
        }
        None => square.clone(),
    };
    let denominator = v_hat.sqrt()?.affine(1.0 / c.root_correction2, c.eps)?;
    let change = (&*mean / denominator)?.affine(c.step_size, 0.0)?;
    Ok(var.set(&(p.affine(c.shrink, 0.0)? - change)?)?)
}
