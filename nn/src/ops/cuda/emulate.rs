//! The kernels' sources as C++ on this machine, for tests without a card: compiled by `c++` at first use, loaded, and run thread by
//! thread. Products are written out as BLAS defines them. What this finds: wrong indices, sizes and arguments, missing
//! synchronisation, wrong formulas. What it does not: anything about cuBLAS, cuDNN, the driver, or speed.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

use candle_core::{CpuStorage, DType, Result};
use half::bf16;

use super::{
    device::{Arg, Buffer, Launch, Memory, View, elsewhere},
    gemm::ColumnMajor,
    sources::Source,
};

/// What surrounds memory that is handed to kernels, in elements.
const GUARD: usize = 64;

/// Memory full of what is not a number, so that an element that no kernel writes shows.
pub(super) fn alloc(dtype: DType, n: usize) -> Result<CpuStorage> {
    fn filled<T: Clone>(n: usize, value: T) -> Vec<T> {
        let mut all = vec![value; n + GUARD];
        all.truncate(n);
        all
    }
    match dtype {
        DType::F32 => Ok(CpuStorage::F32(filled(n, f32::NAN))),
        DType::BF16 => Ok(CpuStorage::BF16(filled(n, bf16::NAN))),
        DType::U32 => Ok(CpuStorage::U32(filled(n, u32::MAX))),
        other => candle_core::bail!("kernels know float32 and bfloat16, not {other:?}"),
    }
}

pub(super) fn len(storage: &CpuStorage) -> usize {
    match storage {
        CpuStorage::F32(v) => v.len(),
        CpuStorage::BF16(v) => v.len(),
        CpuStorage::U32(v) => v.len(),
        _ => 0,
    }
}

type LaunchFn = unsafe extern "C" fn(*const c_char, *const u32, *const u32, *mut *mut c_void) -> c_int;

pub(super) fn launch(launch: &Launch, args: &mut [Arg<'_>]) -> Result<()> {
    static LIBRARY: OnceLock<std::result::Result<LaunchFn, String>> = OnceLock::new();
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let run =
        LIBRARY.get_or_init(|| build().map_err(|e| e.to_string())).as_ref().map_err(|e| candle_core::Error::Msg(e.clone()))?;
    let mut values = args.iter_mut().map(value).collect::<Result<Vec<u64>>>()?;
    let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
    let grid = launch.grid.map(|v| v as u32);
    let block = launch.block.map(|v| v as u32);
    let name =
        CString::new(format!("{}::{}", launch.source.module(launch.dtype)?, launch.kernel)).map_err(candle_core::Error::wrap)?;
    // SAFETY: the library knows the kernel's parameters and reads as many pointers; each points to a value of at least their size.
    match unsafe { run(name.as_ptr(), grid.as_ptr(), block.as_ptr(), pointers.as_mut_ptr()) } {
        0 => args.iter_mut().try_for_each(check_guard),
        1 => candle_core::bail!("no kernel {name:?}"),
        _ => candle_core::bail!("kernel {name:?}: a block of {block:?} threads"),
    }
}

/// The bits of an argument in their place at the beginning of eight bytes (this machine's order).
fn value(arg: &mut Arg<'_>) -> Result<u64> {
    Ok(match arg {
        Arg::In(view) => pointer(view)? as u64,
        Arg::Out(Buffer::Emulated(CpuStorage::F32(v))) => v.as_mut_ptr() as u64,
        Arg::Out(Buffer::Emulated(CpuStorage::BF16(v))) => v.as_mut_ptr() as u64,
        Arg::Out(Buffer::Emulated(CpuStorage::U32(v))) => v.as_mut_ptr() as u64,
        Arg::OutAt(Buffer::Emulated(CpuStorage::F32(v)), first) => v[*first..].as_mut_ptr() as u64,
        Arg::OutAt(Buffer::Emulated(CpuStorage::BF16(v)), first) => v[*first..].as_mut_ptr() as u64,
        #[allow(unreachable_patterns)]
        Arg::Out(_) | Arg::OutAt(..) => return Err(elsewhere()),
        Arg::Null => 0,
        Arg::Offset(n) => *n as u64,
        Arg::Int(n) | Arg::Long(n) => *n as u64,
        Arg::Word(n) => u64::from(*n),
        Arg::Float(v) => u64::from(v.to_bits()),
    })
}

pub(super) fn pointer(view: &View<'_>) -> Result<*const u8> {
    match view.memory {
        Memory::Emulated(CpuStorage::F32(v)) => Ok(v[view.offset..view.offset + view.len].as_ptr().cast()),
        Memory::Emulated(CpuStorage::BF16(v)) => Ok(v[view.offset..view.offset + view.len].as_ptr().cast()),
        Memory::Emulated(CpuStorage::U32(v)) => Ok(v[view.offset..view.offset + view.len].as_ptr().cast()),
        _ => Err(elsewhere()),
    }
}

/// Whether anything was written behind the end.
fn check_guard(arg: &mut Arg<'_>) -> Result<()> {
    let intact = match arg {
        Arg::Out(Buffer::Emulated(CpuStorage::F32(v))) | Arg::OutAt(Buffer::Emulated(CpuStorage::F32(v)), _) => {
            v.spare_capacity_mut().iter().take(GUARD).all(|v| {
                // SAFETY: `alloc` has written these elements; truncation keeps them.
                unsafe { v.assume_init() }.is_nan()
            })
        }
        Arg::Out(Buffer::Emulated(CpuStorage::BF16(v))) | Arg::OutAt(Buffer::Emulated(CpuStorage::BF16(v)), _) => {
            v.spare_capacity_mut().iter().take(GUARD).all(|v| {
                // SAFETY: as above.
                unsafe { v.assume_init() }.is_nan()
            })
        }
        _ => true,
    };
    if intact { Ok(()) } else { candle_core::bail!("a kernel wrote behind the end of its memory") }
}

/// Compiles and loads the library. It stays loaded to the end of the process.
fn build() -> Result<LaunchFn> {
    let folder = tempfile::tempdir()?;
    let (source, library) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
    std::fs::write(&source, Source::emulation()?)?;
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let flags = std::env::var("STRATA_EMULATE_FLAGS").unwrap_or_default();
    let mut command = Command::new(&compiler);
    command
        .args(["-std=c++17", "-O1", "-g1", "-shared", "-fPIC", "-Wall", "-Wno-unused-function"])
        .args(flags.split_whitespace());
    let output = command.arg("-o").arg(&library).arg(&source).output()?;
    if !output.status.success() {
        candle_core::bail!("{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let path = CString::new(library.to_string_lossy().into_owned()).map_err(candle_core::Error::wrap)?;
    // SAFETY: a library that we have just compiled; its only initialiser fills a table. `emulation_launch` has this signature.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        if handle.is_null() {
            candle_core::bail!("{:?}", CStr::from_ptr(libc::dlerror()));
        }
        let symbol = libc::dlsym(handle, c"emulation_launch".as_ptr());
        if symbol.is_null() {
            candle_core::bail!("the emulation has no `emulation_launch`");
        }
        Ok(std::mem::transmute::<*mut c_void, LaunchFn>(symbol))
    }
}

/// The product as BLAS defines it, element by element.
pub(super) fn gemm(gemm: &ColumnMajor, a: View<'_>, b: View<'_>, c: &mut CpuStorage, first: usize) -> Result<()> {
    // What comes first to BLAS is the second of the row-major product.
    let (x, y) = (floats(b)?, floats(a)?);
    let [m, n, k] = gemm.size;
    // Rows of op(first) and columns of op(second), each contiguous.
    let line = |data: &[f32], side: super::gemm::Side, i: usize, j: usize, flip: bool| -> Vec<f32> {
        let at = |l: usize| if side.transposed == flip { j * side.row + l } else { l * side.row + j };
        (0..k).map(|l| data[i * side.matrix + at(l)]).collect()
    };
    for i in 0..gemm.batch {
        let rows: Vec<Vec<f32>> = (0..m).map(|row| line(&x, gemm.first, i, row, true)).collect();
        for column in 0..n {
            let other = line(&y, gemm.second, i, column, false);
            for (row, values) in rows.iter().enumerate() {
                let place = first + i * gemm.c.matrix + row + column * gemm.c.row;
                let product = gemm.alpha * dot(values, &other);
                let sum = |old: f32| if gemm.beta == 0.0 { product } else { product + gemm.beta * old };
                match c {
                    CpuStorage::F32(c) => c[place] = sum(c[place]),
                    CpuStorage::BF16(c) => c[place] = bf16::from_f32(sum(c[place].to_f32())),
                    _ => return Err(elsewhere()),
                }
            }
        }
    }
    Ok(())
}

/// In eight parts, so that the compiler can keep them in one register.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0.0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for j in 0..8 {
            parts[j] += a[j] * b[j];
        }
    }
    rest + parts.iter().sum::<f32>()
}

fn floats(view: View<'_>) -> Result<Vec<f32>> {
    let range = view.offset..view.offset + view.len;
    match view.memory {
        Memory::Emulated(CpuStorage::F32(v)) => Ok(v[range].to_vec()),
        Memory::Emulated(CpuStorage::BF16(v)) => Ok(v[range].iter().map(|v| v.to_f32()).collect()),
        _ => Err(elsewhere()),
    }
}
