//! Memory, kernels and products on a card, through candle's own cudarc.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use candle_core::{
    CudaDevice, CudaStorage, DType, Result,
    backend::BackendStorage,
    cuda_backend::{
        CudaDType, CudaStorageSlice, WrapErr,
        cudarc::{
            cublas::{result::gemm_strided_batched_ex, sys as blas},
            driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg, SyncOnDrop, sys},
            nvrtc::{CompileOptions, compile_ptx_with_opts},
        },
        gemm_reduced_precision_f32,
    },
};
use half::bf16;

use super::{
    device::{Arg, Buffer, Launch, Memory, View, elsewhere},
    gemm::{ColumnMajor, Side},
    sources::{Source, element},
};

/// Uninitialised memory.
pub(super) fn alloc(device: &CudaDevice, dtype: DType, n: usize) -> Result<CudaStorage> {
    if dtype != DType::U32 {
        element(dtype)?;
    }
    // SAFETY: every element is written by a kernel or a library before it is read; both types may hold any bits.
    unsafe {
        Ok(match dtype {
            DType::BF16 => bf16::wrap_cuda_slice(device.alloc::<bf16>(n)?, device.clone()),
            DType::U32 => u32::wrap_cuda_slice(device.alloc::<u32>(n)?, device.clone()),
            _ => f32::wrap_cuda_slice(device.alloc::<f32>(n)?, device.clone()),
        })
    }
}

pub(super) fn len(storage: &CudaStorage) -> usize {
    match &storage.slice {
        CudaStorageSlice::F32(v) => v.len(),
        CudaStorageSlice::BF16(v) => v.len(),
        CudaStorageSlice::U32(v) => v.len(),
        _ => 0,
    }
}

pub(super) fn upload(device: &CudaDevice, words: &[u32]) -> Result<CudaStorage> {
    Ok(u32::wrap_cuda_slice(device.clone_htod(words)?, device.clone()))
}

pub(super) fn download(device: &CudaDevice, storage: &CudaStorage) -> Result<Vec<u32>> {
    device.clone_dtoh(u32::as_cuda_slice(storage)?)
}

/// An argument in the form that cudarc takes.
enum Held<'a> {
    F32(CudaView<'a, f32>),
    Bf16(CudaView<'a, bf16>),
    U32(CudaView<'a, u32>),
    F32Out(CudaViewMut<'a, f32>),
    Bf16Out(CudaViewMut<'a, bf16>),
    U32Out(CudaViewMut<'a, u32>),
    Null(u64),
    Int(i32),
    Long(i64),
    Word(u32),
    Float(f32),
}

impl<'a> Held<'a> {
    fn of(arg: &'a mut Arg<'_>) -> Result<Self> {
        Ok(match arg {
            Arg::In(view) => match slice(view)? {
                CudaStorageSlice::F32(v) => Self::F32(v.slice(view.offset..view.offset + view.len)),
                CudaStorageSlice::BF16(v) => Self::Bf16(v.slice(view.offset..view.offset + view.len)),
                CudaStorageSlice::U32(v) => Self::U32(v.slice(view.offset..view.offset + view.len)),
                _ => return Err(elsewhere()),
            },
            Arg::Out(buffer) => Self::out(buffer, 0)?,
            Arg::OutAt(buffer, first) => Self::out(buffer, *first)?,
            Arg::Null => Self::Null(0),
            Arg::Int(n) => Self::Int(*n as i32),
            Arg::Offset(n) => Self::Int(*n as i32),
            Arg::Long(n) => Self::Long(*n as i64),
            Arg::Word(n) => Self::Word(*n),
            Arg::Float(v) => Self::Float(*v),
        })
    }

    fn out(buffer: &'a mut Buffer, first: usize) -> Result<Self> {
        match buffer {
            Buffer::Nvidia(storage) => match &mut storage.slice {
                CudaStorageSlice::F32(v) => Ok(Self::F32Out(v.slice_mut(first..))),
                CudaStorageSlice::BF16(v) => Ok(Self::Bf16Out(v.slice_mut(first..))),
                CudaStorageSlice::U32(v) => Ok(Self::U32Out(v.slice_mut(first..))),
                _ => Err(elsewhere()),
            },
            #[cfg(feature = "emulate")]
            Buffer::Emulated(_) => Err(elsewhere()),
        }
    }
}

/// The memory that a view is of.
pub(super) fn slice<'a>(view: &View<'a>) -> Result<&'a CudaStorageSlice> {
    match view.memory {
        Memory::Nvidia(storage) => Ok(&storage.slice),
        #[cfg(feature = "emulate")]
        Memory::Emulated(_) => Err(elsewhere()),
    }
}

/// Launches a kernel on the device's stream.
pub(super) fn launch(device: &CudaDevice, launch: &Launch, args: &mut [Arg<'_>]) -> Result<()> {
    let ptx = compiled(device, launch.source, launch.dtype)?;
    let function = device.get_or_load_custom_func(launch.kernel, &launch.source.module(launch.dtype)?, &ptx)?;
    let mut held = args.iter_mut().map(Held::of).collect::<Result<Vec<_>>>()?;
    let mut builder = function.builder();
    for arg in &mut held {
        match arg {
            Held::F32(v) => builder.arg(&*v),
            Held::Bf16(v) => builder.arg(&*v),
            Held::U32(v) => builder.arg(&*v),
            Held::F32Out(v) => builder.arg(v),
            Held::Bf16Out(v) => builder.arg(v),
            Held::U32Out(v) => builder.arg(v),
            Held::Null(v) => builder.arg(&*v),
            Held::Int(v) => builder.arg(&*v),
            Held::Long(v) => builder.arg(&*v),
            Held::Word(v) => builder.arg(&*v),
            Held::Float(v) => builder.arg(&*v),
        };
    }
    let [x, y, z] = launch.grid.map(|v| v as u32);
    let config =
        LaunchConfig { grid_dim: (x, y, z), block_dim: (launch.block[0] as u32, launch.block[1] as u32, 1), shared_mem_bytes: 0 };
    // SAFETY: the operators hand each kernel the arguments that its source declares, which the tests of the emulation run; the
    // events that cudarc records keep memory alive until the kernel has ended.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// PTX by module and compute capability.
type Compiled = HashMap<(String, i32), Arc<str>>;

/// The source for this device, compiled at its first use in this process.
fn compiled(device: &CudaDevice, source: &Source, dtype: DType) -> Result<Arc<str>> {
    static ALL: OnceLock<Mutex<Compiled>> = OnceLock::new();
    use sys::CUdevice_attribute as attribute;
    let stream = device.cuda_stream();
    let version = |which| stream.context().attribute(which).w();
    let capability = 10 * version(attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?
        + version(attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let key = (source.module(dtype)?, capability);
    let mut all = ALL.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(ptx) = all.get(&key) {
        return Ok(ptx.clone());
    }
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{capability}")],
        name: Some(format!("{}.cu", key.0)),
        ..CompileOptions::default()
    };
    let ptx: Arc<str> = compile_ptx_with_opts(source.full_text(dtype)?, options).w()?.to_src().into();
    all.insert(key, ptx.clone());
    Ok(ptx)
}

fn operation(side: Side) -> blas::cublasOperation_t {
    match side.transposed {
        true => blas::cublasOperation_t::CUBLAS_OP_T,
        false => blas::cublasOperation_t::CUBLAS_OP_N,
    }
}

/// cuBLAS's name of an element type.
fn data_type(dtype: DType) -> blas::cudaDataType_t {
    match dtype {
        DType::BF16 => blas::cudaDataType_t::CUDA_R_16BF,
        _ => blas::cudaDataType_t::CUDA_R_32F,
    }
}

/// The address of a view's first element, and what keeps the memory in step with the stream.
pub(super) fn pointer<'a>(view: &View<'a>, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    let ((base, guard), size) = match slice(view)? {
        CudaStorageSlice::F32(v) => (v.device_ptr(stream), 4),
        CudaStorageSlice::BF16(v) => (v.device_ptr(stream), 2),
        _ => return Err(elsewhere()),
    };
    Ok((base + (size * view.offset) as u64, guard))
}

/// The same of memory that is written, from element `first` on.
pub(super) fn pointer_mut<'a>(
    storage: &'a mut CudaStorage,
    first: usize,
    stream: &'a CudaStream,
) -> Result<(u64, SyncOnDrop<'a>)> {
    let ((base, guard), size) = match &mut storage.slice {
        CudaStorageSlice::F32(v) => (v.device_ptr_mut(stream), 4),
        CudaStorageSlice::BF16(v) => (v.device_ptr_mut(stream), 2),
        _ => return Err(elsewhere()),
    };
    Ok((base + (size * first) as u64, guard))
}

/// The product through cuBLAS; a and b are those of the row-major product, of one type.
pub(super) fn gemm(
    device: &CudaDevice,
    gemm: &ColumnMajor,
    a: View<'_>,
    b: View<'_>,
    c: &mut CudaStorage,
    first: usize,
) -> Result<()> {
    let (stream, dtype, c_dtype) = (device.cuda_stream(), a.dtype(), c.dtype());
    if b.dtype() != dtype {
        candle_core::bail!("a product of {dtype:?} and {:?}", b.dtype());
    }
    let compute = match dtype == DType::F32 && gemm_reduced_precision_f32() {
        true => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        false => blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let ((x, _x), (y, _y), (c, _c)) = (pointer(&b, &stream)?, pointer(&a, &stream)?, pointer_mut(c, first, &stream)?);
    let [m, n, k] = gemm.size.map(|v| v as i32);
    // SAFETY: `Gemm::check` has held every size against the memory and against `int`; the memory lives as long as its guards.
    unsafe {
        gemm_strided_batched_ex(
            *device.cublas_handle().handle(),
            operation(gemm.first),
            operation(gemm.second),
            m,
            n,
            k,
            std::ptr::from_ref(&gemm.alpha).cast(),
            x as *const _,
            data_type(dtype),
            gemm.first.row as i32,
            gemm.first.matrix as i64,
            y as *const _,
            data_type(dtype),
            gemm.second.row as i32,
            gemm.second.matrix as i64,
            std::ptr::from_ref(&gemm.beta).cast(),
            c as *mut _,
            data_type(c_dtype),
            gemm.c.row as i32,
            gemm.c.matrix as i64,
            gemm.batch as i32,
            compute,
            blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}
