//! Multistage latent diffusion: noise schedules, stages, U-Nets, samplers, training.
//!
//! Sigma is the one noise coordinate: for a kernel `x_t = s_t (x0 + sigma_t eps)` it is what EDM calls sigma and exp(-lambda) of
//! DPM-Solver. A stage is an interval of sigma with a decoder of its own; stage 1 is nearest the data.
//!
//! - [`schedule`], [`grid`]: a schedule's own time to and from sigma; the noise levels that a sampler visits.
//! - [`stages`]: where to cut the range of sigma, from the data (Zhang, Lu et al. 2024).
//! - [`unet`]: one encoder and a decoder per stage; [`model`]: the network as a denoiser, with its classes and stages.
//! - [`denoiser`], [`guidance`], [`masked`]: the one contract, x0 from `x0 + sigma eps`, and what adapts to it.
//! - [`evaluation`]: FID, KID, precision and recall, and what they are measured from.
//! - [`import`]: models from published checkpoints.
//! - [`noise`], [`weighting`], [`training`]: which noise levels are learned, with what weight, and the training loop.
//! - [`sampler`], [`sampling`]: solvers as free functions; seeds and classes in, latents out.

pub mod denoiser;
mod error;
pub mod evaluation;
pub mod grid;
pub mod guidance;
pub mod import;
pub mod masked;
pub mod model;
pub mod noise;
pub mod sampler;
pub mod sampling;
pub mod schedule;
pub mod schedule_discrete;
pub mod schedule_posterior;
pub mod stages;
pub mod training;
pub mod unet;
pub mod weighting;

pub use error::{Error, Result};
