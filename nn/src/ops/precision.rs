//! Activations in half precision with float32 parameters: what every device does where it has no kernel for it.
//!
//! An operator's result has the type of its activations. Parameters stay float32: those of a product are rounded to that type,
//! as the card's tensor cores take them, all others are used as they are; sums are float32. A parameter's gradient is float32.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Shape, Tensor};

use crate::Result;

/// Whether x is of a type with fewer than 32 bits.
pub(super) fn is_narrow(x: &Tensor) -> bool {
    matches!(x.dtype(), DType::BF16 | DType::F16)
}

/// x in float32.
pub(super) fn widened(x: &Tensor) -> Result<Tensor> {
    Ok(x.to_dtype(DType::F32)?)
}

/// A parameter with the values that `dtype` can hold, in float32; its gradient is not rounded.
pub(super) fn rounded(parameter: &Tensor, dtype: DType) -> Result<Tensor> {
    let parameter = widened(parameter)?;
    let values = parameter.detach().to_dtype(dtype)?.to_dtype(DType::F32)?;
    Ok(parameter.contiguous()?.apply_op1(Straight(values))?)
}

/// Answers other values than its argument's, and passes gradients through.
struct Straight(Tensor);

impl CustomOp1 for Straight {
    fn name(&self) -> &'static str {
        "rounded"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let values = self.0.flatten_all()?.to_vec1::<f32>()?;
        Ok((CpuStorage::F32(values), self.0.shape().clone()))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let (storage, layout) = self.0.storage_and_layout();
        match &*storage {
            candle_core::Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, self.0.shape().clone())),
            _ => candle_core::bail!("a parameter and its rounded values lie on different devices"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(gradient.clone()))
    }
}
