//! Stages: where to cut the range of noise levels, from the optimal denoiser of a data set.
//!
//! - [`points`]: data sets that are read tile by tile;
//! - [`optimal`]: the optimal denoiser of a finite set (Zhang et al. 2024, Eq. 4);

pub mod optimal;
pub mod points;
mod product;

pub use optimal::{OptimalDenoiser, Queries, Shifts};
pub use points::{Bytes, Points, Rows, Summary};
