//! Multistage latent diffusion: noise schedules, stages, U-Nets, samplers, training.
//!
//! Sigma is the one noise coordinate: for a kernel `x_t = s_t (x0 + sigma_t eps)` it is what EDM calls sigma and exp(-lambda) of
//! DPM-Solver. A stage is an interval of sigma with a decoder of its own; stage 1 is nearest the data.

mod error;
pub mod schedule_discrete;
pub mod schedule;
pub mod sampler;
pub mod guidance;
pub mod grid;
pub mod denoiser;
pub mod unet;
pub mod stages;

pub use error::{Error, Result};
