//! Orders that are functions of their coordinates, and the split into training and held-out pictures.

use sha2::{Digest, Sha256};

use crate::{dataset::Dataset, latents::LatentSet};

/// An infinite seeded order of `n` items: epoch after epoch, each a permutation of its own. The item at a position is a
/// function of (n, seed, position), so a run resumes anywhere, and rank r of w takes the positions r, r + w, ...
///
/// A permutation is a Feistel network over the smallest even number of bits that holds n, walked until it falls below n
/// (Black and Rogaway 2002): no table, whatever n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    n: u64,
    seed: u64,
    half_bits: u32,
}

const ROUNDS: u64 = 6;

impl Order {
    /// The order of `n` items under `seed`. Nothing is drawn from an empty set: `n` of 0 counts as 1.
    pub fn new(n: usize, seed: u64) -> Self {
        let n = (n as u64).max(1);
        let bits = (64 - (n - 1).leading_zeros()).max(2);
        Self { n, seed, half_bits: bits.div_ceil(2) }
    }

    /// The item at `position`; the epoch is `position / n`.
    pub fn at(&self, position: u64) -> usize {
        let epoch_key = mix(self.seed ^ mix(position / self.n));
        let mut item = position % self.n;
        loop {
            item = self.shuffle(item, epoch_key);
            if item < self.n {
                return item as usize;
            }
        }
    }

    fn shuffle(&self, item: u64, key: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (item >> self.half_bits, item & mask);
        for round in 0..ROUNDS {
            let f = mix(right ^ mix(key.wrapping_add(round))) & mask;
            (left, right) = (right, left ^ f);
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64, after its increment.
pub(crate) fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Indices for training and indices never trained on, both ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// For training.
    pub train: Vec<usize>,
    /// For measuring.
    pub held_out: Vec<usize>,
}

/// Splits by the hash of each item's key: an item stays on its side when others come or go, and items of one key stay together. About
/// `held_out_share` (0 to 1) of the items are held out. Where a share above 0 hits none or all of two or more keys, the lowest or highest
/// hash changes sides, so that both sides can be used.
pub fn split(dataset: &Dataset, held_out_share: f64) -> Split {
    let places: Vec<f64> = (0..dataset.len()).map(|i| dataset.key(i).map_or(1.0, |key| place(&key))).collect();
    split_places(&places, held_out_share)
}

/// [`split`] of latents: a mirrored one is on the side of its original.
pub fn split_latents(latents: &LatentSet, held_out_share: f64) -> Split {
    let places: Vec<f64> = (0..latents.len()).map(|i| latents.key(i).map_or(1.0, place)).collect();
    split_places(&places, held_out_share)
}

fn split_places(places: &[f64], held_out_share: f64) -> Split {
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    places.iter().for_each(|place| (least, most) = (least.min(*place), most.max(*place)));
    let both = least < most && held_out_share > 0.0 && held_out_share < 1.0;
    let is_held_out = |place: f64| match both {
        true => place < most && (place < held_out_share || place == least),
        false => place < held_out_share,
    };
    let (held_out, train) = (0..places.len()).partition(|&i| is_held_out(places[i]));
    Split { train, held_out }
}

/// Where a key falls in [0, 1).
fn place(key: &str) -> f64 {
    (key_bits(key) >> 11) as f64 / (1u64 << 53) as f64
}

/// 64 random bits that are a function of a key.
pub(crate) fn key_bits(key: &str) -> u64 {
    Sha256::digest(key.as_bytes()).iter().take(8).fold(0u64, |n, &b| n << 8 | u64::from(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DatasetOptions, Result};

    #[test]
    fn every_epoch_is_a_permutation() {
        for n in [1usize, 2, 3, 5, 16, 17, 1000, 4097] {
            let order = Order::new(n, 7);
            for epoch in 0..3u64 {
                let mut seen: Vec<usize> = (0..n as u64).map(|i| order.at(epoch * n as u64 + i)).collect();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..n), "{n}, epoch {epoch}");
            }
        }
    }

    #[test]
    fn seeds_and_epochs_differ_and_positions_are_spread() {
        let take = |seed, start: u64| (0..100).map(|i| Order::new(1000, seed).at(start + i)).collect::<Vec<_>>();
        assert_eq!(take(1, 0), take(1, 0));
        assert_ne!(take(1, 0), take(2, 0));
        assert_ne!(take(1, 0), take(1, 1000));
        // Each item falls on each tenth of the epoch about equally often.
        let mut tenths = [0usize; 10];
        for seed in 0..2000 {
            let order = Order::new(100, seed);
            let at = (0..100).position(|p| order.at(p) == 0).unwrap_or(0);
            tenths[at / 10] += 1;
        }
        assert!(tenths.iter().all(|&n| (140..260).contains(&n)), "{tenths:?}");
    }

    #[test]
    fn ten_million_positions_need_no_table() {
        let order = Order::new(10_000_000, 3);
        let first: Vec<usize> = (0..1000).map(|p| order.at(p)).collect();
        assert!(first.iter().all(|&i| i < 10_000_000) && first.windows(2).any(|w| w[0] > w[1]));
    }

    #[test]
    fn a_split_is_stable_and_about_as_large_as_asked() -> Result<()> {
        let few = Dataset::open("emoji", &DatasetOptions::default())?;
        let all = Dataset::open("emoji", &DatasetOptions { include_flags: true, ..DatasetOptions::default() })?;
        let (a, b) = (split(&few, 0.1), split(&all, 0.1));
        assert_eq!(a.train.len() + a.held_out.len(), few.len());
        assert!((120..210).contains(&a.held_out.len()), "{}", a.held_out.len());
        let keys = |d: &Dataset, s: &[usize]| s.iter().map(|&i| d.key(i)).collect::<Result<std::collections::HashSet<_>>>();
        assert!(keys(&few, &a.held_out)?.is_subset(&keys(&all, &b.held_out)?));
        let tiny = split(&few, 1e-9);
        assert_eq!(tiny.held_out.len(), 1);
        assert!(split(&few, 0.0).held_out.is_empty());
        Ok(())
    }

    #[test]
    fn what_has_one_key_stays_together() {
        let sides = |places: &[f64], share: f64| {
            let split = split_places(places, share);
            (split.train, split.held_out)
        };
        assert_eq!(sides(&[0.7, 0.7, 0.4, 0.4], 0.1), (vec![0, 1], vec![2, 3]));
        assert_eq!(sides(&[0.7, 0.7, 0.4, 0.4], 0.9), (vec![0, 1], vec![2, 3]));
        assert_eq!(sides(&[0.4, 0.4], 0.1), (vec![0, 1], vec![]));
        assert_eq!(sides(&[0.7, 0.4], 0.0), (vec![0, 1], vec![]));
    }
}
