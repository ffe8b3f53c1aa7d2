//! Nodes of candle's graph whose value was made elsewhere, and gradients that travel beside the graph.
//!
//! A [`Made`] result hangs on a token, a tensor of one element; [`Link`]s tie the token to the tensors that the result depends on.
//! In the backward pass the result's node runs first and leaves gradients in [`Slot`]s, where the links pick them up: `backward`
//! of the caller finds them in its gradient store as always.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, MetalStorage, Result, Shape, Storage, Tensor,
    backend::BackendStorage,
};

use crate::backward::lay_aside;

/// Whether the graph leads a gradient to `x`.
pub(crate) fn wants_gradient(x: &Tensor) -> bool {
    x.track_op() || x.is_variable()
}

/// The beginning of a chain of links, where `x` lies.
pub(crate) fn token(x: &Tensor) -> Result<Tensor> {
    Tensor::zeros(1, DType::F32, x.device())
}

/// A gradient between the node that computes it and the one that hands it on.
#[derive(Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Tensor>>>);

impl Slot {
    pub(crate) fn put(&self, gradient: Tensor) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
    }

    pub(crate) fn take(&self) -> Option<Tensor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Where the gradient of a link's tensor comes from.
type Source = Box<dyn Fn() -> Result<Option<Tensor>> + Send + Sync>;

/// Token and tensor to token; the gradient of the tensor is what `Source` answers when all that hangs on the token has run.
pub(crate) struct Link(Source);

impl Link {
    pub(crate) fn new(source: impl Fn() -> Result<Option<Tensor>> + Send + Sync + 'static) -> Self {
        Self(Box::new(source))
    }

    pub(crate) fn from_slot(slot: Slot) -> Self {
        Self::new(move || Ok(slot.take()))
    }
}

impl CustomOp2 for Link {
    fn name(&self) -> &'static str {
        "link"
    }

    fn cpu_fwd(&self, t: &CpuStorage, l: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((t.try_clone(l)?, l.shape().clone()))
    }

    fn cuda_fwd(&self, t: &CudaStorage, l: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((t.try_clone(l)?, l.shape().clone()))
    }

    fn metal_fwd(&self, t: &MetalStorage, l: &Layout, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        Ok((t.try_clone(l)?, l.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, x: &Tensor, _: &Tensor, token: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(token.clone()), lay_aside(x, (self.0)()?)?))
    }
}

/// What a node does with its gradient.
type Sink = Box<dyn Fn(&Tensor) -> Result<()> + Send + Sync>;

/// Token to a tensor that was made without a graph.
pub(crate) struct Made {
    /// The result, until the graph has taken it.
    y: Mutex<Option<Tensor>>,
    backward: Sink,
}

impl Made {
    /// The node of `y`, whose gradient goes to `backward`.
    pub(crate) fn new(y: Tensor, backward: impl Fn(&Tensor) -> Result<()> + Send + Sync + 'static) -> Self {
        Self { y: Mutex::new(Some(y)), backward: Box::new(backward) }
    }

    /// A copy of the result's storage that holds its elements alone.
    fn result<S: BackendStorage>(&self, of: impl Fn(&Storage) -> Result<&S>) -> Result<(S, Shape)> {
        let y = self.y.lock().unwrap_or_else(PoisonError::into_inner).take();
        let y = y.ok_or_else(|| candle_core::Error::Msg("a result made beforehand was taken twice".into()).bt())?;
        let (storage, layout) = y.storage_and_layout();
        Ok((of(&storage)?.to_dtype(layout, y.dtype())?, y.shape().clone()))
    }
}

impl CustomOp1 for Made {
    fn name(&self) -> &'static str {
        "made"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.result(|storage| match storage {
            Storage::Cpu(s) => Ok(s),
            _ => candle_core::bail!("a result made beforehand left the CPU"),
        })
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.result(|storage| match storage {
            Storage::Cuda(s) => Ok(s),
            _ => candle_core::bail!("a result made beforehand left the CUDA device"),
        })
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.result(|storage| match storage {
            Storage::Metal(s) => Ok(s),
            _ => candle_core::bail!("a result made beforehand left the Metal device"),
        })
    }

    fn bwd(&self, token: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(dy)?;
        Ok(Some(token.zeros_like()?))
    }
}
