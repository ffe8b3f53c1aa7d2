//! Sums over the cards of several processes.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CudaStorage, DType, Device, Result, Tensor,
    cuda_backend::{
        CudaStorageSlice, WrapErr,
        cudarc::nccl::{Comm, Id, ReduceOp, group_end, group_start, result::NcclError},
    },
};

use super::{
    device::{Buffer, View, elsewhere},
    nvidia,
    operator::{Held, into_tensor},
};

/// The bytes that name a group.
const ID: usize = 128;

/// See [`crate::collective::Cards`].
#[derive(Debug)]
pub(crate) struct Cards(Mutex<Communicator>);

#[derive(Debug)]
struct Communicator(Comm);

// SAFETY: NCCL lets any thread use a communicator as long as one at a time does; the lock sees to that.
unsafe impl Send for Communicator {}

/// NCCL's reason in words.
fn failed(what: &str, NcclError(code): NcclError) -> candle_core::Error {
    candle_core::Error::Msg(format!("NCCL, {what}: {code:?}; with NCCL_DEBUG=WARN in the environment it says more")).bt()
}

pub(crate) fn card(device: &Device) -> Result<Option<Vec<u8>>> {
    let Device::Cuda(device) = device else { return Ok(None) };
    let uuid = device.cuda_stream().context().uuid().w()?;
    Ok(Some(uuid.bytes.iter().map(|byte| byte.to_ne_bytes()[0]).collect()))
}

pub(crate) fn group() -> Result<Vec<u8>> {
    let id = Id::new().map_err(|e| failed("making a group", e))?;
    Ok(id.internal().iter().map(|byte| byte.to_ne_bytes()[0]).collect())
}

impl Cards {
    pub fn join(device: &Device, [rank, count]: [usize; 2], group: &[u8]) -> Result<Self> {
        let Ok(bytes) = <[u8; ID]>::try_from(group) else {
            candle_core::bail!("NCCL: expected {ID} bytes that name a group, got {}", group.len())
        };
        let stream = device.as_cuda_device()?.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let id = Id::uninit(bytes.map(|byte| std::ffi::c_char::from_ne_bytes([byte])));
        let comm = Comm::from_rank(stream, rank, count, id).map_err(|e| failed("joining a group", e))?;
        Ok(Self(Mutex::new(Communicator(comm))))
    }

    pub fn sum(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let held: Vec<Held<'_>> = tensors.iter().map(Held::of).collect();
        let views = held.iter().map(Held::view).collect::<Result<Vec<_>>>()?;
        let mut sums = views.iter().map(|view| view.card().alloc(DType::F32, view.len)).collect::<Result<Vec<_>>>()?;
        let comm = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        group_start().map_err(|e| failed("beginning a sum", e))?;
        let queued = views.iter().zip(&mut sums).try_for_each(|(from, to)| queue(&comm.0, from, to));
        // Also after a failure: what was begun must end.
        let begun = group_end().map_err(|e| failed("summing", e));
        queued.and(begun.map(|_| ()))?;
        drop(views);
        drop(held);
        sums.into_iter().zip(tensors).map(|(sum, like)| into_tensor(sum, like)).collect()
    }
}

fn queue(comm: &Comm, from: &View<'_>, to: &mut Buffer) -> Result<()> {
    let Buffer::Nvidia(CudaStorage { slice: CudaStorageSlice::F32(to), .. }) = to else { return Err(elsewhere()) };
    let CudaStorageSlice::F32(slice) = nvidia::slice(from)? else { return Err(elsewhere()) };
    let from = slice.slice(from.offset..from.offset + from.len);
    comm.all_reduce(&from, to, &ReduceOp::Sum).map_err(|e| failed("summing", e))?;
    Ok(())
}
