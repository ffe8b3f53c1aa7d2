//! Sums of gradients over all ranks: through main memory at rank 0, or from card to card.

use std::collections::HashSet;

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use strata_nn::collective::{self, Cards};

use super::Peers;
use crate::{Error, Result};

/// Whether every rank has a card, and no two the same.
fn own_cards(cards: &[Vec<u8>]) -> bool {
    let distinct: HashSet<&[u8]> = cards.iter().map(Vec::as_slice).filter(|card| !card.is_empty()).collect();
    !cards.is_empty() && distinct.len() == cards.len()
}

impl Peers {
    /// Lets gradients be summed from card to card where every rank has one of its own and the program has NCCL; elsewhere they go on
    /// passing through main memory. Every rank calls it.
    ///
    /// # Errors
    /// [`Error::Peers`] if a rank has ended; NCCL's.
    pub fn join_cards(&mut self, device: &Device) -> Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        let cards = self.gather(collective::card(device)?.unwrap_or_default())?;
        let group = if own_cards(&cards) { Cards::group()? } else { Vec::new() };
        let group = self.broadcast(group)?;
        if !group.is_empty() {
            self.cards = Some(Cards::join(device, [self.ranks.rank, self.ranks.count], &group)?);
        }
        Ok(())
    }

    /// Whether gradients are summed from card to card.
    pub fn has_cards(&self) -> bool {
        self.cards.is_some()
    }

    /// Replaces the gradients of `parameters`, float32, by their sums over all ranks; one that no rank has stays absent. `others`
    /// are summed on the way.
    ///
    /// # Errors
    /// [`Error::Peers`] if a rank has ended; NCCL's.
    pub fn sum_gradients(&self, grads: &mut GradStore, parameters: &[Var], others: &mut [f32]) -> Result<()> {
        if self.links.is_empty() {
            return Ok(());
        }
        // How many ranks have a gradient of each parameter, then the others.
        let mut known: Vec<f32> = parameters.iter().map(|p| if grads.get(p).is_some() { 1.0 } else { 0.0 }).collect();
        known.extend_from_slice(others);
        self.sum(&mut known)?;
        let (counts, sums) = known.split_at(parameters.len());
        others.copy_from_slice(sums);
        let present: Vec<&Var> = parameters.iter().zip(counts).filter(|(_, n)| **n > 0.0).map(|(p, _)| p).collect();
        let own = |p: &&Var| grads.get(p).map_or_else(|| p.zeros_like(), Tensor::contiguous);
        let own = present.iter().map(own).collect::<candle_core::Result<Vec<_>>>()?;
        let sums = match &self.cards {
            Some(cards) => cards.sum(&own)?,
            None => self.sum_tensors(&own)?,
        };
        for (p, sum) in present.into_iter().zip(sums) {
            grads.insert(p, sum);
        }
        Ok(())
    }

    /// Through main memory.
    fn sum_tensors(&self, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut values = Vec::with_capacity(tensors.iter().map(Tensor::elem_count).sum());
        for t in tensors {
            values.extend(t.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?);
        }
        self.sum(&mut values)?;
        let mut rest = values.as_slice();
        let mut sums = Vec::with_capacity(tensors.len());
        for t in tensors {
            let (own, after) = rest.split_at_checked(t.elem_count()).ok_or_else(|| Error::Peers("a sum is too short".into()))?;
            sums.push(Tensor::from_slice(own, t.shape(), &Device::Cpu)?.to_device(t.device())?);
            rest = after;
        }
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use super::own_cards;

    #[test]
    fn two_ranks_on_one_card_do_not_join() {
        let cards = |names: &[&str]| own_cards(&names.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>());
        assert!(cards(&["a", "b", "c"]));
        assert!(!cards(&["a", "b", "a"]) && !cards(&["a", ""]) && !cards(&["", ""]) && !cards(&[]));
    }
}
