//! What the kernels run on: a CUDA card, or (feature `emulate`, for tests) the same sources compiled as C++ on this machine.

#[cfg(feature = "emulate")]
use candle_core::CpuStorage;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{DType, Layout, Result, Storage};

#[cfg(feature = "emulate")]
use super::emulate;
#[cfg(feature = "cuda")]
use super::nvidia;
use super::{gemm::Gemm, sources::Source};

/// Threads of a one-dimensional block: `BLOCK` of the sources.
pub(super) const BLOCK: usize = 256;
/// Blocks that suffice to fill any card; kernels over elements walk on from there. Emulated, a block is dear.
const MANY_BLOCKS: usize = if cfg!(feature = "emulate") { 3 } else { 1 << 16 };
/// Sides of a two-dimensional block: `COLUMNS` and `LANES` of the sources.
pub(super) const TILE: [usize; 2] = [32, 8];

/// A device that runs kernels.
#[derive(Clone, Debug)]
pub(super) enum Card {
    /// A card.
    #[cfg(feature = "cuda")]
    Nvidia(candle_core::CudaDevice),
    /// This machine.
    #[cfg(feature = "emulate")]
    Emulated,
}

/// Memory of a device that is owned.
#[derive(Debug)]
pub(super) enum Buffer {
    #[cfg(feature = "cuda")]
    Nvidia(CudaStorage),
    #[cfg(feature = "emulate")]
    Emulated(CpuStorage),
}

/// Contiguous elements that are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub memory: Memory<'a>,
    pub offset: usize,
    pub len: usize,
}

/// Where a view lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Memory<'a> {
    #[cfg(feature = "cuda")]
    Nvidia(&'a CudaStorage),
    #[cfg(feature = "emulate")]
    Emulated(&'a CpuStorage),
}

/// An argument of a kernel, as its source declares it.
#[derive(Debug)]
pub(super) enum Arg<'a> {
    /// A pointer to elements that are read.
    In(View<'a>),
    /// A pointer to elements that are written.
    Out(&'a mut Buffer),
    /// The same from an element on.
    OutAt(&'a mut Buffer, usize),
    /// No pointer.
    Null,
    /// `int`.
    Int(usize),
    /// `int`, perhaps below zero.
    Offset(isize),
    /// `long long`.
    Long(usize),
    /// `unsigned int`.
    Word(u32),
    /// `float`.
    Float(f32),
}

/// A kernel and how many threads of it: `T` of the source is `dtype`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub source: &'static Source,
    pub dtype: DType,
    pub kernel: &'static str,
    pub grid: [usize; 3],
    pub block: [usize; 2],
}

impl Launch {
    /// A kernel over `n` elements.
    pub fn each(source: &'static Source, dtype: DType, kernel: &'static str, n: usize) -> Self {
        Self::blocks(source, dtype, kernel, [n.div_ceil(BLOCK).clamp(1, MANY_BLOCKS), 1])
    }

    /// One-dimensional blocks.
    pub fn blocks(source: &'static Source, dtype: DType, kernel: &'static str, [x, y]: [usize; 2]) -> Self {
        Self { source, dtype, kernel, grid: [x, y, 1], block: [BLOCK, 1] }
    }

    /// Blocks over the columns and chunks of rows of `samples` matrices.
    pub fn columns(source: &'static Source, dtype: DType, kernel: &'static str, [width, chunks, samples]: [usize; 3]) -> Self {
        Self { source, dtype, kernel, grid: [width.div_ceil(TILE[0]), chunks, samples], block: TILE }
    }
}

impl Card {
    /// Uninitialised memory.
    pub fn alloc(&self, dtype: DType, n: usize) -> Result<Buffer> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Nvidia(device) => nvidia::alloc(device, dtype, n).map(Buffer::Nvidia),
            #[cfg(feature = "emulate")]
            Self::Emulated => emulate::alloc(dtype, n).map(Buffer::Emulated),
        }
    }

    /// Words that kernels read.
    pub fn upload(&self, words: &[u32]) -> Result<Buffer> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Nvidia(device) => nvidia::upload(device, words).map(Buffer::Nvidia),
            #[cfg(feature = "emulate")]
            Self::Emulated => Ok(Buffer::Emulated(CpuStorage::U32(words.to_vec()))),
        }
    }

    /// Words that kernels have written. Waits for them.
    pub fn download(&self, buffer: &Buffer) -> Result<Vec<u32>> {
        match (self, buffer) {
            #[cfg(feature = "cuda")]
            (Self::Nvidia(device), Buffer::Nvidia(storage)) => nvidia::download(device, storage),
            #[cfg(feature = "emulate")]
            (Self::Emulated, Buffer::Emulated(storage)) => Ok(storage.as_slice::<u32>()?.to_vec()),
            #[cfg(all(feature = "cuda", feature = "emulate"))]
            _ => Err(elsewhere()),
        }
    }

    /// Runs a kernel. Its source decides what is read and written; the caller answers for the sizes.
    pub fn launch(&self, launch: Launch, mut args: Vec<Arg<'_>>) -> Result<()> {
        fits(&launch, &args)?;
        match self {
            #[cfg(feature = "cuda")]
            Self::Nvidia(device) => nvidia::launch(device, &launch, &mut args),
            #[cfg(feature = "emulate")]
            Self::Emulated => emulate::launch(&launch, &mut args),
        }
    }

    /// c, from element `first` on, becomes `alpha a b + beta c`.
    pub fn gemm(&self, gemm: &Gemm, a: View<'_>, b: View<'_>, c: &mut Buffer, first: usize) -> Result<()> {
        gemm.check(a.len, b.len, c.len() - first)?;
        match (self, c) {
            #[cfg(feature = "cuda")]
            (Self::Nvidia(device), Buffer::Nvidia(c)) => nvidia::gemm(device, &gemm.column_major(), a, b, c, first),
            #[cfg(feature = "emulate")]
            (Self::Emulated, Buffer::Emulated(c)) => emulate::gemm(&gemm.column_major(), a, b, c, first),
            #[cfg(all(feature = "cuda", feature = "emulate"))]
            _ => Err(elsewhere()),
        }
    }
}

/// The limits of a grid, and whole numbers that `int` holds.
fn fits(launch: &Launch, args: &[Arg<'_>]) -> Result<()> {
    let [x, y, z] = launch.grid;
    let large = |arg: &Arg<'_>| match arg {
        Arg::Int(n) => i32::try_from(*n).is_err(),
        Arg::Offset(n) => i32::try_from(*n).is_err(),
        _ => false,
    };
    if x > i32::MAX as usize || y > 65535 || z > 65535 || args.iter().any(large) {
        candle_core::bail!("{}: arguments too large for one launch: grid {:?}", launch.kernel, launch.grid);
    }
    Ok(())
}

/// Memory of another device than the kernel's.
pub(super) fn elsewhere() -> candle_core::Error {
    candle_core::Error::Msg("a kernel was handed memory of another device".into()).bt()
}

impl Buffer {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.view().len
    }

    /// All of it.
    pub fn view(&self) -> View<'_> {
        let memory = match self {
            #[cfg(feature = "cuda")]
            Self::Nvidia(storage) => Memory::Nvidia(storage),
            #[cfg(feature = "emulate")]
            Self::Emulated(storage) => Memory::Emulated(storage),
        };
        View { memory, offset: 0, len: memory.len() }
    }

    /// As candle's storage.
    pub fn into_storage(self) -> Storage {
        match self {
            #[cfg(feature = "cuda")]
            Self::Nvidia(storage) => Storage::Cuda(storage),
            #[cfg(feature = "emulate")]
            Self::Emulated(storage) => Storage::Cpu(storage),
        }
    }
}

impl Memory<'_> {
    fn len(&self) -> usize {
        match self {
            #[cfg(feature = "cuda")]
            Self::Nvidia(storage) => nvidia::len(storage),
            #[cfg(feature = "emulate")]
            Self::Emulated(storage) => emulate::len(storage),
        }
    }
}

impl<'a> View<'a> {
    /// The elements of a contiguous tensor.
    pub fn of(storage: &'a Storage, layout: &Layout) -> Result<Self> {
        match storage {
            #[cfg(feature = "cuda")]
            Storage::Cuda(storage) => Self::contiguous(Memory::Nvidia(storage), layout),
            #[cfg(feature = "emulate")]
            Storage::Cpu(storage) => Self::contiguous(Memory::Emulated(storage), layout),
            _ => Err(elsewhere()),
        }
    }

    /// The elements of a contiguous layout.
    pub fn contiguous(memory: Memory<'a>, layout: &Layout) -> Result<Self> {
        match layout.contiguous_offsets() {
            Some((start, end)) => Ok(Self { memory, offset: start, len: end - start }),
            None => Err(candle_core::Error::RequiresContiguous { op: "strata-nn kernel" }.bt()),
        }
    }

    /// `len` elements from `first` on.
    pub fn part(self, first: usize, len: usize) -> Self {
        Self { offset: self.offset + first, len, ..self }
    }

    /// The address of the first element, for a table of addresses.
    pub fn address(&self) -> Result<u64> {
        match self.memory {
            #[cfg(feature = "cuda")]
            Memory::Nvidia(storage) => Ok(nvidia::pointer(self, &storage.device.cuda_stream())?.0),
            #[cfg(feature = "emulate")]
            Memory::Emulated(_) => Ok(emulate::pointer(self)? as u64),
        }
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        use candle_core::backend::BackendStorage;
        match self.memory {
            #[cfg(feature = "cuda")]
            Memory::Nvidia(storage) => storage.dtype(),
            #[cfg(feature = "emulate")]
            Memory::Emulated(storage) => storage.dtype(),
        }
    }

    /// The device.
    pub fn card(&self) -> Card {
        match self.memory {
            #[cfg(feature = "cuda")]
            Memory::Nvidia(storage) => Card::Nvidia(storage.device.clone()),
            #[cfg(feature = "emulate")]
            Memory::Emulated(_) => Card::Emulated,
        }
    }
}
