//! The type of the activations inside networks. Parameters, moments and averages are float32 whatever it is.
//!
//! A network takes and answers float32: it calls [`enter`] where its activations begin and [`leave`] where they end, and the
//! operators in between follow the type of their activations. The type is a setting of the whole program, made once before
//! its networks run, as `--dtype` does.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Tensor};

use crate::{Error, Result};

static NARROW: AtomicBool = AtomicBool::new(false);

/// Sets the type: float32 (the beginning) or bfloat16.
///
/// # Errors
/// Any other type.
pub fn set_activations(dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::BF16 => NARROW.store(dtype == DType::BF16, Ordering::Relaxed),
        other => return Err(Error::argument("set_activations", "dtype", "F32 or BF16", other)),
    }
    Ok(())
}

/// The type that networks compute in.
pub fn activations() -> DType {
    if NARROW.load(Ordering::Relaxed) { DType::BF16 } else { DType::F32 }
}

/// A network's float32 input in the type of its activations; any other stays as it is.
pub fn enter(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F32 { Ok(x.to_dtype(activations())?) } else { Ok(x.clone()) }
}

/// A network's answer: float32, if it came in so.
pub fn leave(y: &Tensor) -> Result<Tensor> {
    if y.dtype() == DType::BF16 { Ok(y.to_dtype(DType::F32)?) } else { Ok(y.clone()) }
}
