//! Views of CPU tensors as slices.

use candle_core::{CpuStorage, DType, Layout, Storage, Tensor, WithDType};

use crate::{Error, Result};

/// The floating-point types of parameters.
pub(crate) trait Real: WithDType + Copy + Send + Sync {
    fn from_double(v: f64) -> Self;
    fn to_double(self) -> f64;
    fn root(self) -> Self;
    fn larger(self, other: Self) -> Self;
    fn slice_mut(storage: &mut CpuStorage) -> candle_core::Result<&mut [Self]>;
}

macro_rules! real {
    ($type:ty, $variant:ident) => {
        impl Real for $type {
            fn from_double(v: f64) -> Self {
                v as $type
            }
            fn to_double(self) -> f64 {
                f64::from(self)
            }
            fn root(self) -> Self {
                self.sqrt()
            }
            fn larger(self, other: Self) -> Self {
                if other > self { other } else { self }
            }
            fn slice_mut(storage: &mut CpuStorage) -> candle_core::Result<&mut [Self]> {
                match storage {
                    CpuStorage::$variant(v) => Ok(v),
                    _ => candle_core::bail!(concat!("expected ", stringify!($type), " storage")),
                }
            }
        }
    };
}
real!(f32, F32);
real!(f64, F64);

/// The elements of a contiguous layout within `data`.
pub(crate) fn window<'a, T>(data: &'a [T], layout: &Layout) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => candle_core::bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

/// The elements of a contiguous layout within `data`, to be written.
pub(crate) fn window_mut<'a, T>(data: &'a mut [T], layout: &Layout) -> candle_core::Result<&'a mut [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut data[start..end]),
        None => candle_core::bail!("expected a contiguous tensor, got {layout:?}"),
    }
}

/// Calls `f` with the elements of a contiguous CPU tensor.
pub(crate) fn with_slice<T: Real, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(window(cpu.as_slice::<T>()?, layout)?)),
        _ => Err(Error::Config("expected a tensor on the CPU".to_string())),
    }
}

/// Whether the fast path over slices applies: float32 or float64 on the CPU.
pub(crate) fn on_host(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::F64)
}
