//! An operator of kernels as one of candle's graph.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, StorageRef, Tensor,
};

use super::device::{Buffer, Card, View};
use crate::backward::lay_aside;

/// An operator of N contiguous arguments.
pub(super) trait Operator<const N: usize>: Send + Sync + 'static {
    /// What errors call it.
    const NAME: &'static str;

    /// Shape of the result.
    fn shape(&self) -> Vec<usize>;

    /// The result.
    fn forward(&self, card: &Card, args: [View<'_>; N]) -> Result<Buffer>;

    /// The gradients of the arguments that are `wanted`, each in its argument's type, from the result y and its gradient dy.
    fn backward(
        &self,
        card: &Card,
        args: [View<'_>; N],
        wanted: [bool; N],
        y: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; N]>;
}

/// Runs an operator of one argument and enters it into the graph.
pub(super) fn apply1(operator: impl Operator<1>, x: &Tensor) -> crate::Result<Tensor> {
    Ok(x.contiguous()?.apply_op1(Op(operator))?)
}

/// Runs an operator of two arguments and enters it into the graph.
pub(super) fn apply2(operator: impl Operator<2>, a: &Tensor, b: &Tensor) -> crate::Result<Tensor> {
    Ok(a.contiguous()?.apply_op2(&b.contiguous()?, Op(operator))?)
}

/// Runs an operator of three arguments and enters it into the graph.
pub(super) fn apply3(operator: impl Operator<3>, a: &Tensor, b: &Tensor, c: &Tensor) -> crate::Result<Tensor> {
    Ok(a.contiguous()?.apply_op3(&b.contiguous()?, &c.contiguous()?, Op(operator))?)
}

struct Op<K>(K);

impl<K> Op<K> {
    fn run<const N: usize>(&self, args: [View<'_>; N]) -> Result<(Storage, Shape)>
    where
        K: Operator<N>,
    {
        Ok((self.0.forward(&args[0].card(), args)?.into_storage(), self.0.shape().into()))
    }

    /// Those of variables are laid aside.
    fn gradients<const N: usize>(&self, args: [&Tensor; N], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; N]>
    where
        K: Operator<N>,
    {
        let dy = dy.contiguous()?;
        let wanted = args.map(Tensor::track_op);
        let held: [Held<'_>; N] = args.map(Held::of);
        let (y, dy) = (Held::of(y), Held::of(&dy));
        let views = held.iter().map(Held::view).collect::<Result<Vec<_>>>()?;
        let views: [View<'_>; N] = std::array::from_fn(|i| views[i]);
        let gradients = self.0.backward(&views[0].card(), views, wanted, y.view()?, dy.view()?)?;
        drop(held);
        let mut tensors: [Option<Tensor>; N] = std::array::from_fn(|_| None);
        for ((tensor, gradient), arg) in tensors.iter_mut().zip(gradients).zip(args) {
            *tensor = lay_aside(arg, gradient.map(|g| into_tensor(g, arg)).transpose()?)?;
        }
        Ok(tensors)
    }
}

/// The elements of a tensor, borrowed.
pub(super) struct Held<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Held<'a> {
    pub fn of(t: &'a Tensor) -> Self {
        let (storage, layout) = t.storage_and_layout();
        Self { storage, layout }
    }

    /// # Errors
    /// If the tensor is not contiguous, or lies on a device without kernels.
    pub fn view(&self) -> Result<View<'_>> {
        View::of(&self.storage, self.layout)
    }
}

/// Memory as a tensor of the shape of `like`, outside the graph. Candle makes tensors of storage in operators alone: this is one
/// that answers what it was given.
pub(super) fn into_tensor(buffer: Buffer, like: &Tensor) -> Result<Tensor> {
    let given = std::sync::Mutex::new(Some(buffer.into_storage()));
    like.apply_op1_no_bwd(&Given { storage: given, shape: like.shape().clone() })
}

struct Given {
    storage: std::sync::Mutex<Option<Storage>>,
    shape: Shape,
}

impl Given {
    fn take(&self) -> Result<(Storage, Shape)> {
        let storage = self.storage.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        Ok((storage.ok_or_else(super::device::elsewhere)?, self.shape.clone()))
    }
}

impl CustomOp1 for Given {
    fn name(&self) -> &'static str {
        "gradient"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.take()?)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        on_cuda(self.take()?)
    }
}

fn on_cpu((storage, shape): (Storage, Shape)) -> Result<(CpuStorage, Shape)> {
    match storage {
        Storage::Cpu(storage) => Ok((storage, shape)),
        _ => Err(super::device::elsewhere()),
    }
}

fn on_cuda((storage, shape): (Storage, Shape)) -> Result<(CudaStorage, Shape)> {
    match storage {
        Storage::Cuda(storage) => Ok((storage, shape)),
        _ => Err(super::device::elsewhere()),
    }
}

/// A contiguous argument on the machine itself: what the emulation takes.
#[cfg(feature = "emulate")]
fn host<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<View<'a>> {
    View::contiguous(super::device::Memory::Emulated(storage), layout)
}

#[cfg(not(feature = "emulate"))]
fn host<'a>(_: &'a CpuStorage, _: &Layout) -> Result<View<'a>> {
    Err(super::device::elsewhere())
}

#[cfg(feature = "cuda")]
fn card<'a>(storage: &'a CudaStorage, layout: &Layout) -> Result<View<'a>> {
    View::contiguous(super::device::Memory::Nvidia(storage), layout)
}

#[cfg(not(feature = "cuda"))]
fn card<'a>(_: &'a CudaStorage, _: &Layout) -> Result<View<'a>> {
    Err(super::device::elsewhere())
}

impl<K: Operator<1>> CustomOp1 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.run([host(a, la)?])?)
    }

    fn cuda_fwd(&self, a: &CudaStorage, la: &Layout) -> Result<(CudaStorage, Shape)> {
        on_cuda(self.run([card(a, la)?])?)
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        self.gradients([a], y, dy).map(|[a]| a)
    }
}

impl<K: Operator<2>> CustomOp2 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.run([host(a, la)?, host(b, lb)?])?)
    }

    fn cuda_fwd(&self, a: &CudaStorage, la: &Layout, b: &CudaStorage, lb: &Layout) -> Result<(CudaStorage, Shape)> {
        on_cuda(self.run([card(a, la)?, card(b, lb)?])?)
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients([a, b], y, dy).map(|[a, b]| (a, b))
    }
}

impl<K: Operator<3>> CustomOp3 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        on_cpu(self.run([host(a, la)?, host(b, lb)?, host(c, lc)?])?)
    }

    fn cuda_fwd(
        &self,
        a: &CudaStorage,
        la: &Layout,
        b: &CudaStorage,
        lb: &Layout,
        c: &CudaStorage,
        lc: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        on_cuda(self.run([card(a, la)?, card(b, lb)?, card(c, lc)?])?)
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, c: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Three> {
        self.gradients([a, b, c], y, dy).map(|[a, b, c]| (a, b, c))
    }
}

type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// A parameter in the type that kernels take parameters in.
pub(super) fn float(t: &Tensor) -> crate::Result<Tensor> {
    Ok(t.to_dtype(DType::F32)?)
}
