//! Loops of other crates, compiled for the widest vectors of the machine.

pub use crate::ops::vectors::{Loop, widest};
