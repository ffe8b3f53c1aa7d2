//! Operators over tensors, channels last: activations are `[B, H, W, C]`, contiguous.
//!
//! Every operator is differentiable in every tensor argument, also when a tensor is used twice. On the CPU in float32 the
//! hot ones run kernels of their own, on CUDA cards in float32 and bfloat16 too (parameters are float32 either way); any other
//! device or dtype takes the same formula composed of candle's operators.

/// Returns what the card's kernel answers if there is one for these activations; nothing in a build without.
macro_rules! on_card {
    ([$($x:expr),+] => $call:expr) => {
        #[cfg(any(feature = "cuda", feature = "emulate"))]
        if cuda::applies(&[$($x),+]) {
            return $call;
        }
    };
}

mod activation;
mod attention;
mod composed;
mod convolution;
mod cpu;
pub(crate) use cpu::simd as vectors;
#[cfg(any(feature = "cuda", feature = "emulate"))]
mod cuda;
mod dropout;
mod embedding;
mod fir;
mod fourier;
mod linear;
mod loss;
mod normalization;
mod pool;
mod precision;
mod resample;
mod split;

#[cfg(feature = "nccl")]
pub(crate) use cuda::nccl;
#[cfg(any(feature = "cuda", feature = "emulate"))]
pub(crate) use cuda::optimizer;

pub use activation::{geglu, gelu, gelu_tanh, leaky_relu, relu, silu};
pub use attention::{attention, biased_attention};
pub use convolution::{Conv2dConfig, Padding, conv2d};
pub use dropout::dropout;
pub use embedding::sinusoidal_embedding;
pub use fir::{FirConfig, fir_resample};
pub use fourier::fourier_embedding;
pub use linear::linear;
pub use loss::{huber_loss, l1_loss, mse_loss};
pub use normalization::{Activation, group_norm, layer_norm};
pub use pool::{PoolConfig, max_pool2d};
pub use resample::{average_pool2x, concat_channels, upsample_nearest2x};
pub use split::split_rows;

use candle_core::Tensor;

use crate::{Error, Result};

fn not_empty(op: &'static str, argument: &'static str, x: &Tensor) -> Result<()> {
    match x.elem_count() {
        0 => Err(Error::argument(op, argument, "no empty dimension", x.dims())),
        _ => Ok(()),
    }
}
