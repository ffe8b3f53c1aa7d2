//! How alike two pictures look: LPIPS with its networks, and a fallback that needs no weights.
//!
//! [`Lpips`] is the learned distance; its backbone's weights come from a file. [`laplacian_distance`] takes its place in training
//! where they are not at hand.

mod backbone;
mod laplacian;
mod lpips;

pub use backbone::LpipsNet;
pub use laplacian::laplacian_distance;
pub use lpips::{LayerDistances, Lpips};
