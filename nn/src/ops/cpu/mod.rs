//! Float32 kernels for the CPU, over slices. Work is cut into pieces that depend on the shapes alone, so that a result is the
//! same bits whatever the number of threads.

pub(super) mod activation;
pub(super) mod attention;
mod bias;
pub(super) mod convolution;
mod exp;
mod few;
pub(super) mod fir;
mod gather;
mod gemm;
pub(super) mod group_norm;
pub(super) mod kernel;
pub(super) mod layer_norm;
pub(super) mod linear;
pub(super) mod loss;
mod narrow;
pub(super) mod pool;
mod reduce;
pub(super) mod resample;
mod scratch;
pub(crate) mod simd;
mod weights;
mod winograd;

use candle_core::{DType, Tensor};

/// Whether the kernels of this module apply: float32 on the CPU.
pub(super) fn applies(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && t.device().is_cpu())
}
