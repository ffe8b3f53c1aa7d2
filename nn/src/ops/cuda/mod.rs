//! Kernels for CUDA cards, channels last, in float32 and bfloat16: sums in float32, products through cuBLAS, convolutions through
//! cuDNN (feature `cudnn`) or as products of windows. Activations are of either type, parameters are float32 and are rounded
//! where the product is; every gradient has the type of its argument. Nothing is summed by atomic additions, and cuDNN is
//! held to its deterministic algorithms, so that a result is the same bits each time.
//!
//! The feature `emulate` runs the same host code and the same sources on this machine ([`emulate`]); the tests of nn/ then
//! cover everything here but the calls of CUDA's libraries.

mod activation;
mod attention;
mod convolution;
#[cfg(feature = "cudnn")]
mod cudnn;
mod device;
mod dropout;
#[cfg(feature = "emulate")]
mod emulate;
mod fir;
mod gemm;
mod linear;
mod loss;
#[cfg(feature = "nccl")]
pub(crate) mod nccl;
mod normalization;
#[cfg(feature = "cuda")]
mod nvidia;
mod operator;
pub(crate) mod optimizer;
mod resample;
mod sources;
mod sums;

pub(super) use activation::{geglu, pointwise};
pub(super) use attention::{Sizes, attention};
pub(super) use convolution::conv2d;
pub(super) use dropout::dropout;
pub(super) use fir::fir_resample;
pub(super) use linear::linear;
pub(super) use loss::loss;
pub(super) use normalization::{GroupNorm, group_norm, layer_norm};
pub(super) use resample::{average_pool2x, concat_channels, upsample_nearest2x};

use candle_core::{DType, Tensor};

/// Whether the kernels of this module apply: activations of one type, float32 or bfloat16, on a card (or emulated).
pub(super) fn applies(activations: &[&Tensor]) -> bool {
    let here = |t: &&Tensor| t.device().is_cuda() || (cfg!(feature = "emulate") && t.device().is_cpu());
    let dtype = activations[0].dtype();
    matches!(dtype, DType::F32 | DType::BF16) && activations.iter().all(|t| here(t) && t.dtype() == dtype)
}
