//! Stages: where to cut the range of noise levels, from the optimal denoiser of a data set.
//!
//! [`divide`] is the whole way from a data set to [`Stages`]. Its parts:
//!
//! - [`points`], [`latents`]: data sets that are read tile by tile;
//! - [`optimal`]: the optimal denoiser of a finite set (Zhang et al. 2024, Eq. 4);
//! - [`similarity`]: how alike it is at two noise levels (Eq. 5);
//! - [`algorithm1`]: the paper's three stages, with bootstrap intervals (Algorithm 1, Eqs. 6 and 7);
//! - [`partition`]: any number of stages by exact dynamic programming;
//! - [`baselines`]: divisions that do not look at the data; [`divide_by_gradients`]: one that looks at a trained network;
//! - [`widths`]: how wide each stage's decoder should be.

pub mod algorithm1;
pub mod baselines;
mod config;
mod divide;
mod file;
mod gradients;
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
mod gradients_tests;
#[cfg(test)]
mod tests;

pub use config::{Curves, DivideConfig, Division, EtaUnit, Matrix};
pub use divide::divide;
pub use file::{FORMAT_VERSION, Method, Parameters, Row, Stages};
pub use gradients::divide_by_gradients;
pub use latents::LatentPoints;
pub use optimal::{OptimalDenoiser, Queries, Shifts};
pub use points::{Bytes, FileBytes, Points, Rows, Summary};
