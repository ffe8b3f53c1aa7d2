//! Operators and layers with their own forward and backward, on CPU and CUDA; parameters; weight files.
//!
//! Candle gives tensors, memory, the graph and safetensors; this crate owns the training-grade operators.
//!
//! - [`backward()`]: the backward pass.
//! - [`checkpoint`]: weight files of any origin, read without executing anything.
//! - [`collective`]: sums over the cards of several processes.
//! - [`ops`]: free functions over tensors, channels last: `[B, H, W, C]`. Each is differentiable in every tensor argument.
//! - [`layers`]: parameters plus an operator (`Conv2d`, `Linear`, `GroupNorm`, ...).
//! - [`memory`]: settings of the allocator and of threads that programs make once.
//! - [`multi_tensor`]: the optimizer's arithmetic over all parameters at once, on a card.
//! - [`params`]: the registry of parameters, in order of creation, with seeded initialisers by name.
//! - [`precision`]: the type of the activations inside networks.
//! - [`random`]: noise as a function of its coordinates (seed, purpose, step, index).
//! - [`recompute`]: parts of a network whose activations are computed anew in the backward pass instead of being kept.
//! - [`vectors`]: loops compiled for the widest vectors of the machine.
//! - [`weights`]: safetensors files with metadata, written beside their place and renamed.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use strata_nn::{layers::Conv2d, params::ParamStore};
//!
//! let store = ParamStore::new(0, &Device::Cpu);
//! let conv = Conv2d::new(&store.root().pp("conv_in"), 3, 8, 3)?;
//! let x = Tensor::zeros((1, 5, 7, 3), DType::F32, &Device::Cpu)?;
//! assert_eq!(conv.forward(&x)?.dims(), [1, 5, 7, 8]);
//! # Ok::<(), strata_nn::Error>(())
//! ```

mod backward;
pub mod checkpoint;
pub mod collective;
mod error;
mod graph;
pub mod layers;
pub mod memory;
pub mod multi_tensor;
pub mod ops;
pub mod params;
pub mod precision;
pub mod random;
pub mod recompute;
pub mod vectors;
pub mod weights;

pub use backward::backward;
pub use error::{Error, Result};
