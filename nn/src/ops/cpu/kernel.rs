//! A kernel as an operator of candle's graph.

use std::ops::Deref;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Storage, StorageRef, Tensor};

use crate::{Result, backward::lay_aside};

/// An operator of N contiguous float32 arguments, on the CPU.
pub(crate) trait Kernel<const N: usize>: Send + Sync + 'static {
    /// What errors call it.
    const NAME: &'static str;

    /// Shape of the result.
    fn shape(&self) -> Vec<usize>;

    /// The result.
    fn forward(&self, args: [&[f32]; N]) -> Vec<f32>;

    /// The gradients of the arguments that are `wanted`, from the result y and its gradient dy.
    fn backward(&self, args: [&[f32]; N], wanted: [bool; N], y: &[f32], dy: &[f32]) -> [Option<Vec<f32>>; N];
}

/// Runs a kernel of one argument and enters it into the graph.
pub(crate) fn apply1(kernel: impl Kernel<1>, x: &Tensor) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op1(Op(kernel))?)
}

/// Runs a kernel of two arguments and enters it into the graph.
pub(crate) fn apply2(kernel: impl Kernel<2>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.contiguous()?.apply_op2(&b.contiguous()?, Op(kernel))?)
}

/// Runs a kernel of three arguments and enters it into the graph.
pub(crate) fn apply3(kernel: impl Kernel<3>, a: &Tensor, b: &Tensor, c: &Tensor) -> Result<Tensor> {
    Ok(a.contiguous()?.apply_op3(&b.contiguous()?, &c.contiguous()?, Op(kernel))?)
}

struct Op<K>(K);

type Stored = candle_core::Result<(CpuStorage, Shape)>;

impl<K> Op<K> {
    fn run<const N: usize>(&self, args: [&[f32]; N]) -> (CpuStorage, Shape)
    where
        K: Kernel<N>,
    {
        (CpuStorage::F32(self.0.forward(args)), self.0.shape().into())
    }

    /// Those of variables are laid aside.
    fn gradients<const N: usize>(&self, args: [&Tensor; N], y: &Tensor, dy: &Tensor) -> candle_core::Result<[Option<Tensor>; N]>
    where
        K: Kernel<N>,
    {
        let dy = dy.contiguous()?;
        let (y, dy) = (Floats::of(y)?, Floats::of(&dy)?);
        let floats = args.iter().map(|t| Floats::of(t)).collect::<candle_core::Result<Vec<_>>>()?;
        let slices: [&[f32]; N] = std::array::from_fn(|i| &*floats[i]);
        let gradients = self.0.backward(slices, args.map(Tensor::track_op), &y, &dy);
        let mut tensors: [Option<Tensor>; N] = std::array::from_fn(|_| None);
        for ((tensor, gradient), arg) in tensors.iter_mut().zip(gradients).zip(args) {
            *tensor = lay_aside(arg, gradient.map(|g| Tensor::from_vec(g, arg.shape(), arg.device())).transpose()?)?;
        }
        Ok(tensors)
    }
}

impl<K: Kernel<1>> CustomOp1 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout) -> Stored {
        Ok(self.run([slice(a, la)?]))
    }

    fn bwd(&self, a: &Tensor, y: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.gradients([a], y, dy).map(|[a]| a)
    }
}

impl<K: Kernel<2>> CustomOp2 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Stored {
        Ok(self.run([slice(a, la)?, slice(b, lb)?]))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, dy: &Tensor) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients([a, b], y, dy).map(|[a, b]| (a, b))
    }
}

impl<K: Kernel<3>> CustomOp3 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout, c: &CpuStorage, lc: &Layout) -> Stored {
        Ok(self.run([slice(a, la)?, slice(b, lb)?, slice(c, lc)?]))
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, c: &Tensor, y: &Tensor, dy: &Tensor) -> candle_core::Result<Three> {
        self.gradients([a, b, c], y, dy).map(|[a, b, c]| (a, b, c))
    }
}

type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// The elements of a tensor, borrowed.
struct Floats<'a> {
    storage: StorageRef<'a>,
    range: std::ops::Range<usize>,
}

impl<'a> Floats<'a> {
    fn of(t: &'a Tensor) -> candle_core::Result<Self> {
        let (storage, layout) = t.storage_and_layout();
        let Storage::Cpu(cpu) = &*storage else {
            candle_core::bail!("a kernel of the CPU was handed a tensor of another device");
        };
        slice(cpu, layout)?;
        let start = layout.start_offset();
        Ok(Self { range: start..start + layout.shape().elem_count(), storage })
    }
}

impl Deref for Floats<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.range.clone()],
            _ => &[],
        }
    }
}

/// The elements of a contiguous float32 tensor.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op: "strata-nn kernel" }.bt()),
    }
}
