//! Kinds of the area `features`: feature network and image resizing cases.

use anyhow::{Result, bail};

use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    bail!("`{}` is no kind of the area features", case.kind)
}
