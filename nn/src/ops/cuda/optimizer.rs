//! Adam, its average and the gradients' norm over all tensors in one launch each.

use std::sync::Mutex;

use candle_core::{CpuStorage, CudaStorage, DType, InplaceOp1, Layout, Result, Tensor};

use super::{
    device::{Arg, BLOCK, Buffer, Card, Launch},
    operator::Held,
    sources::OPTIMIZER,
};
use crate::multi_tensor::{AdamTensor, AdamWith};

/// Elements of one block: `CHUNK` of the source.
const CHUNK: usize = 16384;

/// `Entry` of the source.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// p, g, m, v, peak, average; 0 is none.
    addresses: [u64; 6],
    n: usize,
    /// step_size, root_correction2, shrink, l2.
    rates: [f32; 4],
}

/// The entries as the kernel reads them, and the number of blocks.
fn table(entries: &[Entry]) -> (Vec<u32>, usize) {
    let (mut words, mut blocks) = (Vec::with_capacity(entries.len() * 20), 0);
    for e in entries {
        for long in e.addresses.into_iter().chain([e.n as u64, blocks as u64]) {
            words.extend([long as u32, (long >> 32) as u32]);
        }
        words.extend(e.rates.map(f32::to_bits));
        blocks += e.n.div_ceil(CHUNK);
    }
    (words, blocks)
}

/// The address of a tensor that a kernel writes. Taken while the tensor is borrowed for writing; the caller keeps it until the kernel
/// is on the stream and touches it in no other way before.
fn address_mut(t: &Tensor) -> Result<u64> {
    let address = Address(Mutex::new(0));
    t.inplace_op1(&address)?;
    Ok(address.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

struct Address(Mutex<u64>);

impl Address {
    fn set(&self, first: u64, layout: &Layout) -> Result<()> {
        let Some((start, _)) = layout.contiguous_offsets() else {
            return Err(candle_core::Error::RequiresContiguous { op: "optimizer" }.bt());
        };
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = first + 4 * start as u64;
        Ok(())
    }
}

impl InplaceOp1 for Address {
    fn name(&self) -> &'static str {
        "address"
    }

    #[cfg(feature = "emulate")]
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match storage {
            CpuStorage::F32(v) => self.set(v.as_mut_ptr() as u64, layout),
            _ => Err(super::device::elsewhere()),
        }
    }

    #[cfg(not(feature = "emulate"))]
    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        Err(super::device::elsewhere())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let stream = storage.device.cuda_stream();
        let (first, _guard) = super::nvidia::pointer_mut(storage, 0, &stream)?;
        self.set(first, layout)
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda_fwd(&self, _: &mut CudaStorage, _: &Layout) -> Result<()> {
        Err(super::device::elsewhere())
    }
}

fn launch(card: &Card, kernel: &'static str, entries: &[Entry], sums: bool, rest: Vec<Arg<'_>>) -> Result<Option<Buffer>> {
    let (words, blocks) = table(entries);
    let table = card.upload(&words)?;
    let mut partial = sums.then(|| card.alloc(DType::U32, 2 * blocks)).transpose()?;
    let mut args = vec![Arg::In(table.view()), Arg::Int(entries.len())];
    args.extend(partial.as_mut().map(Arg::Out));
    args.extend(rest);
    let launch = Launch { grid: [blocks, 1, 1], block: [BLOCK, 1], ..Launch::each(&OPTIMIZER, DType::F32, kernel, 1) };
    card.launch(launch, args)?;
    Ok(partial)
}

fn replaced(replace: Option<[f32; 3]>) -> Vec<Arg<'static>> {
    let [nan, posinf, neginf] = replace.unwrap_or_default();
    vec![Arg::Int(usize::from(replace.is_some())), Arg::Float(nan), Arg::Float(posinf), Arg::Float(neginf)]
}

/// One step of every tensor.
pub(crate) fn adam(tensors: &[AdamTensor<'_>], with: &AdamWith) -> Result<()> {
    let gradients: Vec<Held<'_>> = tensors.iter().map(|t| Held::of(t.gradient)).collect();
    let mut entries = Vec::with_capacity(tensors.len());
    for (t, gradient) in tensors.iter().zip(&gradients) {
        let optional = |t: Option<&Tensor>| t.map_or(Ok(0), address_mut);
        let gradient = gradient.view()?.address()?;
        let addresses = [
            address_mut(t.parameter)?,
            gradient,
            address_mut(t.mean)?,
            address_mut(t.square)?,
            optional(t.peak)?,
            optional(t.average)?,
        ];
        entries.push(Entry { addresses, n: t.parameter.elem_count(), rates: [t.step_size, t.root_correction2, t.shrink, t.l2] });
    }
    let Some(first) = gradients.first() else { return Ok(()) };
    let numbers = [with.beta1, with.one_minus_beta1, with.beta2, with.one_minus_beta2, with.eps, with.clip];
    let mut rest: Vec<Arg<'_>> = numbers.map(Arg::Float).into();
    rest.extend(replaced(with.replace));
    rest.extend([Arg::Float(with.decay), Arg::Float(with.weight)]);
    launch(&first.view()?.card(), "adam", &entries, false, rest).map(|_| ())
}

/// average ← decay average + weight parameter, for each pair (average, parameter).
pub(crate) fn blend(pairs: &[(&Tensor, &Tensor)], decay: f32, weight: f32) -> Result<()> {
    let parameters: Vec<Held<'_>> = pairs.iter().map(|(_, p)| Held::of(p)).collect();
    let mut entries = Vec::with_capacity(pairs.len());
    for ((average, _), parameter) in pairs.iter().zip(&parameters) {
        let addresses = [parameter.view()?.address()?, 0, 0, 0, 0, address_mut(average)?];
        entries.push(Entry { addresses, n: average.elem_count(), ..Entry::default() });
    }
    let Some(first) = parameters.first() else { return Ok(()) };
    launch(&first.view()?.card(), "blend", &entries, false, vec![Arg::Float(decay), Arg::Float(weight)]).map(|_| ())
}

/// The sum of the squares of all elements, in float64.
pub(crate) fn squares(gradients: &[Tensor], replace: Option<[f32; 3]>) -> Result<f64> {
    let held: Vec<Held<'_>> = gradients.iter().map(Held::of).collect();
    let mut entries = Vec::with_capacity(held.len());
    for gradient in &held {
        let view = gradient.view()?;
        entries.push(Entry { addresses: [0, view.address()?, 0, 0, 0, 0], n: view.len, ..Entry::default() });
    }
    let Some(first) = held.first() else { return Ok(0.0) };
    let card = first.view()?.card();
    let sums = launch(&card, "squares", &entries, true, replaced(replace))?.ok_or_else(super::device::elsewhere)?;
    let words = card.download(&sums)?;
    Ok(words.chunks_exact(2).map(|w| f64::from_bits(u64::from(w[0]) | (u64::from(w[1]) << 32))).sum())
}
