//! Float32 kernels for the CPU, over slices. Work is cut into pieces that depend on the shapes alone, so that a result is the
//! same bits whatever the number of threads.

pub(super) mod convolution;
pub(super) mod gather;
pub(super) mod gemm;
pub(super) mod reduce;

use std::cell::RefCell;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

/// Whether the kernels of this module apply: float32 on the CPU.
pub(super) fn applies(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && t.device().is_cpu())
}

/// The elements of a contiguous float32 tensor.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op: "strata-nn kernel" }.bt()),
    }
}

thread_local! {
    static SCRATCH: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on `n` floats of this thread's scratch memory, of any content. Calls may nest.
pub(super) fn with_scratch<R>(n: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.with(|s| s.borrow_mut().pop()).unwrap_or_default();
    if buffer.len() < n {
        buffer.resize(n, 0.0);
    }
    let result = f(&mut buffer[..n]);
    SCRATCH.with(|s| s.borrow_mut().push(buffer));
    result
}

/// Sum over all dimensions but the last: the gradient of a bias.
pub(super) struct ColumnSums;

impl CustomOp1 for ColumnSums {
    fn name(&self) -> &'static str {
        "column sums"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(1);
        Ok((CpuStorage::F32(reduce::column_sums(slice(x, layout)?, width)), width.into()))
    }
}
