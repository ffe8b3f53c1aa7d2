//! Plots: curves over a linear or logarithmic axis, and matrices as colours. Drawn into memory with a font of our own.

mod axis;
pub mod canvas;
mod heat;
mod line;

pub use heat::HeatMap;
pub use line::{Curve, LinePlot};
