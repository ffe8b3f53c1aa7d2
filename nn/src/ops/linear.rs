//! The affine map.

use candle_core::Tensor;

use crate::{Error, Result};

/// `x Wᵀ + b`. x: `[..., n_in]`, weight: `[n_out, n_in]`, bias: `[n_out]`; answers `[..., n_out]`.
///
/// # Errors
/// If the shapes do not agree.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let &[n_out, n_in] = weight.dims() else {
        return Err(Error::argument("linear", "weight", "[n_out, n_in]", weight.dims()));
    };
    if x.dims().last() != Some(&n_in) {
        return Err(Error::argument("linear", "x", format!("[..., {n_in}]"), x.dims()));
    }
    if let Some(b) = bias.filter(|b| b.dims() != [n_out]) {
        return Err(Error::argument("linear", "bias", format!("[{n_out}]"), b.dims()));
    }
    let mut dims = x.dims().to_vec();
    let y = x.reshape(((), n_in))?.matmul(&weight.t()?)?;
    let y = bias.map_or(Ok(y.clone()), |b| y.broadcast_add(b))?;
    if let Some(last) = dims.last_mut() {
        *last = n_out;
    }
    Ok(y.reshape(dims)?)
}
