//! A set of pictures that several processes have divided among them, put together at the first of them.

use serde::{Deserialize, Serialize};
use strata_training::Peers;

use super::{Features, collect::Collected, moments::Moments};
use crate::{Error, Result};

/// What is not a moment, of one process.
#[derive(Serialize, Deserialize)]
struct Head {
    /// Widths of the features, and of the spatial ones.
    dims: [usize; 2],
    sizes: Vec<((usize, usize), u64)>,
    flat: u64,
    bad: Vec<(String, String)>,
}

/// What all processes have seen, in the order of their ranks, at rank 0; `None` at the others. Features and logits of single
/// pictures stay where they are.
///
/// # Errors
/// If a process has ended, or describes pictures by other features.
pub fn gather(seen: Collected, peers: &Peers) -> Result<Option<Collected>> {
    if peers.ranks().count == 1 {
        return Ok(Some(seen));
    }
    let parts = peers.gather(message(&seen)?)?;
    let mut all: Option<Collected> = None;
    for (rank, part) in parts.iter().enumerate() {
        let part = understood(part).ok_or_else(|| Error::Config(format!("rank {rank}: its statistics cannot be read")))?;
        match &mut all {
            Some(all) => join(all, part)?,
            None => all = Some(part),
        }
    }
    Ok(all)
}

/// The length of the head (eight bytes), the head as JSON, the moments as float64; all little-endian.
fn message(seen: &Collected) -> Result<Vec<u8>> {
    let moments = seen.moments.to_numbers();
    let spatial = seen.spatial.as_ref().map(Moments::to_numbers).unwrap_or_default();
    let head = Head {
        dims: [seen.moments.dim(), seen.spatial.as_ref().map_or(0, Moments::dim)],
        sizes: seen.sizes.iter().map(|(size, n)| (*size, *n)).collect(),
        flat: seen.flat,
        bad: seen.bad.clone(),
    };
    let head = serde_json::to_vec(&head).map_err(|e| Error::Config(format!("statistics to share: {e}")))?;
    let mut bytes = (head.len() as u64).to_le_bytes().to_vec();
    bytes.extend(head);
    bytes.extend(moments.iter().chain(&spatial).flat_map(|v| v.to_le_bytes()));
    Ok(bytes)
}

fn understood(bytes: &[u8]) -> Option<Collected> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (head, numbers) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let numbers: Vec<f64> = numbers.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
    let (moments, spatial) = numbers.split_at_checked(Moments::numbers(head.dims[0]))?;
    let [dim, spatial_dim] = head.dims;
    Some(Collected {
        moments: Moments::from_numbers(dim, moments)?,
        spatial: if spatial_dim > 0 { Some(Moments::from_numbers(spatial_dim, spatial)?) } else { None },
        features: Features::new(dim),
        logits: Vec::new(),
        sizes: head.sizes.into_iter().collect(),
        flat: head.flat,
        bad: head.bad,
    })
}

fn join(all: &mut Collected, part: Collected) -> Result<()> {
    all.moments.merge(&part.moments)?;
    if let (Some(all), Some(part)) = (&mut all.spatial, &part.spatial) {
        all.merge(part)?;
    }
    for (size, n) in part.sizes {
        *all.sizes.entry(size).or_default() += n;
    }
    all.flat += part.flat;
    all.bad.extend(part.bad);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_all() {
        let rows: Vec<f32> = (0..15).map(|i| (i * i % 7) as f32).collect();
        let seen = Collected {
            moments: Moments::of(3, &rows).unwrap(),
            spatial: Some(Moments::of(5, &rows).unwrap()),
            features: Features::new(3),
            logits: Vec::new(),
            sizes: [((3, 4), 5)].into(),
            flat: 1,
            bad: vec![("a.png".into(), "cut off".into())],
        };
        let bytes = message(&seen).unwrap();
        let back = understood(&bytes).unwrap();
        assert_eq!(back.moments.statistics().unwrap(), seen.moments.statistics().unwrap());
        assert_eq!(back.spatial.unwrap().statistics().unwrap(), seen.spatial.as_ref().unwrap().statistics().unwrap());
        assert_eq!((back.sizes, back.flat, back.bad), (seen.sizes, seen.flat, seen.bad));
        assert!((0..bytes.len()).all(|n| understood(&bytes[..n]).is_none()));
    }
}
