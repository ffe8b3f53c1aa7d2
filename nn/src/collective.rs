//! Sums over the cards of several processes, one card each, through NCCL (feature `nccl`).

use candle_core::{Device, Tensor};

use crate::Result;

/// What names the card of `device` everywhere, as processes on other machines see it; nothing for a processor, or in a build without NCCL.
///
/// # Errors
/// As the driver's.
pub fn card(device: &Device) -> Result<Option<Vec<u8>>> {
    Ok(engine::card(device)?)
}

/// The cards of several processes, seen from one of them.
#[derive(Debug)]
pub struct Cards(engine::Cards);

impl Cards {
    /// What all processes of a group must be told before they [`join`](Self::join): one of them asks for it.
    ///
    /// # Errors
    /// A build without NCCL; as NCCL's.
    pub fn group() -> Result<Vec<u8>> {
        Ok(engine::group()?)
    }

    /// Waits until all `count` processes have come, each with its own rank and its own card.
    ///
    /// # Errors
    /// A device that is no card, another group's bytes, a build without NCCL; as NCCL's.
    pub fn join(device: &Device, [rank, count]: [usize; 2], group: &[u8]) -> Result<Self> {
        Ok(Self(engine::Cards::join(device, [rank, count], group)?))
    }

    /// The sums over all processes, which hand in tensors of the same shapes in the same order, contiguous float32 on their cards. The
    /// sums are the same bits on every card.
    ///
    /// # Errors
    /// Other tensors; as NCCL's.
    pub fn sum(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        Ok(self.0.sum(tensors)?)
    }
}

#[cfg(feature = "nccl")]
use crate::ops::nccl as engine;

/// A build without NCCL: there are no groups.
#[cfg(not(feature = "nccl"))]
mod engine {
    use candle_core::{Device, Result, Tensor};

    #[derive(Debug)]
    pub enum Cards {}

    pub fn card(_: &Device) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    pub fn group() -> Result<Vec<u8>> {
        candle_core::bail!("sums over cards need a build with `--features nccl`")
    }

    impl Cards {
        pub fn join(_: &Device, _: [usize; 2], _: &[u8]) -> Result<Self> {
            group().and_then(|_| candle_core::bail!("no group"))
        }

        pub fn sum(&self, _: &[Tensor]) -> Result<Vec<Tensor>> {
            match *self {}
        }
    }
}
