//! Sums of latents by channel, for the scale that normalises them.

use serde::{Deserialize, Serialize};

use super::manifest::{LatentKind, LatentManifest};

/// Sums over the latents of a shard as it stores them. They are added up in the order of the shards, so that the scale
/// does not depend on who wrote which shard, or when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    n: f64,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Sums {
    pub(super) fn of(moments: &[f32], manifest: &LatentManifest) -> Self {
        let channels = manifest.channels;
        let mut sums = Self { n: 0.0, first: vec![0.0; channels], second: vec![0.0; channels] };
        moments.chunks_exact(manifest.item_len()).for_each(|item| sums.item(item, manifest));
        sums
    }

    /// E z^2 of a posterior is mean^2 + variance.
    fn item(&mut self, item: &[f32], manifest: &LatentManifest) {
        let area = manifest.height * manifest.width;
        let (means, log_variances) = item.split_at(manifest.channels * area);
        for (c, plane) in means.chunks_exact(area).enumerate() {
            for (k, &mean) in plane.iter().enumerate() {
                let variance = match manifest.kind {
                    LatentKind::Moments => f64::from(log_variances[c * area + k].clamp(-30.0, 20.0)).exp(),
                    LatentKind::Continuous => 0.0,
                };
                self.first[c] += f64::from(mean);
                self.second[c] += f64::from(mean) * f64::from(mean) + variance;
            }
        }
        self.n += area as f64;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.n += other.n;
        self.first.resize(other.first.len(), 0.0);
        self.second.resize(other.second.len(), 0.0);
        for (sum, more) in self.first.iter_mut().zip(&other.first).chain(self.second.iter_mut().zip(&other.second)) {
            *sum += more;
        }
    }

    pub(super) fn mean(&self) -> Vec<f32> {
        self.first.iter().map(|s| (s / self.n) as f32).collect()
    }

    /// 1 / standard deviation; 1 for a channel that is constant.
    pub(super) fn inverse_deviation(&self) -> Vec<f32> {
        let variance = |(s, q): (&f64, &f64)| q / self.n - (s / self.n).powi(2);
        let inverse = |v: f64| if v > 1e-12 { v.sqrt().recip() as f32 } else { 1.0 };
        self.first.iter().zip(&self.second).map(|sq| inverse(variance(sq))).collect()
    }
}
