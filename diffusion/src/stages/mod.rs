//! Stages: where to cut the range of noise levels, from the optimal denoiser of a data set.
//!
//! [`divide`] is the whole way from a data set to [`Stages`]. Its parts:
//!
//! - [`points`], [`latents`]: data sets that are read tile by tile;
//! - [`optimal`]: the optimal denoiser of a finite set (Zhang et al. 2024, Eq. 4);
//! - [`similarity`]: how alike it is at two noise levels (Eq. 5);
//! - [`algorithm1`]: the paper's three stages, with bootstrap intervals (Algorithm 1, Eqs. 6 and 7);
//! - [`partition`]: any number of stages by exact dynamic programming;
//! - [`baselines`]: divisions that do not look at the data;
//! - [`widths`]: how wide each stage's decoder should be.

pub mod algorithm1;
pub mod baselines;
mod config;
mod divide;
mod file;
pub mod latents;
pub mod optimal;
mod pairs;
pub mod partition;
pub mod points;
mod product;
pub mod similarity;
mod sweep;
mod sweep_tensor;
pub mod widths;

#[cfg(test)]
mod tests;

pub use config::{Curves, DivideConfig, Division, EtaUnit, Matrix};
pub use divide::{divide, divide_by_affinity};
pub use file::{FORMAT_VERSION, Method, Parameters, Row, Stages};
pub use latents::LatentPoints;
pub use optimal::{OptimalDenoiser, Queries, Shifts};
pub use points::{Bytes, Points, Rows, Summary};
